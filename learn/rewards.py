"""Rewards by name, or from a file of one's own: functions of logged columns, so that one dataset serves them all.

`paper`: §3.1.3. `accepted`: +1 for each draft that is committed, -1 for each that is not, 0 for a decision that drafts
nothing; so a draft is worth making where it is likelier right than wrong. `time`: tokens less their time's worth, at a
rate. `FILE.py`: a file that defines

    def reward(columns, costs):  # columns: {name: array (N,)}, costs: replay.Costs or None
        return ...               # array (N,)

over whole rounds, or walks: `COLUMNS` of the transitions table (data/README.md), and `last`, the round's last row, and
`bypass`, rows at which a walk goes on past its last candidate: no draft, one token of the full model's.
"""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.learn.errors import LearnError
from lede.learn.rate import drafts_made, tokens_and_time
from lede.learn.views import bypassed
from lede.replay.reader import Columns
from lede.replay.reward import paper_reward
from lede.replay.schema import STATE
from lede.simulate.costs import Costs

NAMED = ("paper", "accepted", "time")
COLUMNS = (
    *STATE, "action", "propensity", "episode", "round", "phase", "layer", "draft_index", "forced", "accepted",
    "draft_token", "target_token", "last", "bypass",
)  # fmt: skip

Array = NDArray[Any]


def check_reward(reward: str) -> None:
    """Raise LearnError unless it is a reward's name or an existing file."""
    if reward not in NAMED and not (reward.endswith(".py") and Path(reward).is_file()):
        there = "there is no such file" if reward.endswith(".py") else "choose paper, accepted, time or a FILE.py"
        raise LearnError(f"reward is {reward!r}; {there}")


def rewarded(columns: Columns, reward: str, layers: int, costs: Costs | None, rate: float | None = None) -> Columns:
    """The columns with another reward. columns: with `extended` features, which a file's reward may look at.

    layers: L, of the model. rate: tokens a millisecond, for the time reward, which needs costs as well.
    Raises LearnError if a file's reward cannot be computed.
    """
    raw, passed = columns.raw, bypassed(columns)
    values: Array
    if reward == "paper":
        # a walk that goes on to the full model ends as an exit at layer L, which is always right, would
        values = paper_reward(columns.actions, raw["accepted"], raw["layer"], layers) + passed
    elif reward == "accepted":
        values = np.where(drafts_made(columns), np.where(raw["accepted"], 1.0, -1.0), 0.0)
    elif reward == "time":
        if costs is None or rate is None:
            raise LearnError("the time reward needs measured costs: collect with this version, or use another reward")
        tokens, milliseconds = tokens_and_time(columns, costs)
        values = tokens - rate * milliseconds
    else:
        values = _from_file(columns, Path(reward), costs)
    return replace(columns, rewards=values.astype(np.float32))


def _from_file(columns: Columns, path: Path, costs: Costs | None) -> Array:
    rows = len(columns.actions)
    try:
        function = runpy.run_path(str(path)).get("reward")
        if not callable(function):
            raise LearnError(f"{path} defines no function reward(columns, costs)")
        values = np.asarray(function(_handed(columns), costs), np.float64)
    except LearnError:
        raise
    except Exception as error:
        raise LearnError(f"the reward of {path} fails: {type(error).__name__}: {error}") from error
    if values.shape != (rows,):
        raise LearnError(f"the reward of {path} has shape {values.shape}; it must give one number a row, ({rows},)")
    if not np.isfinite(values).all():
        bad = int(np.flatnonzero(~np.isfinite(values))[0])
        raise LearnError(f"the reward of {path} is {values[bad]} at row {bad}; it must be a finite number everywhere")
    return values


def _handed(columns: Columns) -> dict[str, Array]:
    """What a file's function sees; copies, so that it can do with them as it likes."""
    last = np.zeros(len(columns.actions), bool)
    last[columns.chain_starts[1:] - 1] = True
    own: dict[str, Array] = {
        "action": columns.actions,
        "propensity": columns.propensities,
        "episode": columns.episodes,
        "last": last,
        "bypass": bypassed(columns),
    }
    for number, name in enumerate(columns.feature_names):
        own[name] = columns.observations[:, number]
    seen = columns.raw | own
    return {name: seen[name].copy() for name in COLUMNS if name in seen}
