"""What `lede evaluate` prints for people."""

from typing import TYPE_CHECKING

from rich.table import Table

from lede.simulate.baselines import BASELINES
from lede.tables import number

if TYPE_CHECKING:
    from lede.simulate.evaluate import Evaluated, Evaluation

EXITS = 3  # exit layers told apart in a row, the most frequent ones
NOTES = (
    "bounds: behind a real layer's first wrong draft the rule's states are not in the dataset; its speedup if it then "
    "did the worst and the best it could. exits: the rounds that draft, by layer. best: the oracle, which chooses "
    "everything freely, decisions free. intervals: bootstrap over groups of texts (a module, an article, a "
    "conversation), paired"
)


def evaluation_table(evaluation: "Evaluation", dataset: str) -> Table:
    """One row a rule."""
    texts = f"{evaluation.texts} test texts of {evaluation.groups} groups"
    table = _table(f"{dataset}: replayed exactly on {texts}, reading the prompts included", "rule")
    for heading in ("tok\n/s", "bounds", "worst\ntenth"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("exits, %", no_wrap=True)
    for row in evaluation.rows:
        bounds = f"{row.bound_low:.2f}–{row.bound_high:.2f}"
        own = number(row.tokens_per_s, 0), bounds, f"{row.worst_decile:.2f}", _exits(row)
        style = "" if row.method in ("autoregressive", *BASELINES) else "bold"
        table.add_row(*_cells(row, evaluation), *own, style=style)
    return table


def ceiling_table(evaluation: "Evaluation") -> Table:
    """What no rule can pass: with a free choice of everything, and with parts of the choice taken away."""
    table = _table("what no rule can pass: each choice made as if the text were known", "may choose")
    for row in evaluation.ceilings:
        table.add_row(*_cells(row, evaluation))
    return table


def _table(title: str, first: str) -> Table:
    """With the columns of `_cells`."""
    table = Table(first, title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    table.columns[0].no_wrap = True
    for heading in ("E", "d", "accept", "tok/\nround", "speedup (95 %)", "of\nbest"):
        table.add_column(heading, justify="right", no_wrap=True)
    return table


def _cells(row: "Evaluated", evaluation: "Evaluation") -> list[str]:
    return [
        row.method,
        number(row.exit_layer, 1),
        number(row.draft_length, 1),
        number(row.acceptance),
        number(row.tokens_per_round),
        f"{row.predicted_speedup:.2f} ({row.predicted_low:.2f}–{row.predicted_high:.2f})",
        f"{row.predicted_speedup / evaluation.oracle_speedup:.0%}",
    ]


def _exits(row: "Evaluated") -> str:
    """The layers that most rounds draft from; a rule that always drafts from one needs no telling."""
    exits = row.exits or {}
    if len(exits) < 2:
        return ""
    often = sorted(sorted(exits, key=exits.__getitem__, reverse=True)[:EXITS])
    return " ".join(f"{layer}:{100 * exits[layer] / sum(exits.values()):.0f}" for layer in often)
