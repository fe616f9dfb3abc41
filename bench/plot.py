"""A bench as pictures: speedups, exit depth against acceptance, and what adaptive rules choose round by round."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lede.bench.limit import implied
from lede.bench.names import BASELINE
from lede.bench.run import Report
from lede.bench.summary import Row

OURS, THEIRS, INK = "#1f6fb4", "#9aa5b1", "#333333"
DPI = 150


def draw(path: Path, reports: Sequence[Report]) -> list[Path]:
    """Into a PNG the speedups of all tables; into a folder (no .png) all three pictures of each. What was written."""
    if path.suffix.lower() == ".png":
        path.parent.mkdir(parents=True, exist_ok=True)
        speedups(path, reports)
        return [path]
    written = []
    for report in reports:
        folder = path if len(reports) == 1 else path / report.facts["model"] / report.facts["task"]
        folder.mkdir(parents=True, exist_ok=True)
        for name, picture in (("speedup", speedups), ("acceptance", acceptance), ("choices", choices)):
            target = folder / f"{name}.png"
            picture(target, [report])
            written.append(target)
    return written


def speedups(path: Path, reports: Sequence[Report]) -> None:
    """Bars of the speedups with their 95 % intervals, tokens/s beside them; a panel a table."""
    heights = [0.42 * len(report.rows) + 1.0 for report in reports]
    figure = _figure(9, sum(heights) + 0.3)
    panels = figure.subplots(len(reports), squeeze=False, height_ratios=heights)[:, 0]
    for axes, report in zip(panels, reports, strict=True):
        rows = report.rows
        spans = [[row.speedup - row.speedup_low for row in rows], [row.speedup_high - row.speedup for row in rows]]
        axes.barh(
            [row.method for row in rows], [row.speedup for row in rows], xerr=spans, color=[_colour(r) for r in rows],
            error_kw={"capsize": 3, "ecolor": INK, "elinewidth": 1}, height=0.72,
        )  # fmt: skip
        widest = max(row.speedup_high for row in rows)
        for i, row in enumerate(rows):
            label = f"{row.speedup:.2f}×   {row.tokens_per_s:.0f} tokens/s"
            axes.text(row.speedup_high + 0.015 * widest, i, label, va="center", fontsize=8.5, color=INK)
        axes.axvline(1, color=INK, linewidth=0.8, linestyle=":")
        axes.set_xlim(0, widest * 1.3)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_title(_title(report), loc="left", fontsize=10)
        axes.tick_params(axis="y", length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
    panels[-1].set_xlabel(f"speedup over {BASELINE} decoding, 95 % interval over prompts")
    figure.savefig(path, dpi=DPI)


def acceptance(path: Path, reports: Sequence[Report]) -> None:
    """Where each method stands between depth and acceptance; lines of equal implied speedup at a usual draft length."""
    (report,) = reports
    rows = [row for row in report.rows if row.exit_layer is not None and row.acceptance is not None]
    figure = _figure(8, 5.4)
    axes = figure.subplots()
    lengths = [row.draft_length for row in rows if row.draft_length]
    length = float(np.median(lengths)) if lengths else 4.0
    last = report.costs.layers - 1
    depth = np.linspace(0, min(max([row.exit_layer or 0 for row in rows], default=1) + 1.5, last), 90)
    share = np.linspace(min([row.acceptance or 0 for row in rows], default=0.5) * 0.85, 1, 60)
    grid = np.array([[implied(report.costs, e, length, a) for e in depth] for a in share])
    axes.contourf(depth, share, grid, levels=9, cmap="Greys", alpha=0.28)
    lines = axes.contour(depth, share, grid, levels=9, colors="#7a8591", linewidths=0.7)
    axes.clabel(lines, fmt="%.2f×", fontsize=7.5)
    for row in rows:
        axes.scatter(row.exit_layer, row.acceptance, color=_colour(row), s=46, zorder=3, edgecolor="white")
    axes.set_xlim(depth[0] - 0.03 * depth[-1], depth[-1])
    _labels(axes, rows)
    axes.set_xlabel("E, mean exit layer (0: prompt lookup)")
    axes.set_ylabel("acceptance, accepted / drafted")
    axes.set_title(
        f"{_title(report)}\nlines: speedup implied at d = {length:.1f}; beside a method: its own d, and its speedup",
        loc="left", fontsize=9.5,
    )  # fmt: skip
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=DPI)


def _labels(axes: Any, rows: Sequence[Row]) -> None:
    """Each method's name beside its point: to the right of it or the left, moved until it covers no other."""
    (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
    gap, line, letter = 0.013 * (right - left), 0.04 * (high - low), 0.0107 * (right - left)
    points = [(row.exit_layer or 0.0, row.acceptance or 0.0) for row in rows]
    taken = [_Box(x - gap, x + gap, y, line / 2) for x, y in points]
    for row in sorted(rows, key=lambda row: -(row.acceptance or 0)):
        x, y = row.exit_layer or 0.0, row.acceptance or 0.0
        text = f"{row.method}  d {row.draft_length:.1f}, {row.speedup:.2f}×"
        width = letter * len(text)
        places = [
            (_Box(x + gap, x + gap + width, y + move, line), "left", x + gap)
            if side == "left"
            else (_Box(x - gap - width, x - gap, y + move, line), "right", x - gap)
            for move in (0, -line, line, -2 * line, 2 * line, -3 * line, 3 * line)
            for side in ("left", "right")
        ]
        inside = [p for p in places if p[0].left > left and p[0].right < right and low < p[0].middle < high]
        free = [p for p in inside if not any(p[0].meets(other) for other in taken)]
        box, side, at = (free or inside or places)[0]
        taken.append(box)
        axes.annotate(
            text, (x, y), (at, box.middle), fontsize=8, va="center", zorder=4, ha=side, color=_colour(row, dark=True),
            bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            arrowprops=None if box.middle == y else _leader(side),
        )  # fmt: skip


def _leader(side: str) -> dict[str, Any]:
    """A thin line from a point to the near edge of its label."""
    return {"arrowstyle": "-", "color": THEIRS, "linewidth": 0.8, "relpos": (0.0 if side == "left" else 1.0, 0.5)}


@dataclass(frozen=True)
class _Box:
    """A label's place, in the units of the axes."""

    left: float
    right: float
    middle: float
    height: float

    def meets(self, other: "_Box") -> bool:
        """Whether the two overlap."""
        near = abs(self.middle - other.middle) < (self.height + other.height) / 2
        return near and self.left < other.right and other.left < self.right


def choices(path: Path, reports: Sequence[Report]) -> None:
    """How often adaptive rules draft from each layer, and how long; a row of two histograms a method."""
    (report,) = reports
    seen: dict[str, tuple[Counter[int], Counter[int]]] = {}
    for s in report.samples:
        layers, lengths = seen.setdefault(s.method, (Counter(), Counter()))
        for layer, drafts in zip(s.exits, s.drafts, strict=True):
            if layer is not None:
                layers[layer] += 1
                lengths[drafts] += 1
    adaptive = {name: both for name, both in seen.items() if any(_varies(counts) for counts in both)}
    figure = _figure(8, 1.25 * max(len(adaptive), 1) + 1.0)
    figure.suptitle(_title(report), x=0.01, ha="left", fontsize=10)
    if not adaptive:
        figure.text(0.5, 0.5, "no method here chooses", ha="center", va="center")
        figure.savefig(path, dpi=DPI)
        return
    grid = figure.subplots(len(adaptive), 2, squeeze=False, sharex="col")
    for (name, both), panels in zip(adaptive.items(), grid, strict=True):
        colour = OURS if name.startswith("lede") else THEIRS
        for axes, counts in zip(panels, both, strict=True):
            total = sum(counts.values())
            axes.bar(list(counts), [100 * n / total for n in counts.values()], color=colour, width=0.8)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=8)
            axes.yaxis.set_major_locator(_ticks())
        panels[0].set_ylabel("% of rounds", fontsize=8)
        panels[0].set_title(name, loc="left", fontsize=9, color=_ink(name))
    for axes, label in zip(grid[-1], ("exit layer (0: prompt lookup)", "drafts in a round"), strict=True):
        axes.set_xlabel(label)
    for column, index in ((0, 0), (1, 1)):
        values = sorted({value for both in adaptive.values() for value in both[index]})
        grid[0][column].set_xticks(range(values[0], values[-1] + 1, 1 if values[-1] - values[0] < 20 else 4))
    figure.savefig(path, dpi=DPI)


def _varies(counts: Counter[int]) -> bool:
    """Whether more than the ends of texts (a tenth of the rounds) is anything but the most frequent value."""
    total = sum(counts.values())
    return total > 0 and max(counts.values()) < 0.9 * total


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    return Figure(figsize=(width, height), layout="constrained")


def _ticks() -> Any:
    from matplotlib.ticker import MaxNLocator

    return MaxNLocator(3, integer=True)


def _title(report: Report) -> str:
    facts = report.facts
    device = facts["device"].removesuffix(")").removeprefix("cpu (")
    return f"{facts['model']} · {facts['task']} · {facts['dtype']} · {device} · {facts['prompts']} prompts"


def _colour(row: Row, dark: bool = False) -> str:
    return OURS if row.method.startswith("lede") else INK if dark else THEIRS


def _ink(name: str) -> str:
    return OURS if name.startswith("lede") else INK
