"""CPython's standard library as a corpus: real code that every machine with this project already has.

A hash of a module's dotted name decides, on every machine and for every Python version alike, whether the embedded
model may be trained on it (`adapt/`); prompts are cut from the others.
"""

import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lede.ground import stable_hash

MAX_BYTES = 400_000  # larger files are tables (unicode data, opcode dumps), not code that people write
HELD_OUT_SHARE = 18  # one module in 18 is never trained on


@dataclass(frozen=True)
class Module:
    """One source file: its dotted `name`, where it is, and whether training must not see it."""

    name: str
    path: Path
    held_out: bool


def modules() -> Iterator[Module]:
    """Every module of the running interpreter's standard library, in order of name."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if {"site-packages", "dist-packages", "__pycache__"} & set(relative.parts) or path.stat().st_size > MAX_BYTES:
            continue
        name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        yield Module(name, path, held_out=stable_hash(name) % HELD_OUT_SHARE == 0)


def read(module: Module) -> str | None:
    """The module's text, or None where it is not UTF-8 (some of CPython's own tests are not, on purpose)."""
    try:
        return module.path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return None
