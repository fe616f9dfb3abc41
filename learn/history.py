"""The record of a training run: `learning.csv` and its picture."""

import csv
import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields
from pathlib import Path

from lede.learn.data import Snapshot
from lede.learn.score import Score
from lede.replay.pictures import figure, save
from lede.simulate.oracle import Static


@dataclass(frozen=True)
class Point:
    """One scored moment. loss: mean since the last one. rate: the one to beat. The others: a `Score` on validation."""

    update: int
    loss: float
    rate: float
    validation_reward: float
    validation_rate: float
    exit_layer: float
    draft_length: float
    acceptance: float
    effective: float

    @classmethod
    def of(cls, step: Snapshot, score: Score) -> "Point":
        rate = math.nan if step.rate is None else step.rate
        parts = (score.reward, score.rate, score.exit_layer, score.drafts, score.acceptance, score.effective)
        return cls(step.update, step.loss, rate, *parts)


def write_csv(path: Path, points: Sequence[Point]) -> None:
    """One line per point; an empty cell where nothing is known."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(field.name for field in fields(Point))
        for point in points:
            writer.writerow(_cell(value) for value in astuple(point))


def _cell(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    return f"{value:.6g}" if math.isfinite(value) else ""


def draw(
    path: Path, points: Sequence[Point], kept: int, static: Static | None, achieved: tuple[float, float] | None
) -> None:
    """Draw the curves as a PNG: above, the paper's Figure 2 (reward, acceptance rate, average exit layer); below, draft
    length, rate and loss. kept: the update whose network was kept. static: the rule to beat; achieved: its rate there.
    """
    picture = figure(11, 6.5)
    panels = {
        "validation_reward": "(a) reward, validation",
        "acceptance": "(b) acceptance rate",
        "exit_layer": "(c) average exit layer",
        "draft_length": "drafts per round",
        "validation_rate": "tokens / ms, validation",
        "loss": "loss",
    }
    for axes, (name, title) in zip(picture.subplots(2, 3).flat, panels.items(), strict=True):
        values = [getattr(point, name) for point in points]
        axes.plot([point.update for point in points], values, marker=".", linewidth=1.2)
        axes.axvline(kept, color="0.7", linewidth=1, zorder=0)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25)
        if not any(map(math.isfinite, values)):
            axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color="0.5")
        if name == "validation_rate" and static is not None and achieved is not None:
            label = f"best static, E={static.layer}, d={static.drafts}"
            axes.axhline(achieved[0], color="C1", linestyle="--", linewidth=1, label=label)
            axes.legend(fontsize=8)
    picture.suptitle("by updates; grey line: the network that was kept", fontsize=9, color="0.4")
    save(picture, path)
