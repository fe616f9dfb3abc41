"""`lede calibrate`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lede.commands.options import DeviceOption, DtypeOption, JsonOption, ModelOption, ThreadsOption
from lede.errors import said_plainly

if TYPE_CHECKING:
    from rich.table import Table

    from lede.simulate.calibration import Calibration

SHOWN_ROWS = (2, 5, 9, 13, 20, 32)  # of the tables by rows


@said_plainly
def calibrate(
    model: ModelOption = None,
    out: Annotated[
        Path | None,
        typer.Option(help="The file to write. [dim]Default: data/<model name>.calibration.json, beside the dataset[/]"),
    ] = None,
    plot: Annotated[Path | None, typer.Option(help="Also draw the costs, into this PNG.")] = None,
    seconds: Annotated[float, typer.Option(min=0.0, help="How long to measure; more is steadier.")] = 8.0,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    threads: ThreadsOption = 0,
    json: JsonOption = False,
) -> None:
    """Measure what decoding costs on this device: a layer and the head by rows, a state, a decision, a round, a prompt.

    `lede collect` measures the same for each run; this is to look at it, and to have it for another device.

    [dim]lede calibrate --plot calibration.png[/]
    [dim]lede calibrate --model facebook/layerskip-llama2-7B --device cuda --out h100.json[/]
    """
    from lede.commands.loading import load
    from lede.paths import calibration_path
    from lede.replay.pictures import check_format
    from lede.terminal import bar, console, print_json, say

    if plot is not None:
        check_format(plot)
    out = out or calibration_path(model)
    if out.is_dir():
        raise typer.BadParameter(f"--out {out} is a folder: name a file in it")
    loaded = load(model, dtype, device, threads)

    from lede.simulate.calibration import calibrate as run
    from lede.simulate.calibration import save_calibration

    with bar("measuring", 100, quiet=json) as advance:
        calibration = run(loaded, seconds, lambda share: advance(round(share * 100), ""))
    save_calibration(out, calibration)
    if plot is not None:
        from lede.simulate.plot_costs import plot_calibration

        plot_calibration(calibration, plot)
    if json:
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
    say(f"written to {out}" + (f", drawn in {plot}" if plot is not None else ""))


def calibration_table(calibration: "Calibration") -> "Table":
    """Milliseconds of each operation, and how many layers of plain decoding they are."""
    from rich.table import Table

    costs, table = calibration.costs, Table()
    table.add_column("operation")
    table.add_column("ms", justify="right")
    table.add_column("layers", justify="right")
    unit = costs.first()
    for name, value in {
        "a token of plain decoding": costs.plain(),
        "layer, 1 row, after all others": costs.first(),
        "layer, 1 row, right after itself": costs.again(),
        **{f"layer, {rows} rows": costs.layer[rows - 1] for rows in SHOWN_ROWS},
        "head of a draft": costs.head[0],
        **{f"head of a verification, {rows} rows": costs.head[rows - 1] for rows in SHOWN_ROWS},
        "features of a state": costs.features,
        "decision": costs.decision,
        "lookup": costs.lookup,
        "round, whatever it does": costs.round,
        "round, for its lookup index": costs.index,
        "round, for its traces": costs.trace,
        "layer, for 100 more positions, 1 row": costs.further(1, costs.context + 100),
        "a token of a prompt": costs.prefill,
    }.items():
        table.add_row(name, f"{value:.4f}", f"{value / unit:.2f}" if unit else "–")
    return table
