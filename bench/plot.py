"""The bench as a picture: how much faster each method writes than plain decoding."""

from collections.abc import Sequence
from pathlib import Path

from bench.summary import BASELINE, Row


def draw(path: Path, rows: Sequence[Row], title: str) -> None:
    """Bars of the speedups with their 95 % intervals, tokens/s beside them; written to `path` as PNG."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(9, 0.6 * len(rows) + 1.6), layout="constrained")
    axes = figure.subplots()
    names = [row.method for row in rows]
    colours = ["#1f77b4" if name.startswith("lede") else "#9aa5b1" for name in names]
    spans = [[row.speedup - row.speedup_low for row in rows], [row.speedup_high - row.speedup for row in rows]]
    axes.barh(names, [row.speedup for row in rows], xerr=spans, color=colours, capsize=3, ecolor="#333333")
    for i, row in enumerate(rows):
        axes.text(row.speedup_high + 0.03, i, f"{row.speedup:.2f}×  {row.tokens_per_s:.0f} tokens/s", va="center")
    axes.axvline(1, color="#333333", linewidth=0.8, linestyle=":")
    axes.set_xlim(0, max(row.speedup_high for row in rows) * 1.35)
    axes.set_xlabel(f"speedup over {BASELINE} decoding (95 % interval over prompts)")
    axes.set_title(title, loc="left", fontsize=10)
    axes.invert_yaxis()
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
