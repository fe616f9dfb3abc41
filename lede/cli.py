"""The `lede` command. Each subcommand is one file in `lede/commands/`; what they need is imported when they run."""

import os
from typing import Any

import typer
from typer.core import TyperCommand

from lede.commands import (
    adapt,
    bench,
    calibrate,
    chat,
    collect,
    compact,
    evaluate,
    export,
    generate,
    inspect,
    learn,
    merge,
    push,
    repair,
    report,
    serve,
    verify,
)
from lede.errors import flush, replace_unprintable, stop_on_signals


class Command(TyperCommand):
    """A command whose option --ray may stand without a value, which typer cannot tell of."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list[str]()
        for place, arg in enumerate(args, 1):
            alone = arg == "--ray" and (place == len(args) or args[place].startswith("-"))
            given += [arg, "local"] if alone else [arg]
        return super().parse_args(ctx, given)


app = typer.Typer(
    name="lede",
    help="Make a large language model write faster without changing a word of what it writes.\n\n"
    "The usual order: [bold]collect[/] decisions, [bold]learn[/] a policy from them, [bold]generate[/] with it, "
    "[bold]bench[/] it. Without --model, everything works on the small model that comes with the package.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
for command in (
    *(collect.collect, inspect.inspect, verify.verify, repair.repair, merge.merge, compact.compact),
    *(learn.learn, evaluate.evaluate),
    *(generate.generate, chat.chat, serve.serve, export.export, push.push, report.report),
    *(bench.bench, calibrate.calibrate, adapt.adapt),
):
    app.command(cls=Command)(command)


def main() -> None:
    """Entry point."""
    if os.environ.get("COLUMNS") == "0":  # a terminal of unknown width; rich would print nothing
        del os.environ["COLUMNS"]
    # transformers' bars and warnings are for its direct users; commands say what theirs need to know
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TQDM_DISABLE", "1")
    # OpenMP's threads spin between calls for up to 15 ms, on cores that other work then lacks, this process's included
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")  # half a millisecond or less
    replace_unprintable()
    stop_on_signals()
    try:
        app()
    finally:
        flush()
