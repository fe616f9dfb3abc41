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
    """What was learned, beside the best static rule of the same files."""
    score, static = result.score, result.held_static
    table = Table(
        title="on validation episodes, " + ("replayed exactly" if result.exact else "estimated from the log"),
        title_justify="left",
    )
    for heading in ("", "E", "d", "acceptance", "tokens/ms", "reward"):
        table.add_column(heading, justify="right" if heading else "left")
    table.add_row(
        f"policy, kept at update {result.update:,} of {result.updates:,}", known(score.exit_layer), known(score.drafts),
        known(score.acceptance), f"{known(score.rate, 3)} ± {known(score.rate_error, 3)}", known(score.reward, 3),
        style="bold",
    )  # fmt: skip
    if (again := result.estimate) is not None:
        interval = f"{known(again.rate, 3)} ({known(again.low, 3)}–{known(again.high, 3)})"
        table.add_row("the same, doubly robust (95 %)", "–", "–", "–", interval, "–")
    if static is not None:
        table.add_row(
            "best static rule of the training episodes",
            str(static.layer),
            str(static.drafts),
            "–",
            known(static.rate, 3),
            "–",
        )
    return table


def ranking_table(rows: "Sequence[Ranked]", results: "Sequence[Result]") -> Table:
    """One row a variant, the fastest first, and what the best fixed rules do on the same texts."""
    exact = all(result.exact for result in results if result.status == "ok")
    table = Table(
        title="on validation episodes, " + ("replayed exactly" if exact else "estimated from the log"),
        title_justify="left",
        box=None,
        padding=(0, 1, 0, 0),
    )
    headings = ("variant", "seeds", "tokens/ms (95 %)", "over\nstatic", "E", "d", "accept")
    for heading in headings:
        left = heading == "variant"
        table.add_column(heading, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for place, row in enumerate(rows):
        lost = [f"{count} {what}" for count, what in ((row.diverged, "diverged"), (row.failed, "failed")) if count]
        interval = "–" if math.isnan(row.rate) else f"{row.rate:.3f} ({row.low:.3f}–{row.high:.3f})"
        table.add_row(
            row.name, ", ".join([str(row.seeds)] * (row.seeds > 0) + lost), interval, known(row.over_static) + "×",
            known(row.exit_layer), known(row.drafts), known(row.acceptance), style="bold" if place == 0 else "",
        )  # fmt: skip
    statics = {(s["layer"], s["drafts"]): s["rate"] for result in results if (s := result.static)}
    for (layer, drafts), rate in statics.items():
        cells = ("best static rule", "", f"{rate:.3f}", "1.00×", f"{layer:.0f}", f"{drafts:.0f}", "–")
        table.add_row(*cells, style="dim")
    return table


def known(value: float, digits: int = 2) -> str:
    """A number, or a dash where the log could not tell."""
    return number(value if math.isfinite(value) else None, digits)
