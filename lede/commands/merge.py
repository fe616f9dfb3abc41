"""`lede merge`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from lede.commands.options import JsonOption
from lede.errors import said_plainly


@said_plainly
def merge(
    datasets: Annotated[list[Path], Argument(help="Datasets of one model and the same candidate layers.")],
    out: Annotated[Path, Option(help="A new folder or URL; the dataset appears whole or not at all.")],
    as_json: JsonOption = False,
) -> None:
    """Copy the runs of several datasets into a new one.

    [dim]lede merge data/night data/day --out data/both[/]
    """
    from lede import replay
    from lede.terminal import errors, print_json, say

    with errors.status("merging"):
        rows = replay.merge_datasets(datasets, out)
    if as_json:
        print_json({"dataset": str(out), "rows": rows})
    else:
        say(f"{rows['episodes']:,} episodes, {rows['transitions']:,} decisions in {out}")
