"""What `lede evaluate` prints for people."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from lede.tables import number

if TYPE_CHECKING:
    from bench.evaluate import Evaluated, Evaluation

COLUMNS = ("E", "d", "accept", "tokens\n/round", "tokens\n/s", "speedup (95 %)", "of the\noracle")


def evaluation_table(found: "Evaluation", dataset: str) -> Table:
    """One row a rule."""
    title = f"{dataset}: replayed exactly on {found.texts} held-out texts, reading the prompts included"
    table = _table(title, "rule", *COLUMNS, "bounds", "worst\ntenth", "rounds by exit")
    for row in found.rows:
        exits = " ".join(f"{layer}:{_percent(n, row)}" for layer, n in (row.exits or {}).items())
        bounds = f"{row.bound_low:.2f}–{row.bound_high:.2f}"
        table.add_row(
            *_cells(row, found), bounds, f"{row.worst_decile:.2f}", exits or "–",
            style="bold" if row.method.startswith("lede") else "",
        )  # fmt: skip
    return table


def ceiling_table(found: "Evaluation") -> Table:
    """What no rule can pass: with a free choice of everything, and with parts of the choice taken away."""
    table = _table("what no rule can pass: each choice made as if the text were known", "may choose", *COLUMNS)
    for row in found.ceilings:
        table.add_row(*_cells(row, found))
    return table


def evaluation_words(found: "Evaluation") -> Iterator[str]:
    """How to read the two tables."""
    yield (
        "[dim]bounds: behind a first wrong draft the rule's states are not in the dataset; its speedup if it then did "
        "the worst and the best it could. oracle: everything chosen freely, decisions free[/]"
    )


def _cells(row: "Evaluated", found: "Evaluation") -> tuple[str, ...]:
    return (
        row.method, number(row.exit_layer), number(row.draft_length), number(row.acceptance),
        number(row.tokens_per_round), number(row.tokens_per_s, 0),
        f"{row.predicted_speedup:.2f}× ({row.predicted_low:.2f}–{row.predicted_high:.2f})",
        f"{row.predicted_speedup / found.oracle_speedup:.0%}",
    )  # fmt: skip


def _percent(rounds: int, row: "Evaluated") -> str:
    total = sum((row.exits or {}).values())
    return f"{rounds / total:.0%}"


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for i, heading in enumerate(headings):
        last = heading == "rounds by exit"
        table.add_column(heading, justify="left" if i == 0 or last else "right", no_wrap=not last)
    return table
