"""The plan of the house: which room may import which, and that no file, and no room, imports itself through others."""

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
GROUND = {"ground", "process", "policy"}  # below every room: helpers, the decision process's numbers, the artefact
MAY_IMPORT = {
    "ground": set(),
    "process": set(),
    "policy": {"ground", "process"},
    "decode": GROUND,
    "replay": GROUND,
    "simulate": GROUND | {"decode", "replay"},
    "collect": GROUND | {"decode", "replay", "simulate.profile"},
    "learn": GROUND | {"replay", "simulate"},
    "serve": GROUND | {"decode"},
    "adapt": GROUND | {"decode", "collect.prompts", "collect.stdlib"},
    "bench": GROUND | {"decode", "replay", "simulate", "collect", "learn", "serve", "adapt"},
}
ROOMS = [room for room in MAY_IMPORT if room not in GROUND]


def modules() -> dict[str, Path]:
    """Every module by its name; the rooms' folders lie at the top, and `lede` has links to them."""
    files = {path: f"lede.{room}" for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    files |= {path: "lede" for place in ("", "commands") for path in (ROOT / "lede" / place).glob("*.py")}
    named = {}
    for path, top in files.items():
        parts = path.relative_to(ROOT).with_suffix("").parts
        name = ".".join(parts if top == "lede" else ("lede", *parts)).removesuffix(".__init__")
        named[name] = path
    return named


MODULES = modules()


def imported(name: str) -> Iterator[str]:
    """The modules of ours that a module imports anywhere in it, for types also."""
    for node in ast.walk(ast.parse(MODULES[name].read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in MODULES else node.module


IMPORTS = {name: set(imported(name)) for name in MODULES}


def inside(name: str, place: str) -> bool:
    return name == f"lede.{place}" or name.startswith(f"lede.{place}.")


def place_of(name: str) -> str | None:
    """The room of a module, or its own name on the ground floor; None for `lede`'s own."""
    return next((place for place in MAY_IMPORT if inside(name, place)), None)


@pytest.mark.parametrize("place", MAY_IMPORT)
def test_a_room_imports_only_what_the_plan_allows(place: str) -> None:
    mine = [name for name in MODULES if place_of(name) == place]
    assert mine
    wrong = {
        (name, other)
        for name in mine
        for other in IMPORTS[name]
        if not any(inside(other, allowed) for allowed in (place, *MAY_IMPORT[place]))
    }
    assert not wrong


def test_no_file_imports_itself_through_others() -> None:
    try:
        TopologicalSorter(IMPORTS).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_the_plan_in_the_docs_is_this_one() -> None:
    """docs/architecture.md has a row per place: its name, what it holds, what it may import."""
    rows = {}
    for line in (ROOT / "docs" / "architecture.md").read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3 and (name := cells[0].strip("`/").removeprefix("lede/").removesuffix(".py")) in MAY_IMPORT:
            rows[name] = {part.strip("` ") for part in cells[2].split(",")} - {"–"}
    above = {name: allowed - GROUND for name, allowed in MAY_IMPORT.items() if name not in GROUND}
    assert {name: row for name, row in rows.items() if name in above} == above


def test_the_walks_in_the_docs_are_imports() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    steps = re.findall(r"^\d+\. `([a-z_/]+\.py)` → `([a-z_/]+\.py)`", text, re.MULTILINE)
    assert len(steps) > 20
    for here, there in steps:
        names = [f"lede.{path.removesuffix('.py').replace('/', '.')}" for path in (here, there)]
        assert names[1] in IMPORTS[names[0]], (here, there)
