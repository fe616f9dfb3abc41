"""The ranking of a grid: each variant over its seeds, beside the best fixed rule, as rows, JSON and a picture."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import numpy as np
from numpy.typing import NDArray

from lede.learn.variants import Result
from lede.replay.files import write_json
from lede.replay.pictures import figure, save

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Ranked:
    """One variant. rate: mean over its seeds, tokens per millisecond, with a 95 % interval; NaN where none was found.

    exit_layer, drafts, acceptance: means over seeds. over_static: speedup over the best fixed rule of the training
    texts, and its interval, paired over the texts that both wrote; NaN without sweeps. seeds, diverged, failed: how
    many. folder: of the best seed. message: why it failed.
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
    over_low: float
    over_high: float
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

    rate = over = (math.nan, math.nan, math.nan)
    if good and all(result.texts for result in good):
        rate, over = (_over_seeds([result.texts or {} for result in good], above) for above in ("tokens", "static"))
    elif not math.isnan(mean("rate")):
        rates = np.array([result.score["rate"] or math.nan for result in good])
        episodes = min(result.score["effective"] or 0.0 for result in good)
        rate = _interval(rates, mean("rate_error"), max(episodes - 1, 1.0))
    best = max(good, key=lambda result: result.score["rate"] or 0.0, default=None)
    counts = Counter(result.status for result in results)
    folder = f"{best.name}/seed={best.seed}" if best else ""
    message = next((result.message for result in results if result.status == "failed"), "")
    means = mean("exit_layer"), mean("drafts"), mean("acceptance"), mean("reward")
    return Ranked(name, *rate, *means, *over, len(good), counts["diverged"], counts["failed"], folder, message)


def _over_seeds(texts: Sequence[dict[str, list[float]]], above: str) -> tuple[float, float, float]:
    """Σ above / Σ milliseconds over the texts: its mean over seeds, and the interval.

    The texts are the same for every seed, so what they add to the error is that of the seeds' mean, by groups of texts.
    """
    ratios, shares = [], []
    for seed in texts:
        top, below = np.array(seed[above]), np.array(seed["milliseconds"])
        group = np.unique(seed["group"], return_inverse=True)[1]
        ratios.append(top.sum() / below.sum())
        shares.append(np.bincount(group, top - ratios[-1] * below) / below.sum())
    groups = len(shares[0])
    if groups < 2:
        return float(np.mean(ratios)), math.nan, math.nan
    error = math.sqrt(float((np.mean(shares, 0) ** 2).sum()) * groups / (groups - 1))
    return _interval(np.array(ratios), error, groups - 1)


def _interval(values: Float, error: float, freedom: float) -> tuple[float, float, float]:
    """Mean over seeds (S,), and a 95 % interval by the t distribution with both kinds of chance in it.

    error: the standard error of the mean from which texts there are, with so many degrees of freedom; the seeds' spread
    has S - 1, and their sum what Welch and Satterthwaite say.
    """
    from scipy.stats import t  # it takes a second, and only rankings need it

    count = len(values)
    between = float(np.std(values, ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    total = math.hypot(error, between)
    parts = error**4 / freedom + (between**4 / (count - 1) if count > 1 else 0.0)
    half = float(t.ppf(0.975, total**4 / parts)) * total if parts else 0.0
    middle = float(values.mean())
    return middle, middle - half, middle + half


def exact(results: Sequence[Result]) -> bool:
    """Whether all are scored on sweeps, none estimated from the log."""
    return all(result.texts for result in results if result.status == "ok")


def to_json(rows: Sequence[Ranked], results: Sequence[Result]) -> dict[str, object]:
    """Ready for JSON: `ranking`, a row a variant, null where nothing is known; `exact`."""
    plain = [{name: None if value != value else value for name, value in asdict(row).items()} for row in rows]
    return {"exact": exact(results), "ranking": plain}


def write_ranking(folder: Path, rows: Sequence[Ranked], results: Sequence[Result]) -> None:
    """ranking.json and, where rates are known, ranking.png."""
    write_json(folder / "ranking.json", to_json(rows, results))
    if known := [row for row in rows if not math.isnan(row.rate)]:
        _draw(folder / "ranking.png", known, results)


def _draw(path: Path, rows: Sequence[Ranked], results: Sequence[Result]) -> None:
    """A line a variant: the mean rate, its interval, each seed; dashed: the best fixed rule."""
    picture = figure(9, 1.2 + 0.32 * len(rows))
    axes = picture.subplots()
    for y, row in enumerate(rows):
        axes.errorbar(row.rate, y, xerr=[[row.rate - row.low], [row.high - row.rate]], fmt="o", color="C0")
        seeds = [r.score["rate"] or math.nan for r in results if r.name == row.name and r.status == "ok"]
        axes.plot(seeds, [y] * len(seeds), marker="|", color="0.35", linestyle="none", markersize=9)
    for rate in {sum(r.texts["tokens"]) / sum(r.texts["static"]) for r in results if r.texts}:
        axes.axvline(rate, color="C1", linestyle="--", linewidth=1)
    axes.set_yticks(range(len(rows)), [row.name for row in rows], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel("validation tokens / ms: mean over seeds, 95 % interval, each seed; dashed: best fixed rule")
    axes.grid(alpha=0.25, axis="x")
    save(picture, path)
