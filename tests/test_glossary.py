"""Every word of the glossary stands where it says: a column of the schema, or a name of the API."""

import re
from importlib import import_module
from pathlib import Path

import pytest

from lede.replay.schema import TABLES

PAGE = Path(__file__).parents[1] / "docs" / "glossary.md"
ROWS = re.findall(r"^\| ([^|]+) \| (`[^|]+) \| ([^|]+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
PLACES = [(term, place) for term, places, _ in ROWS for place in re.findall(r"`([^`]+)`", places)]


@pytest.mark.parametrize(("term", "place"), PLACES)
def test_a_term_stands_where_the_glossary_says(term: str, place: str) -> None:
    table, _, column = place.partition(".")
    if table in TABLES:
        assert column in TABLES[table].names
        return
    parts = place.split(".")
    for end in range(len(parts), 0, -1):  # the longest part that is a module
        try:
            there = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for name in parts[end:]:
            fields = getattr(there, "__dataclass_fields__", {}) | getattr(there, "__annotations__", {})
            assert hasattr(there, name) or name in fields, (term, place)
            there = getattr(there, name, there)
        return
    pytest.fail(f"{term}: there is no {place}")


def test_terms_are_said_once_and_all_tables_are_named() -> None:
    terms = [term for term, _, _ in ROWS]
    assert len(terms) == len(set(terms)) >= 25
    assert {place.split(".")[0] for _, place in PLACES} >= set(TABLES)
