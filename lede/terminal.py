"""What the commands print, and where. Paths, names, prompts and errors come from outside: they are never markup."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment

# Control characters but for tabs and ends of lines, as the pictures that Unicode has of them; of the second set, none.
PICTURES = {
    **{code: 0x2400 + code for code in range(32) if chr(code) not in "\t\n"},
    127: 0x2421,
    **dict.fromkeys(range(128, 160), 0xFFFD),
}


def visible(text: str) -> str:
    """A text for a terminal: what would move its cursor, change its colours or its title is shown instead."""
    return text.translate(PICTURES)


class Output(Console):
    """A rich console that prints strings as they are, tables' cells and titles included: styles come as arguments.

    On a terminal control characters in them are shown; rich drops some, and lets escapes through.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            shown = segment.control or not self.is_terminal
            yield segment if shown else segment._replace(text=visible(segment.text))

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


def show(text: str, end: str = "") -> None:
    """Print a piece of a model's text: to a file as it is, on a terminal without what would control it."""
    print(visible(text) if sys.stdout.isatty() else text, end=end, flush=True)  # rich would widen tabs


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
