"""What every room would write again: a file written whole, a fingerprint, the cache folder, errors, options.

Imports nothing of lede; everything may import it.
"""

import hashlib
import os
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

Bytes = Annotated[int, "bytes"]  # a number of them, which a command takes as 4GB


class UserError(Exception):
    """What a user got wrong or must mend; the message is one line that says what is wrong and what to do.

    Commands print it and end with exit code 2; any other exception is a fault of ours.
    """


def option(default: Any, help: str, *names: str, **limits: float) -> Any:
    """A field of a dataclass that is also an option of the command which fills it: `lede.commands.options` makes it.

    names: such as --n-step, where the option is not called as the field. limits: min and max of a number.
    """
    return field(default=default, metadata={"help": help, "names": names, "limits": limits})


def fingerprint(data: str | bytes) -> str:
    """16 hexadecimal digits of a hash of `data`, equal on every machine."""
    return hashlib.sha256(data.encode() if isinstance(data, str) else data).hexdigest()[:16]


def stable_hash(data: str | bytes) -> int:
    """A number below 2^64 from a hash of `data`, equal on every machine."""
    return int(fingerprint(data), 16)


def write_whole(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file such that it is there whole or not at all, whenever the process is killed."""
    beside = Path(f"{os.fspath(path)}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def first_line(error: BaseException) -> str:
    """The first line of what a library's exception says, 300 characters at most; where it says nothing, its type."""
    text = " ".join(str(error).strip().partition("\n")[0].split()) or type(error).__name__
    return text if len(text) < 300 else text[:297] + "…"


def cache_folder() -> Path | None:
    """$XDG_CACHE_HOME/lede or ~/.cache/lede; None where there can be no such folder."""
    try:
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lede"
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError):  # RuntimeError: a user without a home
        return None
    return folder


def cache_name(kind: str, *described: object) -> str:
    """The name of a file in the cache that depends on what is described."""
    return f"{kind}-{fingerprint(repr(described))}"
