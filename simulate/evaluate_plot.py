"""An evaluation as a picture: predicted speedups below the oracle, depth against acceptance, exits by layer."""

from pathlib import Path
from typing import Any

from lede.replay.pictures import INK, OTHERS, OURS, figure, save
from lede.simulate.baselines import BASELINES
from lede.simulate.evaluate import Evaluated, Evaluation

CEILING = "#c98a2b"


def draw(path: Path, found: Evaluation, title: str) -> None:
    """Three panels, in the format that the suffix of `path` says."""
    picture = figure(12, 0.34 * len(found.rows) + 4.6)
    bars, points, exits = picture.subplot_mosaic([["bars", "bars"], ["points", "exits"]]).values()
    _bars(bars, found)
    _points(points, [row for row in found.rows if row.exit_layer is not None])
    _exits(exits, [row for row in found.rows if row.exits])
    picture.suptitle(title, x=0.01, ha="left", fontsize=10)
    save(picture, path)


def _colour(row: Evaluated) -> str:
    return OTHERS if row.method in ("autoregressive", *BASELINES) else OURS


def _bars(axes: Any, found: Evaluation) -> None:
    rows = found.rows
    spans = [
        [row.predicted_speedup - row.predicted_low for row in rows],
        [row.predicted_high - row.predicted_speedup for row in rows],
    ]
    axes.barh(
        [row.method for row in rows], [row.predicted_speedup for row in rows], xerr=spans,
        color=[_colour(row) for row in rows], error_kw={"capsize": 3, "ecolor": INK, "elinewidth": 1}, height=0.7,
    )  # fmt: skip
    for row in found.ceilings[:3]:
        axes.axvline(row.predicted_speedup, color=CEILING, linewidth=1.2, linestyle="--")
        axes.text(
            row.predicted_speedup, len(rows) - 0.45, f" {row.method} {row.predicted_speedup:.2f}×", fontsize=7.5,
            color=CEILING, rotation=90, va="bottom", ha="right",
        )  # fmt: skip
    axes.invert_yaxis()
    axes.set_xlim(0, found.oracle_speedup * 1.06)
    axes.set_xlabel("predicted speedup over autoregressive decoding, 95 % interval over texts")


def _points(axes: Any, rows: list[Evaluated]) -> None:
    for row in rows:
        axes.scatter(row.exit_layer, row.acceptance, color=_colour(row), s=40, edgecolor="white", zorder=3)
        axes.annotate(row.method, (row.exit_layer, row.acceptance), (4, 4), textcoords="offset points", fontsize=7.5)
    axes.set_xlabel("E, mean exit layer (0: prompt lookup)")
    axes.set_ylabel("acceptance")
    axes.margins(0.15)


def _exits(axes: Any, rows: list[Evaluated]) -> None:
    """Which layers each rule drafts from: one stacked bar a rule."""
    layers = sorted({layer for row in rows for layer in row.exits or {}})
    left = [0.0] * len(rows)
    for i, layer in enumerate(layers):
        shares = [100 * (row.exits or {}).get(layer, 0) / sum((row.exits or {}).values()) for row in rows]
        shade = str(0.25 + 0.6 * i / max(len(layers) - 1, 1)) if layer else OURS
        axes.barh([row.method for row in rows], shares, left=left, color=shade, height=0.7, label=f"layer {layer}")
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axes.invert_yaxis()
    axes.set_xlabel("% of the rounds that draft, by exit layer")
    axes.legend(fontsize=7, ncols=min(len(layers), 6), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
