"""Messages from the keyboard, a paste or a pipe, each of them whole.

A terminal's own line editing (canonical mode) keeps 4,096 bytes of a line and drops the rest, also of what is typed
ahead while an answer is written. So it is off all the time, and readline edits lines; what is pasted comes in brackets
where the terminal can do that, else at once.
"""

import contextlib
import os
import select
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from lede.serve.errors import ChatError

CANONICAL = 4095  # bytes of a line that a terminal passes on by itself
PAUSE = 0.03  # seconds without a key end a paste without brackets
BRACKETS = "\x1b[?2004h", "\x1b[?2004l"  # ask the terminal for them, and to leave them out


@contextmanager
def messages() -> Iterator[Callable[[], str]]:
    """A function that gives the next message: from a terminal, what was typed up to Enter, or pasted; else a line.

    It raises EOFError at the end, UnicodeDecodeError for what is no text, ChatError for what a terminal has cut off.
    """
    if not sys.stdin.isatty():
        sys.stdin.reconfigure(encoding="utf-8", newline="\n")  # type: ignore[union-attr]
        yield _piped
        return
    try:
        import readline
    except ImportError:
        yield _canonical
        return
    readline.parse_and_bind("set enable-bracketed-paste on")  # which Python turns off
    before = termios.tcgetattr(sys.stdin)
    with _terminal() as terminal:
        try:
            _set(before, echo=False)
            yield lambda: _edited(before, terminal)
        finally:
            os.write(terminal, BRACKETS[1].encode())
            termios.tcsetattr(sys.stdin, termios.TCSANOW, before)


def _piped() -> str:
    """The next line; a carriage return within it is a part of it."""
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line.removesuffix("\n").removesuffix("\r").removeprefix("\ufeff")


def _canonical() -> str:
    """The next line of a terminal without readline."""
    line = input("> ")
    if len(line.encode(errors="replace")) >= CANONICAL:
        raise ChatError(f"the terminal passes on {CANONICAL:,} bytes of a line: pipe a longer one into lede chat")
    return line.removeprefix("\ufeff")


def _edited(before: list[Any], terminal: int) -> str:
    """The next message of a terminal. Keys that are typed meanwhile are shown when they are read."""
    ahead = _waiting(0)
    _set(before, echo=True)  # readline shows what is typed only then
    try:
        with _stdout_at(terminal):
            lines = [input("> ")]
            while not ahead and _waiting(PAUSE):
                lines.append(input())
    finally:
        _set(before, echo=False)
        os.write(terminal, BRACKETS[0].encode())  # for what is pasted before the next message is asked for
    return "\n".join(lines).removeprefix("\ufeff")


def _set(before: list[Any], echo: bool) -> None:
    """The terminal as it was, but for its line editing, and without showing keys, or with."""
    *flags, local, ispeed, ospeed, characters = before
    local = local & ~(termios.ICANON | termios.ECHO) | (termios.ECHO if echo else 0)
    characters = [*characters]
    characters[termios.VMIN], characters[termios.VTIME] = 1, 0
    termios.tcsetattr(sys.stdin, termios.TCSANOW, [*flags, local, ispeed, ospeed, characters])


def _waiting(seconds: float) -> bool:
    """Whether keys wait, or come within so many seconds."""
    return bool(select.select([sys.stdin], [], [], seconds)[0])


@contextmanager
def _terminal() -> Iterator[int]:
    """The terminal that stdin is, to write to."""
    terminal = os.open(os.ttyname(sys.stdin.fileno()), os.O_RDWR | os.O_NOCTTY)
    try:
        yield terminal
    finally:
        os.close(terminal)


@contextmanager
def _stdout_at(terminal: int) -> Iterator[None]:
    """Let stdout be the terminal for a while, without which `input` edits no line; a file gets no prompts so."""
    if sys.stdout.isatty():
        yield
        return
    sys.stdout.flush()
    with contextlib.ExitStack() as undo:
        kept = os.dup(1)
        undo.callback(os.close, kept)
        os.dup2(terminal, 1)
        undo.callback(os.dup2, kept, 1)
        yield
