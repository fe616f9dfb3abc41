"""Rewards by name, or from a file of one's own: functions of logged columns, so that one dataset serves them all.

`paper`: §3.1.3. `accepted`: +1 for each draft that is committed, -1 for each that is not, 0 for a decision that drafts
nothing. `time`: tokens less their time's worth, at a rate. `FILE.py`: a file that defines reward(columns, costs), with
columns {name: array (N,)} of whole rounds or walks and `simulate.costs.Costs` or None, and gives an array (N,). Columns
are those of `Columns`, and `last`, the round's last row.
"""

import runpy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lede.learn.errors import LearnError
from lede.process import EXIT, WALK
from lede.replay.columns import Columns, bypassed
from lede.replay.reward import paper_reward
from lede.simulate.costs import Costs

if TYPE_CHECKING:
    from lede.simulate.batched import Prices

NAMED = ("paper", "accepted", "time")

Array = NDArray[Any]
Float = NDArray[np.float64]


def check_reward(reward: str) -> None:
    """Raise LearnError unless it is a reward's name or an existing file."""
    if reward not in NAMED and not (reward.endswith(".py") and Path(reward).is_file()):
        there = "there is no such file" if reward.endswith(".py") else "choose paper, accepted, time or a FILE.py"
        raise LearnError(f"reward is {reward!r}; {there}")


def rewarded(
    columns: Columns, reward: str, layers: int, costs: Costs | None, prices: "Prices | None", rate: float | None
) -> Columns:
    """The columns with another reward. columns: with `extended` features, which a file's reward may look at.

    layers: L, of the model. prices and rate (tokens per millisecond): for the time reward.
    Raises LearnError if a file's reward cannot be computed.
    """
    raw = columns.raw
    values: Array
    if reward == "paper":
        values = paper_reward(columns.actions, raw["accepted"], raw["layer"], layers)
    elif reward == "accepted":
        values = np.where(drafts_made(columns), np.where(raw["accepted"], 1.0, -1.0), 0.0)
    elif reward == "time":
        assert prices is not None and rate is not None
        tokens, milliseconds = tokens_and_time(columns, prices)
        values = tokens - rate * milliseconds
    else:
        values = _from_file(columns, Path(reward), costs)
    return replace(columns, rewards=values.astype(np.float32))


def tokens_and_time(rounds: Columns, prices: "Prices") -> tuple[Float, Float]:
    """What each row of the `round` horizon adds to the tokens committed and to the milliseconds spent, (N,) each.

    Less the time to reach the first candidate, which no decision can change: see `first_step`.
    """
    raw, last, passed, kind = rounds.raw, last_rows(rounds), bypassed(rounds), kinds(rounds)
    tokens = np.where(drafts_made(rounds), raw["accepted"], 0.0) + last
    at = np.searchsorted(rounds.layers, raw["layer"])
    finish = prices.finish[kind, at, np.where(passed, 0, raw["draft_index"])]
    on = np.where(rounds.actions == EXIT, prices.draft[kind, at], prices.walk[kind, at])
    return tokens, np.where(last, finish, on)


def first_step(rounds: Columns, prices: "Prices") -> Float:
    """Milliseconds (N,) to reach the first candidate visited, on each round's first row; 0 on all others."""
    starts = rounds.chain_starts[:-1]
    at = np.searchsorted(rounds.layers, rounds.raw["layer"][starts])
    spent = np.zeros(len(rounds.actions))
    spent[starts] = prices.first[kinds(rounds)[starts], at]
    return spent


def plain_rate(rounds: Columns, prices: "Prices") -> float:
    """Tokens per millisecond of plain decoding of texts such as these."""
    return float(1 / prices.plain[kinds(rounds)].mean())


def kinds(columns: Columns) -> NDArray[np.int64]:
    """Whether each row (N,) is of sampled text: 1, as the first axis of `Prices` counts."""
    return (columns.raw["temperature"] > 0).astype(np.int64)


def drafts_made(rounds: Columns) -> NDArray[np.bool_]:
    """Whether each row's token is a draft of its round: every row of the draft phase, and the walk's exit."""
    return (rounds.raw["phase"] != WALK) | (rounds.actions == EXIT)


def last_rows(columns: Columns) -> NDArray[np.bool_]:
    """Whether each row (N,) is its chain's last."""
    return np.isin(np.arange(len(columns.actions)), columns.chain_starts[1:] - 1)


def _from_file(columns: Columns, path: Path, costs: Costs | None) -> Array:
    # Features last: what is in both is then a float, whose negative is one.
    seen = columns.raw | dict(zip(columns.feature_names, columns.observations.T, strict=True))
    seen |= {"action": columns.actions, "propensity": columns.propensities, "episode": columns.episodes}
    seen |= {"last": last_rows(columns)}
    try:  # copies, so that it can do with them as it likes
        function = runpy.run_path(str(path))["reward"]
        values = np.asarray(function({name: column.copy() for name, column in seen.items()}, costs), np.float64)
    except Exception as error:
        raise LearnError(f"the reward of {path} fails: {type(error).__name__}: {error}") from error
    if values.shape != columns.actions.shape or not np.isfinite(values).all():
        raise LearnError(f"the reward of {path} must give a finite number for each of {len(columns.actions)} rows")
    return values
