"""`lede compact`."""

from pathlib import Path
from typing import Annotated

from typer import Argument

from lede.errors import said_plainly


@said_plainly
def compact(dataset: Annotated[Path, Argument(help="A dataset's folder.")] = Path("data/lede-tiny")) -> None:
    """Merge the many small files of a long collection into few large ones; rows and readers stay as they are.

    [dim]lede compact data/llama2-7b[/]
    """
    from lede import replay
    from lede.terminal import console, errors

    with errors.status("compacting"):
        merged = replay.compact_dataset(dataset)
    for table, (before, after) in merged.items():
        console.print(f"{table}: {before} files before, {after} now")
