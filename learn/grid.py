"""A grid of variants: lists of values of the options of `learn`, in a TOML file, as in docs/variants.toml.

Every combination of the values is a variant, with each of the `seeds`. Tables `[[grid]]` hold combinations of their
own, with what stands above them as their defaults.
"""

import os
import tomllib
from dataclasses import dataclass, fields
from itertools import product
from pathlib import Path
from typing import Any

from lede.learn.config import LearnConfig, preset
from lede.learn.errors import LearnError

LISTS = ("hidden", "candidates")  # options whose value is itself a list


@dataclass(frozen=True)
class Variant:
    """One training run of a grid. name: what sets it apart from the grid's others, the seed not counted."""

    name: str
    config: LearnConfig

    @property
    def folder(self) -> str:
        """Where its policy goes, below the grid's folder."""
        return f"{self.name}/seed={self.config.seed}"


def read_grid(path: str | os.PathLike[str]) -> list[Variant]:
    """The variants of a file, without repetition. Raises LearnError that says what is wrong in it."""
    try:
        table = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise LearnError(f"{path} is not a TOML file: {error}") from None
    try:
        parts = table.pop("grid", [{}])
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise LearnError("write [[grid]] with two brackets")
        chosen = [choice for part in parts for choice in _choices(table | part)]
        return _named([(choice, _config(choice)) for choice in chosen])
    except LearnError as error:
        raise LearnError(f"{path}: {error}") from None


def _choices(table: dict[str, Any]) -> list[dict[str, Any]]:
    """Every combination of a table's values."""
    table = dict(table)
    seeds = table.pop("seeds", [table.pop("seed", 0)])
    known = {field.name for field in fields(LearnConfig)} | {"preset"}
    if unknown := sorted(set(table) - known):
        raise LearnError(f"there is no option {', '.join(unknown)}; there are {', '.join(sorted(known))} and seeds")
    values = {name: _values(name, value) for name, value in table.items()} | {"seed": _values("seeds", seeds)}
    if empty := [name for name, several in values.items() if not several]:
        raise LearnError(f"{', '.join(empty)} has no values")
    return [dict(zip(values, combination, strict=True)) for combination in product(*values.values())]


def _values(name: str, value: Any) -> list[Any]:
    if not isinstance(value, list):
        return [value]
    if name in LISTS and not any(isinstance(item, list) for item in value):
        return [tuple(value)]
    return [tuple(item) if isinstance(item, list) else item for item in value]


def _config(choice: dict[str, Any]) -> LearnConfig:
    options = dict(choice)
    base = preset(options.pop("preset", "default"))
    for name, value in options.items():
        was = getattr(base, name)
        kind: Any = (int, float) if isinstance(was, float) else type(was)
        kind = {"updates": int, "source": str}.get(name, kind)  # whose own may be None
        wrong = isinstance(value, bool) is not isinstance(was, bool) or not isinstance(value, kind)
        if name not in LISTS and wrong:
            raise LearnError(f"{name} = {value!r} is not what {name} takes, such as {was!r}")
    return preset(choice.get("preset", "default"), **options)


def _named(variants: list[tuple[dict[str, Any], LearnConfig]]) -> list[Variant]:
    """Named after the options that the file gives and in which they differ; the same configuration is one variant."""
    choices = [choice for choice, _ in variants]
    names = [name for name in dict.fromkeys(name for choice in choices for name in choice) if name != "seed"]
    differing = [name for name in names if any(choice.get(name) != choices[0].get(name) for choice in choices)]
    named: dict[LearnConfig, Variant] = {}
    for choice, config in variants:
        parts = [f"{name}={_word(choice[name])}" for name in differing if name in choice]
        named.setdefault(config, Variant(",".join(parts) or "default", config))
    return list(named.values())


def _word(value: Any) -> str:
    """A value as part of a folder's name."""
    if isinstance(value, tuple):
        return "-".join(map(str, value))
    return Path(value).name if isinstance(value, str) else str(value).lower()
