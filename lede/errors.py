"""How the command line says that something cannot work: one line on stderr, exit code 2, no traceback."""

import functools
import os
import sys
from collections.abc import Callable
from typing import ParamSpec

import typer

# Each room has one exception for what its user got wrong. Only one from a loaded module can have been raised.
USER_ERRORS = (
    ("lede.decode.errors", "ModelError"),
    ("lede.replay.errors", "DatasetError"),
    ("lede.collect.errors", "PromptError"),
    ("lede.learn.errors", "LearnError"),
    ("lede.serve.errors", "PolicyError"),
    ("lede.adapt.errors", "AdaptError"),
    ("lede.bench.errors", "BenchError"),
)
# What a missing optional package is installed with.
EXTRAS = {
    "d3rlpy": "learn",
    "gymnasium": "learn",
    "fastapi": "server",
    "uvicorn": "server",
    "ray": "ray",
    "datasets": "bench",
    "rouge_score": "bench",
}

P = ParamSpec("P")


def said_plainly(command: Callable[P, None]) -> Callable[P, None]:
    """Wrap a command: errors that are the user's to mend become one line. Set LEDE_DEBUG=1 to see where they arose."""

    @functools.wraps(command)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except KeyboardInterrupt:
            _stop("stopped; what was written is complete, and the same command goes on from there", 130)
        except BrokenPipeError:
            # the reader of our output (head, less) is gone: nothing is wrong, and nobody is left to tell
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
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
    kinds = [getattr(sys.modules[m], name) for m, name in USER_ERRORS if m in sys.modules]
    if isinstance(error, tuple(kinds)):
        return " ".join(str(error).split())
    if isinstance(error, typer.BadParameter):  # raised by a command about its options
        return error.message
    if isinstance(error, ModuleNotFoundError) and error.name is not None:
        package = error.name.split(".")[0]
        if package in EXTRAS:
            return f"this needs the package {package}: install it with  pip install 'lede[{EXTRAS[package]}]'"
    if isinstance(error, OSError):
        return f"{error.strerror or error}: {error.filename}" if error.filename else str(error)
    return None


def _stop(message: str, code: int) -> None:
    typer.secho(f"lede: {message}", fg=typer.colors.RED if code == 2 else None, err=True)
    raise typer.Exit(code) from None
