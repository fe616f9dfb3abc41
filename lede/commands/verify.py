"""`lede verify`."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Exit

from lede.commands.options import JsonOption
from lede.errors import said_plainly


@said_plainly
def verify(
    dataset: Annotated[Path, Argument(help="A dataset's folder.")] = Path("data/lede-tiny"), as_json: JsonOption = False
) -> None:
    """Read every byte of a dataset, and say what is wrong where; exit code 1 if anything is.

    Checked are checksums, columns, order, what follows from other columns, and that episodes have all their decisions.

    [dim]lede verify data/lede-tiny[/]
    """
    from lede import replay
    from lede.tables import integrity_table
    from lede.terminal import errors, print_json, wide

    with errors.status("reading every page"):
        findings = [finding.facts() for finding in replay.verify(dataset)]
    wrong = sum(not finding["harmless"] for finding in findings)
    if as_json:
        print_json({"dataset": str(dataset), "wrong": wrong, "findings": findings})
    else:
        wide().print(integrity_table(findings))
    if wrong:
        raise Exit(1)
