"""The record of a training run: `learning.csv` and its picture."""

import math
from collections.abc import Sequence
from pathlib import Path

from lede.learn.data import Snapshot
from lede.learn.score import Score
from lede.replay.pictures import figure, save
from lede.simulate.oracle import Static


def point(step: Snapshot, score: Score) -> dict[str, float]:
    """One scored moment, by the columns of learning.csv; what is not known is NaN. See `Snapshot` and `Score`."""
    return {
        "update": step.update,
        "loss": step.loss,
        "rate": math.nan if step.rate is None else step.rate,
        "validation_reward": score.reward,
        "validation_rate": score.rate,
        "exit_layer": score.exit_layer,
        "draft_length": score.drafts,
        "acceptance": score.acceptance,
        "effective": score.effective,
    }


def write_csv(path: Path, points: Sequence[dict[str, float]]) -> None:
    """One line per point; an empty cell where nothing is known."""
    lines = [",".join(points[0])]
    lines += [",".join(f"{v:.6g}" if math.isfinite(v) else "" for v in values.values()) for values in points]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(
    path: Path, points: Sequence[dict[str, float]], kept: int, static: Static | None, achieved: float | None
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
        curve = [values[name] for values in points]
        axes.plot([values["update"] for values in points], curve, marker=".", linewidth=1.2)
        axes.axvline(kept, color="0.7", linewidth=1, zorder=0)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25)
        if not any(map(math.isfinite, curve)):
            axes.text(0.5, 0.5, "not known", transform=axes.transAxes, ha="center", color="0.5")
        if name == "validation_rate" and static is not None and achieved is not None:
            label = f"best static, E={static.layer}, d={static.drafts}"
            axes.axhline(achieved, color="C1", linestyle="--", linewidth=1, label=label)
            axes.legend(fontsize=8)
    picture.suptitle("by updates; grey line: the network that was kept", fontsize=9, color="0.4")
    save(picture, path)
