"""The ranking of a grid: each variant over its seeds, beside the best fixed rule, as rows, JSON and a picture."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev

from lede.learn.variants import Result

CONFIDENCE = 1.96  # standard errors in a 95 % interval


@dataclass(frozen=True)
class Ranked:
    """One variant. rate: mean over its seeds, tokens a millisecond, with a 95 % interval; NaN where none was found.

    The interval has both kinds of chance in it: which texts (the mean of the seeds' standard errors over texts, which
    all variants share) and which seeds (their spread). exit_layer, drafts, acceptance: means over seeds. over_static:
    rate over that of the best fixed rule of the training episodes. seeds, diverged, failed: how many. folder: of the
    best seed. message: why it failed.
    """

    name: str
    rate: float
    low: float
    high: float
    exit_layer: float
    drafts: float
    acceptance: float
    reward: float
    over_static: float
    seeds: int
    diverged: int
    failed: int
    folder: str
    message: str


def rank(results: Sequence[Result]) -> list[Ranked]:
    """Variants from the fastest on; where there is no rate (no costs), by reward; those without a policy last."""
    names = dict.fromkeys(result.name for result in results)
    rows = [_ranked(name, [result for result in results if result.name == name]) for name in names]

    def key(row: Ranked) -> tuple[float, float]:
        return tuple(-math.inf if math.isnan(value) else value for value in (row.rate, row.reward))  # type: ignore[return-value]

    return sorted(rows, key=key, reverse=True)


def _ranked(name: str, results: Sequence[Result]) -> Ranked:
    good = [result for result in results if result.status == "ok"]

    def mean(what: str) -> float:
        known = [value for result in good if (value := result.score[what]) is not None]
        return fmean(known) if known else math.nan

    rate, rates = mean("rate"), [value for result in good if (value := result.score["rate"]) is not None]
    between = stdev(rates) / math.sqrt(len(rates)) if len(rates) > 1 else 0.0
    half = CONFIDENCE * math.hypot(mean("rate_error"), between)
    static = next((result.static["rate"] for result in good if result.static), math.nan)
    best = max(good, key=lambda result: result.score["rate"] or 0.0, default=None)
    return Ranked(
        name=name,
        rate=rate,
        low=rate - half,
        high=rate + half,
        exit_layer=mean("exit_layer"),
        drafts=mean("drafts"),
        acceptance=mean("acceptance"),
        reward=mean("reward"),
        over_static=rate / static,
        seeds=len(good),
        diverged=sum(result.status == "diverged" for result in results),
        failed=sum(result.status == "failed" for result in results),
        folder=f"{best.name}/seed={best.seed}" if best else "",
        message=next((result.message for result in results if result.message), ""),
    )


def to_json(rows: Sequence[Ranked], results: Sequence[Result]) -> dict[str, object]:
    """Ready for JSON: `ranking`, a row a variant, null where nothing is known; `exact`, whether all are from sweeps."""
    plain = [
        {name: None if isinstance(value, float) and math.isnan(value) else value for name, value in asdict(row).items()}
        for row in rows
    ]
    return {"exact": all(result.exact for result in results if result.status == "ok"), "ranking": plain}


def write_ranking(folder: Path, rows: Sequence[Ranked], results: Sequence[Result]) -> None:
    """ranking.json and ranking.png."""
    temporary = folder / "ranking.json.tmp"
    temporary.write_text(json.dumps(to_json(rows, results), indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, folder / "ranking.json")
    known = [row for row in rows if not math.isnan(row.rate)]
    if known:
        draw_ranking(folder / "ranking.png", known, results)


def draw_ranking(path: Path, rows: Sequence[Ranked], results: Sequence[Result]) -> None:
    """A line a variant: the mean rate, its interval, each seed; and the best fixed rule."""
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(9, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for y, row in enumerate(rows):
        axes.plot([row.low, row.high], [y, y], color="C0", linewidth=1.4)
        axes.plot([row.rate], [y], marker="o", color="C0", markersize=5)
        seeds = [r.score["rate"] or math.nan for r in results if r.name == row.name and r.status == "ok"]
        axes.plot(seeds, [y] * len(seeds), marker="|", color="0.35", linestyle="none", markersize=9)
    statics = sorted({result.static["rate"] for result in results if result.static})
    for number, rate in enumerate(statics):
        label = "best fixed rule" if number == 0 else None
        axes.axvline(rate, color="C1", linestyle="--", linewidth=1, label=label)
    if statics:
        axes.legend(fontsize=8, loc="lower right")
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("tokens / ms on held-out texts: mean over seeds, 95 % interval, each seed")
    axes.grid(alpha=0.25, axis="x")
    figure.savefig(path, dpi=120)
