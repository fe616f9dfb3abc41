"""What `lede evaluate` prints for people."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.table import Table

from lede.simulate.baselines import BASELINES
from lede.tables import number

if TYPE_CHECKING:
    from lede.simulate.evaluate import Evaluated, Evaluation

EXITS = 3  # exit layers told apart in a row, the most frequent ones


def evaluation_table(found: "Evaluation", dataset: str) -> Table:
    """One row a rule."""
    read = "reading the prompts included" if found.prompts_included else "without reading the prompts: costs lack it"
    title = f"{dataset}: replayed exactly on {found.texts} test texts of {found.groups} groups, {read}"
    table = _table(
        title, "rule", "E", "d", "accept", "tok/\nround", "tok\n/s", "speedup (95 %)", "bounds", "of\nbest",
        "worst\ntenth", "exits, %",
    )  # fmt: skip
    for row in found.rows:
        table.add_row(
            row.method, number(row.exit_layer, 1), number(row.draft_length, 1), number(row.acceptance),
            number(row.tokens_per_round), number(row.tokens_per_s, 0), _speedup(row),
            f"{row.bound_low:.2f}–{row.bound_high:.2f}", _share(row, found), f"{row.worst_decile:.2f}", _exits(row),
            style="" if row.method in ("autoregressive", *BASELINES) else "bold",
        )  # fmt: skip
    return table


def ceiling_table(found: "Evaluation") -> Table:
    """What no rule can pass: with a free choice of everything, and with parts of the choice taken away."""
    table = _table(
        "what no rule can pass: each choice made as if the text were known", "may choose", "E", "d", "accept",
        "tok/\nround", "speedup (95 %)", "of\nbest",
    )  # fmt: skip
    for row in found.ceilings:
        table.add_row(
            row.method, number(row.exit_layer, 1), number(row.draft_length, 1), number(row.acceptance),
            number(row.tokens_per_round), _speedup(row), _share(row, found),
        )  # fmt: skip
    return table


def evaluation_words(found: "Evaluation") -> Iterator[str]:
    """How to read the two tables."""
    yield (
        "bounds: behind a real layer's first wrong draft the rule's states are not in the dataset; its "
        "speedup if it then did the worst and the best it could. exits: the rounds that draft, by layer. best: the "
        "oracle, which chooses everything freely, decisions free. intervals: bootstrap over groups of texts (a module, "
        "an article, a conversation), paired"
    )


def _speedup(row: "Evaluated") -> str:
    return f"{row.predicted_speedup:.2f} ({row.predicted_low:.2f}–{row.predicted_high:.2f})"


def _share(row: "Evaluated", found: "Evaluation") -> str:
    return f"{row.predicted_speedup / found.oracle_speedup:.0%}"


def _exits(row: "Evaluated") -> str:
    """The layers that most rounds draft from; a rule that always drafts from one needs no telling."""
    exits = row.exits or {}
    if len(exits) < 2:
        return ""
    often = sorted(sorted(exits, key=exits.__getitem__, reverse=True)[:EXITS])
    return " ".join(f"{layer}:{100 * exits[layer] / sum(exits.values()):.0f}" for layer in often)


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for i, heading in enumerate(headings):
        last = heading.startswith("exits")
        table.add_column(heading, justify="left" if i == 0 or last else "right", no_wrap=True)
    return table
