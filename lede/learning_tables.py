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
    static, updates = result.data.static, result.history[-1].update
    table = Table(
        title=words(result.data.exact("validation")) + "; ± standard errors over groups of texts",
        title_justify="left",
    )
    for heading in ("", "E", "d", "acceptance", "tokens/ms", "reward"):
        table.add_column(heading, justify="right" if heading else "left")
    rows = [(f"policy, kept at update {result.update:,} of {updates:,}, on validation", result.score)]
    rows += [("the same on test", result.test)] if result.test else []
    for name, score in rows:
        table.add_row(
            name,
            known(score.exit_layer),
            known(score.drafts),
            known(score.acceptance),
            f"{known(score.rate, 3)} ± {known(score.rate_error, 3)}",
            known(score.reward, 3),
            style="bold",
        )
    for side, rate in (("validation", result.static_validation), ("test", result.static_test)):
        if static is not None and rate is not None:
            cells = (str(static.layer), str(static.drafts), "–")
            speed = f"{known(rate[0], 3)} ± {known(rate[1], 3)}"
            table.add_row(f"best static rule of the training texts, on {side}", *cells, speed, "–")
    return table


def ranking_table(rows: "Sequence[Ranked]", results: "Sequence[Result]") -> Table:
    """One row per variant, the fastest first."""
    table = Table(
        title=f"{words(all(result.exact for result in results if result.status == 'ok'))}; "
        "95 % t intervals over seeds and groups of texts, paired with the best static rule",
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


def words(exact: bool) -> str:
    return "on validation texts, " + ("replayed exactly" if exact else "estimated from the log")


def between(value: float, low: float, high: float, digits: int) -> str:
    """A number and its interval."""
    return f"{known(value, digits)} ({known(low, digits)}–{known(high, digits)})" if math.isfinite(value) else "–"


def known(value: float, digits: int = 2) -> str:
    """A number, or a dash where nothing is known."""
    return number(value if math.isfinite(value) else None, digits)
