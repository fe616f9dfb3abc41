"""The record of a training run: `learning.csv` and its picture."""

import math
from collections.abc import Sequence
from pathlib import Path

from lede.learn.data import Snapshot
from lede.learn.score import Score
from lede.replay.pictures import figure, save
from lede.simulate.oracle import Static

Points = Sequence[dict[str, float]]


def point(step: Snapshot, score: Score) -> dict[str, float]:
    """One line of learning.csv: the update, the loss, the rate to beat, and the `Score` on the validation texts."""
    to_beat = math.nan if step.rate is None else step.rate
    return {"update": step.update, "loss": step.loss, "rate_to_beat": to_beat, **vars(score)}


def write_csv(path: Path, points: Points) -> None:
    """One line per point; an empty cell where nothing is known."""
    lines = [",".join(points[0])]
    lines += [",".join(f"{v:.6g}" if math.isfinite(v) else "" for v in values.values()) for values in points]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def draw(path: Path, points: Points, kept: int, static: Static | None, achieved: tuple[float, float] | None) -> None:
    """Draw the curves on validation texts: above, the paper's Figure 2; below, draft length, rate and loss.

    kept: the update whose network was kept. static: the rule to beat; achieved: its rate there, and the error.
    """
    picture = figure(11, 6.5)
    panels = {
        "reward": "(a) reward",
        "acceptance": "(b) acceptance rate",
        "exit_layer": "(c) average exit layer",
        "drafts": "drafts per round",
        "rate": "tokens / ms",
        "loss": "loss",
    }
    for axes, (name, title) in zip(picture.subplots(2, 3).flat, panels.items(), strict=True):
        axes.plot([values["update"] for values in points], [values[name] for values in points], marker=".")
        axes.axvline(kept, color="0.7", linewidth=1, zorder=0)
        axes.set_title(title, fontsize=10)
        if name == "rate" and static is not None and achieved is not None:
            axes.axhline(
                achieved[0], color="C1", linestyle="--", label=f"best static, E={static.layer}, d={static.drafts}"
            )
            axes.legend(fontsize=8)
    picture.suptitle("by updates, on validation texts; grey line: the network that was kept", fontsize=9, color="0.4")
    save(picture, path)
