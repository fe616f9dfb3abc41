"""`lede inspect`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from lede.commands.options import JsonOption
from lede.errors import said_plainly


@said_plainly
def inspect(
    dataset: Annotated[Path, Argument(help="A dataset's folder.")] = Path("data/lede-tiny"),
    plot: Annotated[Path | None, Option(help="Also draw it, into this PNG.")] = None,
    full: Annotated[bool, Option("--full", help="Read and verify every file, also of millions of decisions.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Say what a dataset holds: counts, exits and acceptance by layer, rewards, features, and whether it is whole.

    Of more than five million decisions, it counts by footers and episodes, and describes a sample.

    [dim]lede inspect data/lede-tiny --plot data.png[/]
    """
    from lede import replay
    from lede.replay.pictures import check_format
    from lede.tables import dataset_tables
    from lede.terminal import print_json, say, wide

    if plot is not None:
        check_format(plot)
    facts = replay.inspect_dataset(dataset, most=None) if full else replay.inspect_dataset(dataset)
    if plot is not None:
        replay.plot_dataset(facts, plot)
    if as_json:
        print_json(facts)
        return
    for table in dataset_tables(facts):
        wide().print(table, "")
    if "unreadable" in facts:
        say(facts["unreadable"], "red")
    if plot is not None:
        say(f"drawn in {plot}")
