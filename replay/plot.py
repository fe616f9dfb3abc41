"""A picture of the numbers of a dataset."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
    names = [str(layer["layer"] or "lookup") for layer in layers]
    rounds = sum(layer["exits"] for layer in layers) or 1
    axes.bar(names, [layer["exits"] / rounds for layer in layers], color=GREY, label="share of rounds")
    for key, color, label in (("agreement", BLUE, "first token right"), ("acceptance", GREEN, "drafts accepted")):
        axes.plot(names, np.array([layer[key] for layer in layers], float), "o-", color=color, label=label)
    axes.legend(frameon=False, fontsize=8)
    axes.set(xlabel="exit layer", ylabel="share", ylim=(0, 1))
    _title(axes, "Exit layers")


def _draft_lengths(axes: Axes, rounds: list[int]) -> None:
    axes.bar(range(len(rounds)), rounds, color=BLUE)
    _mean(axes, np.average(range(len(rounds)), weights=rounds))
    axes.set(xlabel="drafts per round", ylabel="rounds")
    _title(axes, "Draft lengths")


def _rewards(axes: Axes, rewards: dict[str, Any]) -> None:
    axes.stairs(rewards["counts"], rewards["edges"], fill=True, color=BLUE)
    _mean(axes, rewards["mean"])
    axes.set(xlabel="reward", ylabel="decisions")
    _title(axes, "Rewards (paper)")


def _mean(axes: Axes, mean: float) -> None:
    line = axes.axvline(mean, color=RED, linewidth=1, linestyle="--", label=f"mean {mean:.2f}")
    axes.legend(handles=[line], frameon=False, fontsize=8)


def _feature(axes: Axes, name: str, feature: dict[str, Any]) -> None:
    edges, counts = np.array(feature["edges"]), np.array(feature["counts"])
    axes.stairs(counts, edges, fill=True, color=GREY, baseline=0.5)
    # Logarithmic: a feature's most frequent value would flatten all the others.
    axes.set(ylabel="decisions", yscale="log", ylim=(0.5, None))
    _title(axes, name)
    share = axes.twinx()
    accepted = np.where(counts >= 20, np.array(feature["accepted"], float), np.nan)  # fewer rows say little
    share.plot((edges[1:] + edges[:-1]) / 2, accepted, color=GREEN, linewidth=2)
    share.set_ylim(0, 1)
    share.set_ylabel("accepted", color=GREEN)
    share.tick_params(axis="y", colors=GREEN)


def _title(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11, loc="left", fontweight="bold")
