"""`lede adapt`."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

from typer import BadParameter, Option

from lede.adapt.config import OWN_TEXT, AdaptConfig, ExitsConfig
from lede.commands.from_config import Given, flag, from_config
from lede.commands.options import JsonOption
from lede.errors import said_plainly
from lede.paths import EMBEDDED


@said_plainly
@from_config
def adapt(
    *,
    out: Annotated[Path, Option(help="The folder of the training and, at its end, of the model.")],
    model: Annotated[
        str | None,
        Option("--model", "-m", help="A Llama checkpoint. [dim]Default: a new model; with --exits lede-tiny[/]"),
    ] = None,
    text: Annotated[
        Path | None,
        Option(
            help="A text file, or a folder of them; for exit heads also prompts, one JSON object a line (.jsonl). "
            "[dim]Default: Python's standard library[/]"
        ),
    ] = None,
    settings: Annotated[Given, AdaptConfig, ExitsConfig],
    as_json: JsonOption = False,
) -> None:
    """Train a Llama whose early layers can draft (LayerSkip), a new one or a checkpoint; or exit heads for one.

    Stop it whenever you like: the same command goes on from the last checkpoint.

    [dim]lede adapt --out models/mine --minutes 66[/]
    [dim]lede adapt --model meta-llama/Llama-3.2-1B --text books/ --out models/skipping --steps 2000[/]
    [dim]lede adapt --model smollm2 --exits 4,8 --text prompts.jsonl --out exits/smollm2 --minutes 60[/]
    """
    from lede.commands.loading import check_model, checkpoint
    from lede.tables import grid
    from lede.terminal import bar, console, errors, print_json, say, warn

    heads = "exits" in settings  # alone are trained
    taken = {one.name for one in fields(ExitsConfig if heads else AdaptConfig)}
    others = fields(AdaptConfig if heads else ExitsConfig)
    if wrong := [flag(one) for one in others if one.name in settings.keys() - taken]:
        raise BadParameter(f"{', '.join(wrong)}: not {'with' if heads else 'without'} --exits")
    if text is not None and not text.exists():
        raise BadParameter(f"--text {text} is not there: give a text file, or a folder of them")
    if heads:
        model = model or EMBEDDED
        settings["exits"] = _exits(settings["exits"], check_model(model))
        if text is not None and text.suffix == ".jsonl":
            settings.setdefault("own_text", OWN_TEXT)
    model = model and checkpoint(model)
    with errors.status("loading torch"):
        from lede.adapt.exits import train_exits
        from lede.adapt.run import adapt as run
    with ExitStack() as shown:
        bars: dict[str, Callable[[int, str], None]] = {}

        def show(stage: str, share: float, note: str) -> None:
            if stage not in bars:
                shown.close()
                bars[stage] = shown.enter_context(bar(stage, 1000, quiet=as_json))
            bars[stage](round(share * 1000), note)

        if model is not None and heads:
            report: Any = train_exits(model, text, out, ExitsConfig(**settings), show)
        else:
            config = AdaptConfig.defaults(model, **settings)
            report = run(text, out, config, lambda p: show("training", p.share(config), str(p)))
    if heads and report.cut:
        warn(f"--disk has room for the states of {report.tokens:,} tokens: the rest of the text was left out")
    if as_json:
        print_json(asdict(report))
        return
    if heads:
        table = grid("agreement with the model on its own greedy output", "layer", "held-out prompts")
        for layer, share in report.agreement.items():
            table.add_row(str(layer), f"{share:.1%}")
        covered = f"{report.vocabulary:,} tokens can be drafted, {report.coverage:.2%} of what the model writes"
        last = f"heads in {out}; {covered}"
    else:
        table = grid("agreement with the last layer", "layer", "held-out text", "own greedy output")
        for layer, shares in enumerate(zip(report.on_text, report.on_output, strict=True), 1):
            table.add_row(str(layer), *(f"{share:.1%}" for share in shares))
        last = f"model in {out}; next: lede collect --model {quote(str(out))}"
    console.print(table)
    say(last)


def _exits(given: tuple[int, ...], folder: Path | None) -> tuple[int, ...]:
    """The layers of --exits, which the model in a folder must have below its last."""
    if folder is not None and folder.is_dir():
        from lede.decode.config import folder_config

        last = folder_config(folder).num_hidden_layers - 1
        if not all(0 < layer <= last for layer in given):
            named = ",".join(map(str, given))
            raise BadParameter(f"--exits {named}: give layers from 1 to {last}, the last but one of {folder.name}")
    return tuple(sorted(set(given)))
