"""`lede adapt`."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, fields
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

from typer import BadParameter, Option

from lede.commands.options import JsonOption, parse_layers
from lede.errors import said_plainly

WHOLE_MODEL = ("layers", "hidden", "feed_forward", "heads", "vocabulary", "matrix_lr")  # options without --exits
HEADS = ("own_text", "draft_vocabulary", "disk")  # options with it
OWN_TEXT = 300_000  # tokens, where prompts are given, which are no text to learn from


@said_plainly
def adapt(
    out: Annotated[Path, Option(help="The folder of the training and, at its end, of the model.")],
    model: Annotated[
        str | None,
        Option("--model", "-m", help="A Llama checkpoint. [dim]Default: a new model; with --exits lede-tiny[/]"),
    ] = None,
    exits: Annotated[str | None, Option(help="Train only exit heads, for these layers, as 4,8,12.")] = None,
    text: Annotated[
        Path | None,
        Option(
            help="A text file, or a folder of them; for exit heads also prompts, one JSON object a line (.jsonl). "
            "[dim]Default: Python's standard library[/]"
        ),
    ] = None,
    own_text: Annotated[
        int | None,
        Option(
            min=0,
            help="Tokens that the model writes itself, going on from the prompts or texts, for exit heads to learn "
            f"from. [dim]Default: {OWN_TEXT:,} with prompts, else 0[/]",
        ),
    ] = None,
    draft_vocabulary: Annotated[
        int | None,
        Option(
            "--draft-vocab", min=0, help="Exit heads speak the N most frequent tokens; 0: all. [dim]Default: 4096[/]"
        ),
    ] = None,
    disk: Annotated[float | None, Option(min=0.0, help="GB of exit heads' hidden states. [dim]Default: 8[/]")] = None,
    steps: Annotated[int | None, Option(min=1, help="Training steps.")] = None,
    minutes: Annotated[float | None, Option(min=0.01, help="Train by the clock instead of by steps.")] = None,
    batch: Annotated[int | None, Option(min=1, help="Windows per step.")] = None,
    context: Annotated[int | None, Option(min=8, help="Tokens per window; a new model's longest context.")] = None,
    layers: Annotated[int | None, Option(min=2, help="Of a new model.")] = None,
    hidden: Annotated[int | None, Option(min=8, help="Of a new model.")] = None,
    feed_forward: Annotated[int | None, Option(min=8, help="Of a new model.")] = None,
    heads: Annotated[int | None, Option(min=1, help="Of a new model.")] = None,
    vocabulary: Annotated[int | None, Option(min=258, help="Of a new model.")] = None,
    matrix_lr: Annotated[float | None, Option(min=0.0, help="Muon's rate, for the layers' matrices.")] = None,
    other_lr: Annotated[float | None, Option(min=0.0, help="AdamW's rate, for everything else.")] = None,
    seed: Annotated[int | None, Option(min=0)] = None,
    json: JsonOption = False,
) -> None:
    """Train a Llama whose early layers can draft (LayerSkip), a new one or a checkpoint; or exit heads for one.

    Stop it whenever you like: the same command goes on from the last checkpoint.

    [dim]lede adapt --out models/mine --minutes 66[/]
    [dim]lede adapt --model meta-llama/Llama-3.2-1B --text books/ --out models/skipping --steps 2000[/]
    [dim]lede adapt --model smollm2 --exits 4,8 --text prompts.jsonl --out exits/smollm2 --minutes 60[/]
    """
    given = locals()
    from lede.commands.loading import check_model, checkpoint
    from lede.paths import EMBEDDED
    from lede.tables import grid
    from lede.terminal import bar, console, errors, print_json, say, warn

    refused = HEADS if exits is None else WHOLE_MODEL
    if wrong := [f"--{name.replace('_', '-')}" for name in refused if given[name] is not None]:
        raise BadParameter(f"{', '.join(wrong)}: not {'without' if exits is None else 'with'} --exits")
    if text is not None and not text.exists():
        raise BadParameter(f"--text {text} is not there: give a text file, or a folder of them")
    if exits is not None:
        model = model or EMBEDDED
        given["exits"] = _exits(exits, check_model(model))
        if own_text is None:
            given["own_text"] = OWN_TEXT if text is not None and text.suffix == ".jsonl" else 0
    model = model and checkpoint(model)
    with errors.status("loading torch"):
        from lede.adapt.config import AdaptConfig, ExitsConfig
        from lede.adapt.exits import train_exits
        from lede.adapt.run import adapt as run
    kind = AdaptConfig if exits is None else ExitsConfig
    settings: dict[str, Any] = {f.name: given[f.name] for f in fields(kind) if given.get(f.name) is not None}
    with ExitStack() as shown:
        bars: dict[str, Callable[[int, str], None]] = {}

        def show(stage: str, share: float, note: str) -> None:
            if stage not in bars:
                shown.close()
                bars[stage] = shown.enter_context(bar(stage, 1000, quiet=json))
            bars[stage](round(share * 1000), note)

        if model is None or exits is None:
            config = AdaptConfig.defaults(model, **settings)
            report: Any = run(text, out, config, lambda p: show("training", p.share(config), str(p)))
        else:
            report = train_exits(model, text, out, ExitsConfig(**settings), show)
    if exits is not None and report.cut:
        warn(f"--disk has room for the states of {report.tokens:,} tokens: the rest of the text was left out")
    if json:
        print_json(asdict(report))
        return
    if exits is None:
        table = grid("agreement with the last layer", "layer", "held-out text", "own greedy output")
        for layer, shares in enumerate(zip(report.on_text, report.on_output, strict=True), 1):
            table.add_row(str(layer), *(f"{share:.1%}" for share in shares))
        last = f"model in {out}; next: lede collect --model {quote(str(out))}"
    else:
        table = grid("agreement with the model on its own greedy output", "layer", "held-out prompts")
        for layer, share in report.agreement.items():
            table.add_row(str(layer), f"{share:.1%}")
        covered = f"{report.vocabulary:,} tokens can be drafted, {report.coverage:.2%} of what the model writes"
        last = f"heads in {out}; {covered}"
    console.print(table)
    say(last)


def _exits(exits: str, folder: Path | None) -> tuple[int, ...]:
    """The layers of --exits, which the model in a folder must have below its last."""
    layers = tuple(sorted(set(parse_layers(exits) or ())))
    if folder is not None and folder.is_dir():
        from lede.decode.config import folder_config

        last = folder_config(folder).num_hidden_layers - 1
        if not all(0 < layer <= last for layer in layers):
            raise BadParameter(f"--exits {exits}: give layers from 1 to {last}, the last but one of {folder.name}")
    return layers
