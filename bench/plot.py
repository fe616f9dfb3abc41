"""A bench as pictures: speedups, exit depth against acceptance, and what adaptive rules choose round by round."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lede.bench.limit import implied
from lede.bench.names import BASELINE, WITHOUT_POLICY
from lede.bench.run import Report
from lede.replay.pictures import INK, OTHERS, OURS, figure, save


def draw(path: Path, reports: Sequence[Report]) -> list[Path]:
    """Into a file (.png, .svg, …) the speedups of all tables; into a folder all three pictures of each.

    Returns what was written. Raises DatasetError for a format that cannot be drawn, OSError.
    """
    if path.suffix:
        return [save(speedups(reports), path)]
    written = []
    for report in reports:
        folder = path if len(reports) == 1 else path / report.facts["model"] / report.facts["task"]
        pictures = {"speedup": speedups([report]), "acceptance": acceptance(report), "choices": choices(report)}
        written += [save(picture, folder / f"{name}.png") for name, picture in pictures.items()]
    return written


def speedups(reports: Sequence[Report]) -> Any:
    """Bars of the speedups with their 95 % intervals, tokens/s beside them; a panel per table."""
    heights = [0.42 * len(report.rows) + 1.0 for report in reports]
    picture = figure(9, sum(heights) + 0.3)
    panels = picture.subplots(len(reports), squeeze=False, height_ratios=heights)[:, 0]
    for axes, report in zip(panels, reports, strict=True):
        rows = report.rows
        spans = np.array([(row.speedup - row.speedup_low, row.speedup_high - row.speedup) for row in rows]).T
        bars = axes.barh(
            [row.method for row in rows],
            [row.speedup for row in rows],
            xerr=spans,
            color=[_colour(row.method, OTHERS) for row in rows],
            error_kw={"capsize": 3, "ecolor": INK, "elinewidth": 1},
        )
        labels = [f"{row.speedup:.2f}×   {row.tokens_per_s:.0f} tokens/s" for row in rows]
        axes.bar_label(bars, labels, padding=4, fontsize=8.5, color=INK)
        axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(0, 1.3 * max(row.speedup_high for row in rows))
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_title(_title(report), loc="left", fontsize=10)
    panels[-1].set_xlabel(f"speedup over {BASELINE} decoding, 95 % interval")
    return picture


def acceptance(report: Report) -> Any:
    """Each method's depth and acceptance; lines of equal implied speedup at a usual draft length."""
    rows = sorted(
        ((row.exit_layer, row.acceptance, row) for row in report.rows if row.exit_layer is not None and row.acceptance),
        key=lambda point: -point[1],
    )
    picture = figure(9, 5.4)
    axes = picture.subplots()
    length = float(np.median([row.draft_length or 4.0 for _, _, row in rows] or [4.0]))
    deepest = int(max([e for e, _, _ in rows], default=1)) + 2
    depth = np.arange(max(min(deepest, report.costs.layers - 1), 1) + 1)
    share = np.linspace(min([a for _, a, _ in rows], default=0.5) * 0.85, 1, 60)
    grid = np.array([[implied(report.costs, int(e), length, a) for e in depth] for a in share])
    axes.contourf(depth, share, grid, levels=9, cmap="Greys", alpha=0.28)
    axes.clabel(axes.contour(depth, share, grid, levels=9, colors="#7a8591", linewidths=0.7), fmt="%.2f×", fontsize=7.5)
    for number, (e, a, row) in enumerate(rows):
        axes.scatter(e, a, color=_colour(row.method, OTHERS), s=46, zorder=3, edgecolor="white")
        axes.annotate(  # names in a column on the right, each tied to its point
            f"{row.method}  d {row.draft_length:.1f}, {row.speedup:.2f}×",
            (e, a),
            (1.02, 1 - (number + 0.5) / len(rows)),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            color=_colour(row.method, INK),
            arrowprops={"arrowstyle": "-", "color": OTHERS, "linewidth": 0.6, "relpos": (0, 0.5)},
        )
    axes.set_xlim(-0.03 * depth[-1], depth[-1])
    axes.set_xlabel("E, mean exit layer (0: prompt lookup)")
    axes.set_ylabel("acceptance, accepted / drafted")
    about = f"lines: speedup implied at d = {length:.1f}; beside a method: its own d, and its speedup"
    axes.set_title(f"{_title(report)}\n{about}", loc="left", fontsize=9.5)
    return picture


def choices(report: Report) -> Any:
    """How often adaptive rules draft from each layer, and how long; a row of two histograms per method."""
    seen: dict[str, tuple[Counter[int], Counter[int]]] = {}
    for s in report.samples:
        layers, lengths = seen.setdefault(s.method, (Counter(), Counter()))
        for layer, drafts in zip(s.exits, s.drafts, strict=True):
            if layer is not None:
                layers[layer] += 1
                lengths[drafts] += 1
    # adaptive: more than the ends of texts (a tenth of the rounds) is anything but the most frequent value
    adaptive = {
        name: both
        for name, both in seen.items()
        if any(0 < max(counts.values(), default=0) < 0.9 * counts.total() for counts in both)
    }
    picture = figure(8, 1.25 * max(len(adaptive), 1) + 1.0)
    picture.suptitle(_title(report), x=0.01, ha="left", fontsize=10)
    if not adaptive:
        picture.text(0.5, 0.5, "no method here chooses", ha="center", va="center")
        return picture
    grid = picture.subplots(len(adaptive), 2, squeeze=False, sharex="col")
    for (name, both), panels in zip(adaptive.items(), grid, strict=True):
        for axes, counts in zip(panels, both, strict=True):
            shares = [100 * n / counts.total() for n in counts.values()]
            axes.bar(list(counts), shares, color=_colour(name, OTHERS), width=0.8)
            axes.xaxis.get_major_locator().set_params(integer=True)
        panels[0].set_ylabel("% of rounds", fontsize=8)
        panels[0].set_title(name, loc="left", fontsize=9, color=_colour(name, INK))
    for axes, label in zip(grid[-1], ("exit layer (0: prompt lookup)", "drafts per round"), strict=True):
        axes.set_xlabel(label)
    return picture


def _title(report: Report) -> str:
    facts = report.facts
    return f"{facts['model']} · {facts['task']} · {facts['dtype']} · {facts['device']} · {facts['prompts']} prompts"


def _colour(method: str, other: str) -> str:
    return other if method in WITHOUT_POLICY else OURS
