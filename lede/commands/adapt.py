"""`lede adapt`."""

from dataclasses import asdict, fields
from pathlib import Path
from typing import Annotated

import typer

from lede.commands.options import JsonOption
from lede.errors import said_plainly


@said_plainly
def adapt(
    out: Annotated[Path, typer.Option(help="The folder of the training and, at its end, of the model.")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="A Llama checkpoint to go on from. [dim]Default: a new small model[/]"),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="A text file, or a folder of them. [dim]Default: Python's standard library[/]")
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps.")] = None,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Train by the clock instead of by steps.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Windows per step.")] = None,
    context: Annotated[
        int | None, typer.Option(min=8, help="Tokens per window; a new model's longest context.")
    ] = None,
    layers: Annotated[int | None, typer.Option(min=2, help="Of a new model.")] = None,
    hidden: Annotated[int | None, typer.Option(min=8, help="Of a new model.")] = None,
    feed_forward: Annotated[int | None, typer.Option(min=8, help="Of a new model.")] = None,
    heads: Annotated[int | None, typer.Option(min=1, help="Of a new model.")] = None,
    vocabulary: Annotated[int | None, typer.Option(min=258, help="Of a new model.")] = None,
    matrix_lr: Annotated[float | None, typer.Option(min=0.0, help="Muon's rate, for the layers' matrices.")] = None,
    other_lr: Annotated[float | None, typer.Option(min=0.0, help="AdamW's rate, for everything else.")] = None,
    seed: Annotated[int | None, typer.Option(min=0)] = None,
    json: JsonOption = False,
) -> None:
    """Train a Llama whose early layers can draft (LayerSkip): a new small one, or any checkpoint on any text.

    Stop it whenever you like: the same command goes on from the last checkpoint.

    [dim]lede adapt --out models/mine --minutes 66[/]
    [dim]lede adapt --model meta-llama/Llama-3.2-1B --text books/ --out models/skipping --steps 2000[/]
    """
    given = locals()
    from lede.commands.loading import check_model, checkpoint
    from lede.tables import grid
    from lede.terminal import bar, console, errors, print_json, say

    if model is not None:
        check_model(model)
    if text is not None and not text.exists():
        raise typer.BadParameter(f"--text {text} is not there: give a text file, or a folder of them")
    model = model and checkpoint(model)
    with errors.status("loading torch"):
        from lede.adapt.config import AdaptConfig
        from lede.adapt.run import adapt as run
        from lede.adapt.train import Progress
    config = AdaptConfig.defaults(
        model, **{f.name: given[f.name] for f in fields(AdaptConfig) if given.get(f.name) is not None}
    )
    with bar("training", 1000, quiet=json) as advance:

        def show(p: Progress) -> None:
            speed = p.tokens / max(p.seconds, 1e-9)
            advance(round(p.share(config) * 1000), f"step {p.step:,}  loss {p.loss:.3f}  {speed:.0f} tokens/s")

        report = run(model, text, out, config, on_progress=show)
    if json:
        print_json(asdict(report))
        return
    table = grid("agreement with the last layer", "layer", "held-out text", "own greedy output")
    for layer, shares in enumerate(zip(report.on_text, report.on_output, strict=True), 1):
        table.add_row(str(layer), *(f"{share:.1%}" for share in shares))
    console.print(table)
    say(f"model in {out}; next: lede collect --model {out}")
