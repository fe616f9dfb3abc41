"""What the commands print, and where. Paths, names, prompts and errors come from outside: they are never markup."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Output(Console):
    """A rich console that prints strings as they are, tables' cells and titles included: styles come as arguments."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def on_broken_pipe(self) -> None:
        """As `print` does; rich would leave with exit code 1."""
        raise BrokenPipeError


console = Output()
errors = Output(stderr=True)


def wide() -> Console:
    """The console for tables; in a file or a pipe so wide that nothing is cut, paths least of all."""
    return console if console.is_terminal else Output(width=1000)


def say(line: Any, style: str = "") -> None:
    """Print one line, however long: a path in it can be copied."""
    console.print(line, style=style, soft_wrap=True)


def warn(line: str, style: str = "yellow") -> None:
    """The same on stderr."""
    errors.print(line, style=style, soft_wrap=True)


def print_json(content: Any) -> None:
    """Print an object as one line of JSON, in ASCII."""
    print(json.dumps(content))


@contextmanager
def bar(what: str, total: int, quiet: bool = False) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on stderr; yields a function that takes how much is done and a word on how it goes."""
    name, note = TextColumn("{task.description}", markup=False), TextColumn("{task.fields[note]}", "dim", markup=False)
    columns = name, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), note
    progress = Progress(*columns, console=errors, disable=quiet)
    task = progress.add_task(what, total=total, note="")
    with ExitStack() as shown:

        def advance(done: int, note: str = "") -> None:
            if not (quiet or progress.live.is_started):  # not before: an error that comes first is said alone
                shown.enter_context(progress)
            progress.update(task, completed=done, note=note)

        yield advance
