"""An evaluation as a picture: predicted speedups below the oracle, depth against acceptance, exits by layer."""

from pathlib import Path

from lede.replay.pictures import OTHERS, OURS, figure, save
from lede.simulate.baselines import BASELINES
from lede.simulate.evaluate import Evaluation


def draw(path: Path, evaluation: Evaluation, title: str) -> None:
    """Three panels, in the format that the suffix of `path` says."""
    rows = evaluation.rows
    colours = {row.method: OTHERS if row.method in ("autoregressive", *BASELINES) else OURS for row in rows}
    picture = figure(12, 0.34 * len(rows) + 4.6)
    picture.suptitle(title)
    speedups, points, exits = picture.subplot_mosaic("AA;BC").values()

    for row in rows:
        below, above = row.predicted_speedup - row.predicted_low, row.predicted_high - row.predicted_speedup
        speedups.barh(row.method, row.predicted_speedup, xerr=[[below], [above]], color=colours[row.method], capsize=3)
    speedups.axvline(evaluation.oracle_speedup, linestyle="--", color="black")
    speedups.set_xlabel("predicted speedup, 95 % interval over groups of texts; dashed: the oracle")

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
    save(picture, path)
