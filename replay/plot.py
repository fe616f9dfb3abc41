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

BLUE, GREEN, GREY = "#4c72b0", "#2f9e6e", "#b8bec8"
FEATURES = ("conf_topk", "entropy", "conf_trace", "margin", "draft_logp", "accept_trace")


def plot_dataset(report: Mapping[str, Any], out: str | os.PathLike[str]) -> Path:
    """Draw exits and acceptance by layer, draft lengths, rewards and features, and save them under `out`.

    `report` is what `inspect_dataset` returned. The suffix of `out` says the format (.png, .pdf, .svg). Raises
    `DatasetError` if the dataset could not be read or the format is unknown, `OSError`.
    """
    if "unreadable" in report:
        raise DatasetError(f"cannot plot a damaged dataset: {report['unreadable']}")
    picture = figure(14, 10.5)
    layers, lengths, rewards, *features = picture.subplots(3, 3).flat
    counts, model = report["counts"], report["header"]["model"]
    title = f"{counts['episodes']:,} episodes · {counts['rounds']:,} rounds · {counts['decisions']:,} decisions"
    picture.suptitle(f"{model['name']} · {title}")
    _layers(layers, report["layers"])
    rounds = report["draft_lengths"]
    lengths.bar(range(len(rounds)), rounds, color=BLUE)
    mean = np.average(range(len(rounds)), weights=rounds)
    lengths.set(title=f"draft lengths, mean {mean:.2f}", xlabel="drafts per round", ylabel="rounds")
    rewards.stairs(report["rewards"]["counts"], report["rewards"]["edges"], fill=True, color=BLUE)
    mean = report["rewards"]["mean"]
    rewards.set(title=f"rewards (the paper's), mean {mean:.2f}", xlabel="reward", ylabel="decisions")
    for axes, name in zip(features, FEATURES, strict=True):
        _feature(axes, name, report["features"][name])
    return save(picture, Path(out))


def _layers(axes: Axes, layers: list[dict[str, Any]]) -> None:
    names = [str(layer["layer"] or "lookup") for layer in layers]
    rounds = sum(layer["exits"] for layer in layers) or 1
    axes.bar(names, [layer["exits"] / rounds for layer in layers], color=GREY, label="share of rounds")
    for key, color, label in (("agreement", BLUE, "first token right"), ("acceptance", GREEN, "drafts accepted")):
        axes.plot(names, np.array([layer[key] for layer in layers], float), "o-", color=color, label=label)
    axes.legend(fontsize=8)
    axes.set(title="exit layers", xlabel="exit layer", ylabel="share", ylim=(0, 1))


def _feature(axes: Axes, name: str, feature: dict[str, Any]) -> None:
    edges, counts = np.array(feature["edges"]), np.array(feature["counts"])
    axes.stairs(counts, edges, fill=True, color=GREY, baseline=0.5)
    # Logarithmic: a feature's most frequent value would flatten all the others.
    axes.set(title=name, ylabel="decisions", yscale="log", ylim=(0.5, None))
    share = axes.twinx()
    accepted = np.where(counts >= 20, np.array(feature["accepted"], float), np.nan)  # fewer rows say little
    share.plot((edges[1:] + edges[:-1]) / 2, accepted, color=GREEN)
    share.set_ylim(0, 1)
    share.set_ylabel("accepted", color=GREEN)
