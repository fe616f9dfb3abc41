"""A picture of the numbers of a dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lede.replay.errors import DatasetError
from lede.replay.pictures import figure, save

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BLUE, GREEN, GREY, RED = "#4c72b0", "#2f9e6e", "#b8bec8", "#c44e52"
FEATURES = ("conf_topk", "entropy", "conf_trace", "margin", "draft_logp", "accept_trace")


def plot_dataset(report: Mapping[str, Any], out: str | os.PathLike[str]) -> Path:
    """Draw exits and acceptance by layer, draft lengths, rewards and features, and save them under `out`.

    `report` is what `inspect_dataset` returned. The suffix of `out` says the format (.png, .pdf, .svg). Raises
    `DatasetError` if the dataset could not be read or the format is unknown, `OSError`.
    """
    if "unreadable" in report:
        raise DatasetError(f"cannot plot a damaged dataset: {report['unreadable']}")
    picture = figure(14, 10.5)
    axes = picture.subplots(3, 3).flat
    counts, model = report["counts"], report["header"]["model"]
    title = f"{counts['episodes']:,} episodes · {counts['rounds']:,} rounds · {counts['decisions']:,} decisions"
    picture.suptitle(f"{model['name']} · {title}", fontsize=14, fontweight="bold")
    _layers(next(axes), report["layers"])
    _draft_lengths(next(axes), report["draft_lengths"])
    _rewards(next(axes), report["rewards"])
    for name in FEATURES:
        _feature(next(axes), name, report["features"][name])
    return save(picture, Path(out))


def _layers(axes: Axes, layers: list[dict[str, Any]]) -> None:
    names = [f"{layer['layer']}" if layer["layer"] else "lookup" for layer in layers]
    rounds = sum(layer["exits"] for layer in layers) or 1
    axes.bar(names, [layer["exits"] / rounds for layer in layers], color=GREY, label="share of rounds")
    for key, color, label in (("agreement", BLUE, "first token right"), ("acceptance", GREEN, "drafts accepted")):
        axes.plot(names, [_number(layer[key]) for layer in layers], "o-", color=color, label=label)
    axes.legend(frameon=False, fontsize=8)
    _style(axes, "Exit layers", "exit layer", "share", top=1)


def _draft_lengths(axes: Axes, lengths: list[int]) -> None:
    axes.bar(range(len(lengths)), lengths, color=BLUE)
    _mean(axes, sum(length * count for length, count in enumerate(lengths)) / max(sum(lengths), 1))
    axes.set_xlim(-0.6, len(lengths) - 0.4)
    _style(axes, "Draft lengths", "drafts per round", "rounds")


def _rewards(axes: Axes, rewards: dict[str, Any]) -> None:
    axes.stairs(rewards["counts"], rewards["edges"], fill=True, color=BLUE)
    _mean(axes, rewards["mean"])
    _style(axes, "Rewards (paper)", "reward", "decisions", top=1.1 * max(rewards["counts"]))


def _mean(axes: Axes, mean: float) -> None:
    axes.axvline(mean, color=RED, linewidth=1, linestyle="--")
    where: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
    axes.annotate(f"mean {mean:.2f}", (mean, 1), (4, -10), **where)


def _feature(axes: Axes, name: str, feature: dict[str, Any]) -> None:
    edges, counts = feature["edges"], feature["counts"]
    axes.stairs(counts, edges, fill=True, color=GREY, baseline=0.5)
    _style(axes, name, "", "decisions")
    axes.set_yscale("log")  # a feature's most frequent value would flatten all the others
    axes.set_ylim(0.5)
    share = axes.twinx()
    middles = [(lo + hi) / 2 for lo, hi in pairwise(edges)]
    # a share of a handful of rows is noise
    enough = [_number(s) if n >= 20 else float("nan") for s, n in zip(feature["accepted"], counts, strict=True)]
    share.plot(middles, enough, color=GREEN, linewidth=2)
    _style(share, "", "", "", top=1)
    share.set_ylabel("accepted", color=GREEN)
    share.tick_params(axis="y", colors=GREEN)


def _style(axes: Axes, title: str, x: str, y: str, top: float | None = None) -> None:
    if title:
        axes.set_title(title, fontsize=11, loc="left", fontweight="bold")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_ylim(0, top)


def _number(value: float | None) -> float:
    return float("nan") if value is None else value
