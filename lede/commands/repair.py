"""`lede repair`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit

from lede.commands.options import JsonOption
from lede.errors import said_plainly

SHOWN = 20  # prompts of a run; --json has all


@said_plainly
def repair(
    dataset: Annotated[Path, Argument(help="A dataset's folder.")] = Path("data/lede-tiny"), as_json: JsonOption = False
) -> None:
    """Set aside what is damaged, into the dataset's folder .damaged, so that the rest can be read; nothing is deleted.

    The same lede collect as before then collects the episodes again. What a server recorded it cannot.

    [dim]lede repair data/lede-tiny[/]
    """
    from lede import replay
    from lede.tables import integrity_table
    from lede.terminal import errors, print_json, say, wide

    with errors.status("reading every page"):
        done = replay.repair_dataset(dataset)
    left = [finding.facts() for finding in done.left]
    if as_json:
        print_json({"moved": [[*map(str, pair)] for pair in done.moved], "lost": done.lost, "left": left})
    else:
        for before, after in done.moved:
            say(f"{before} is now {after}")
        for run, episodes in done.lost.items():
            ids = [episodes[number] or f"episode {number}" for number in episodes]
            more = f", … (--json names all {len(ids)})" if len(ids) > SHOWN else ""
            say(f"to collect again, of run {run}: {', '.join(ids[:SHOWN])}{more}")
        wide().print(integrity_table(left))
    if left:
        raise Exit(1)
