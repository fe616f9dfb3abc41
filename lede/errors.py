"""How commands end: what cannot work is one line on stderr and exit code 2; signals stop a command as Ctrl-C does."""

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec

import typer

from lede.ground import UserError

# What a missing optional package is installed with.
EXTRAS = {
    **{"datasets": "bench", "gguf": "gguf", "minari": "minari", "ray": "ray", "grpc": "ray", "obstore": "cloud"},
    **dict.fromkeys(("fastapi", "uvicorn", "prometheus_client"), "server"),
}

P = ParamSpec("P")


class Stopped(KeyboardInterrupt):
    """A signal that asks to end, such as Slurm's, systemd's or Kubernetes': args are its number."""


def stop_on_signals() -> None:
    """Let SIGTERM and SIGHUP stop a command as Ctrl-C does; where they are ignored (nohup), they stay so."""

    def stop(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # what is finished is being written: once is enough
        raise Stopped(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, stop)


def replace_unprintable() -> None:
    """Print ? for characters that the terminal's encoding lacks, and for bytes of file names that are no text."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]


def flush() -> None:
    """Write out what is buffered; where nobody reads it any more, drop it."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def expanded(value: Any) -> Any:
    """An option's value; in paths, ~ is the home folder (shells leave it alone in --out=~/x), and URLs are resolved."""
    if isinstance(value, list):
        return [expanded(item) for item in value]
    if not isinstance(value, Path):
        return value
    scheme = value.parts[0] if value.parts else ""
    if scheme == "hf:":
        from lede.hub import fetched

        return fetched(value)
    if scheme.endswith(":") and not os.path.isdir(scheme):
        from lede.replay.store import place

        return place(str(value).replace(":/", "://", 1))
    return Path(os.path.expanduser(value))


def said_plainly(command: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command: errors that are the user's to mend become one line. Set LEDE_DEBUG=1 to see where they arose."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **{name: expanded(value) for name, value in kwargs.items()})
        except KeyboardInterrupt as error:
            number = error.args[0] if isinstance(error, Stopped) else signal.SIGINT
            _stop("stopped; what was written is complete, and the same command goes on from there", 128 + number)
        except BrokenPipeError:  # the reader of our output (head, less) is gone: nothing is wrong
            flush()
            raise typer.Exit(0) from None
        except Exception as error:
            if os.environ.get("LEDE_DEBUG"):
                raise
            message = _explain(error)
            if message is None:
                raise
            _stop(message, 2)

    return wrapped


def _explain(error: Exception) -> str | None:
    """One line for an error that is the user's to mend; None for one that is ours."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, typer.BadParameter):  # raised by a command about its options
        return error.message
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = error.name.split(".")[0]
        if package != "lede":
            wanted = f"'lede[{EXTRAS[package]}]'" if package in EXTRAS else package
            return f"this needs the package {package}: install it with pip install {wanted}"
    if isinstance(error, UnicodeEncodeError):
        return f"{error.object[:60]!r} holds bytes that are not UTF-8 text: rename it, or give other text"
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return None


def _stop(message: str, code: int) -> None:
    message = " ".join(message.split())
    if sys.stderr.isatty():
        from lede.terminal import visible

        message = visible(message)
    typer.secho(f"lede: {message}", fg=typer.colors.RED if code == 2 else None, err=True)
    raise typer.Exit(code) from None
