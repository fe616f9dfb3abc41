"""One progress bar for every command that takes longer than a second; on stderr, so that stdout can be piped."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def bar(what: str, total: int, quiet: bool = False) -> Iterator[Callable[[int, str], None]]:
    """Yields a function that takes how much is done and a word on how it goes."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", style="dim"),
    )  # fmt: skip
    progress = Progress(*columns, console=Console(stderr=True), disable=quiet)
    task = progress.add_task(what, total=total, note="")
    with ExitStack() as shown:

        def advance(done: int, note: str = "") -> None:
            if not (quiet or progress.live.is_started):  # not before: an error that comes first is said alone
                shown.enter_context(progress)
            progress.update(task, completed=done, note=note)

        yield advance
