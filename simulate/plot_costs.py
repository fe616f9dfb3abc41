"""A picture of measured costs."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from lede.replay.pictures import figure, save
from lede.simulate.calibration import Calibration, breakdown
from lede.simulate.costs import MAX_ROWS, Costs

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {
    "early layers": "#4c72b0", "draft heads": "#8da9d4", "states and decisions": "#e0a13c", "lookup": "#c9c04a",
    "verification": "#2f9e6e", "round": "#b8bec8",
}  # fmt: skip


def plot_calibration(calibration: Calibration, out: str | os.PathLike[str]) -> Path:
    """Draw layer and head against rows, and where the time of some rounds goes; the suffix of `out` says the format.

    Raises `DatasetError` for a format that cannot be drawn, `OSError`.
    """
    costs, device, picture = calibration.costs, calibration.device, figure(12, 4.6)
    picture.suptitle(
        f"{calibration.model.get('name')} · {calibration.dtype} · {device.get('name')}, "
        f"{device.get('threads')} threads · {costs.context} positions cached",
        fontsize=11, fontweight="bold",
    )  # fmt: skip
    rows, rounds = picture.subplots(1, 2, width_ratios=[1, 1.35])
    _rows(rows, costs)
    _rounds(rounds, costs)
    return save(picture, Path(out))


def _rows(axes: Axes, costs: Costs) -> None:
    counts = range(1, MAX_ROWS + 1)
    for name, values, colour in (("layer", costs.layer, "#4c72b0"), ("head", costs.head, "#c44e52")):
        axes.plot(counts, values, "o-", color=colour, markersize=3.5, label=f"{name}")
    axes.axhline(costs.first(), color="#4c72b0", linewidth=0.9, linestyle=":", label="layer, plain decoding")
    axes.set(xlabel="rows in the pass", ylabel="milliseconds", xticks=[1, *range(4, MAX_ROWS + 1, 4)])
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=8)
    axes.set_title("One pass", loc="left", fontsize=10, fontweight="bold")


def _rounds(axes: Axes, costs: Costs) -> None:
    """Bars of rounds of several kinds, a token of plain decoding the last."""
    quarter, third = max(costs.layers // 4, 1), max(costs.layers * 3 // 8, 1)
    shown = {
        "lookup, 4 drafts": (0, 4), "lookup, 12 drafts": (0, 12), f"layer {quarter}, 4 drafts": (quarter, 4),
        f"layer {third}, 4 drafts": (third, 4), f"layer {third}, 12 drafts": (third, 12), "plain decoding": (0, 0),
    }  # fmt: skip
    left = dict.fromkeys(shown, 0.0)
    for part, colour in COLOURS.items():
        values = [breakdown(costs, *kind).get(part, 0.0) for kind in shown.values()]
        axes.barh(list(shown), values, left=list(left.values()), color=colour, label=part, height=0.66)
        left = {name: before + value for (name, before), value in zip(left.items(), values, strict=True)}
    for i, total in enumerate(left.values()):
        axes.text(total, i, f" {total:.3g} ms", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set(xlabel="milliseconds of a round", xlim=(0, max(left.values()) * 1.15))
    axes.legend(frameon=False, fontsize=8, loc="upper right")
    axes.set_title("Where a round's time goes", loc="left", fontsize=10, fontweight="bold")
