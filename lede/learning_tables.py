"""What `lede learn` prints for people."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.table import Table

from lede.tables import number

if TYPE_CHECKING:
    from lede.learn.ranking import Ranked
    from lede.learn.train import LearnResult
    from lede.learn.variants import Result


def learning_table(result: "LearnResult") -> Table:
    """What was learned, beside the best static rule of the training texts: where it was chosen, and on test texts."""
    static, updates = result.data.static, result.history[-1]["update"]
    table = Table(
        title=f"{result.update:,} of {updates:,} updates, chosen on validation texts, "
        + ("replayed exactly" if result.data.exact("validation") else "estimated from the log")
        + "; ± standard errors",
        title_justify="left",
    )
    for heading in ("", "E", "d", "acceptance", "tokens/ms", "reward"):
        table.add_column(heading, justify="right" if heading else "left")
    for side, score in {"validation": result.score, "test": result.test}.items():
        if score is not None:
            shape = (known(score.exit_layer), known(score.drafts), known(score.acceptance))
            rate = f"{known(score.rate, 3)} ± {known(score.rate_error, 3)}"
            table.add_row(f"policy, {side}", *shape, rate, known(score.reward, 3), style="bold")
    for side, achieved in {"validation": result.static_validation, "test": result.static_test}.items():
        if static is not None and achieved is not None:
            rate = f"{known(achieved[0], 3)} ± {known(achieved[1], 3)}"
            table.add_row(f"best static, {side}", str(static.layer), str(static.drafts), "–", rate, "–")
    return table


def ranking_table(rows: "Sequence[Ranked]", results: "Sequence[Result]") -> Table:
    """One row per variant, the fastest first."""
    table = Table(
        title="on validation texts, "
        + ("replayed exactly" if all(r.exact for r in results if r.status == "ok") else "estimated from the log")
        + "; 95 % t intervals over seeds and groups of texts, paired with the best static rule",
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for heading in ("variant", "seeds", "tokens/ms (95 %)", "over static", "E", "d", "accept"):
        left = heading == "variant"
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for place, row in enumerate(rows):
        lost = [f"{count} {what}" for count, what in ((row.diverged, "diverged"), (row.failed, "failed")) if count]
        table.add_row(
            row.name,
            ", ".join([str(row.seeds)] * (row.seeds > 0) + lost),
            between(row.rate, row.low, row.high, 3),
            between(row.over_static, row.over_low, row.over_high, 2),
            known(row.exit_layer),
            known(row.drafts),
            known(row.acceptance),
            style="bold" if place == 0 else "",
        )
    return table


def between(value: float, low: float, high: float, digits: int) -> str:
    """A number and its interval."""
    return f"{known(value, digits)} ({known(low, digits)}–{known(high, digits)})" if math.isfinite(value) else "–"


def known(value: float, digits: int = 2) -> str:
    """A number, or a dash where nothing is known."""
    return number(value if math.isfinite(value) else None, digits)
