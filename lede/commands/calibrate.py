"""`lede calibrate`."""

from pathlib import Path
from typing import Annotated

from typer import BadParameter, Option

from lede.commands.from_config import from_config
from lede.commands.options import JsonOption, ModelOption, Runtime
from lede.errors import said_plainly


@said_plainly
@from_config
def calibrate(
    *,
    model: ModelOption = None,
    out: Annotated[
        Path | None,
        Option(help="The file to write. [dim]Default: data/<model name>.calibration.json, beside the dataset[/]"),
    ] = None,
    seconds: Annotated[float, Option(min=0.0, help="How long to measure; more is steadier.")] = 8.0,
    runtime: Runtime,
    as_json: JsonOption = False,
) -> None:
    """Measure what decoding costs on this device: a layer and the head by rows, a state, a decision, a round, a prompt.

    `lede collect` measures the same for each run; this is to look at it, and to have it for another device.

    [dim]lede calibrate[/]
    [dim]lede calibrate --model facebook/layerskip-llama2-7B --device cuda --out h100.json[/]
    """
    from lede.commands.loading import load, usual_vocabulary
    from lede.paths import calibration_path, dataset_path
    from lede.tables import calibration_table
    from lede.terminal import bar, console, print_json, say

    out = out or calibration_path(model)
    if out.is_dir():
        raise BadParameter(f"--out {out} is a folder: name a file in it")
    loaded = load(model, runtime, usual_vocabulary(dataset_path(model)))

    from lede.simulate.calibration import calibrate as run
    from lede.simulate.calibration import save_calibration

    with bar("measuring", 100, quiet=as_json) as advance:
        calibration = run(loaded, seconds, lambda share: advance(round(share * 100), ""))
    save_calibration(out, calibration)
    if as_json:
        print_json(calibration.to_json())
        return
    facts, context = calibration.device, calibration.costs.context
    say(
        f"{calibration.model['name']} · {calibration.dtype} · {facts['name']}, {facts['threads']} threads · "
        f"{context} positions cached"
    )
    console.print(calibration_table(calibration))
    if calibration.costs.doubt:
        say(calibration.costs.doubt, "yellow")
    say(f"written to {out}")
