"""Rules as a picture: their speedups, depth against acceptance, and exits by layer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from lede.replay.pictures import OTHERS, OURS, figure, save


class Drawn(NamedTuple):
    """A rule's row. exits: rounds that draft, by layer. ours: whether it is a learned policy."""

    method: str
    speedup: float
    low: float
    high: float
    exit_layer: float | None
    acceptance: float | None
    exits: Mapping[int, int]
    ours: bool


def draw(path: Path, rows: Sequence[Drawn], title: str, about: str, dashed: float | None = None) -> Path:
    """Three panels, in the format that the suffix of `path` says; `about` is said of the speedups.

    dashed: the speedup of a line to compare with. Raises DatasetError for a format that cannot be drawn, OSError.
    """
    colours = {row.method: OURS if row.ours else OTHERS for row in rows}
    picture = figure(12, 0.34 * len(rows) + 4.6)
    picture.suptitle(title)
    speedups, points, exits = picture.subplot_mosaic("AA;BC").values()

    for row in rows:
        span = [[row.speedup - row.low], [row.high - row.speedup]]
        bars = speedups.barh(row.method, row.speedup, xerr=span, color=colours[row.method], capsize=3)
        speedups.bar_label(bars, [f"{row.speedup:.2f}×"], padding=4, fontsize=8.5)
    if dashed is not None:
        speedups.axvline(dashed, linestyle="--", color="black")
    speedups.set_xlabel(about)

    for row in rows:
        if row.exit_layer is not None and row.acceptance is not None:
            points.scatter(row.exit_layer, row.acceptance, color=colours[row.method])
            points.annotate(row.method, (row.exit_layer, row.acceptance), (4, 4), textcoords="offset points")
    points.set(xlabel="E, mean exit layer (0: prompt lookup)", ylabel="acceptance")
    points.margins(0.15)

    shares = {row.method: row.exits for row in rows if row.exits}
    left = dict.fromkeys(shares, 0.0)
    for layer in sorted({layer for counts in shares.values() for layer in counts}):
        widths = [100 * counts.get(layer, 0) / sum(counts.values()) for counts in shares.values()]
        exits.barh(list(shares), widths, left=list(left.values()), label=f"layer {layer}")
        left = {method: start + width for (method, start), width in zip(left.items(), widths, strict=True)}
    exits.set_xlabel("% of the rounds that draft, by exit layer")
    if shares:
        exits.legend(ncols=6, frameon=False, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1))
    for axes in (speedups, exits):
        axes.invert_yaxis()
    return save(picture, path)
