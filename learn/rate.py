"""The rate to beat: tokens a millisecond of the best static rule, estimated from logged decisions and measured costs.

A static rule (E, d) always drafts d tokens at layer E. Its committed tokens a round are 1 + S_1 + … + S_d, where S_k is
the chance that the first k drafts are all right, a product of conditional acceptances that the log gives per layer.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lede.learn.errors import LearnError
from lede.learn.views import bypassed
from lede.replay.reader import Columns
from lede.replay.reward import time_reward
from lede.replay.schema import EXIT, MAX_DRAFTS, WALK
from lede.simulate.costs import Costs

# Under so many rows a conditional acceptance is taken to be that of the draft before.
ENOUGH_ROWS = 20

Float = NDArray[np.float64]


@dataclass(frozen=True)
class Static:
    """Drafting `drafts` tokens at `layer`, always. tokens: committed a round; rate: tokens a millisecond."""

    layer: int
    drafts: int
    tokens: float
    rate: float


def best_static(rounds: Columns, costs: Costs) -> Static:
    """The static rule with the highest estimated rate. Raises LearnError if no candidate was ever visited."""
    rules = static_rules(rounds, costs)
    if not rules:
        raise LearnError("the dataset has no complete rounds; collect more episodes")
    return max(rules, key=lambda rule: rule.rate)


def static_rules(rounds: Columns, costs: Costs) -> list[Static]:
    """Every (E, d) with E a candidate that was visited and 1 <= d <= 12.

    A static rule reads no features and decides nothing, so it pays for neither. One at layer 0 that finds nothing to
    copy decodes a plain token instead.
    rounds: columns of the `round` horizon.
    """
    rules = []
    found = float((rounds.raw["layer"][rounds.chain_starts[:-1]] == 0).mean()) if len(rounds.truncated) else 0.0
    for layer in rounds.layers:
        right = acceptance(rounds, layer)
        if right is None:
            continue
        survival = np.cumprod(right)
        for drafts in range(1, MAX_DRAFTS + 1):
            tokens = 1 + float(survival[:drafts].sum())
            spent = costs.fixed(layer, drafts)
            if layer == 0:
                tokens = found * tokens + (1 - found)
                spent = found * spent + (1 - found) * costs.fixed(0, 0)
            rules.append(Static(layer, drafts, tokens, tokens / spent))
    return rules


def acceptance(rounds: Columns, layer: int) -> Float | None:
    """Chance (12,) that draft k = 1…12 at `layer` is right if all before it are; None if the layer was never visited.

    Each row is weighted by one over the probability that the behaviour came that far, so that a dataset explored around
    a policy, which drafts on where it is sure, gives what a rule that is never unsure would see.
    """
    raw = rounds.raw
    accepted = raw["accepted"].astype(bool)
    # A row's `accepted` covers all drafts before it; the row before is the draft before, or the walk's exit.
    alive = np.concatenate([[True], accepted[:-1]]) | (raw["phase"] == WALK)
    here = (raw["layer"] == layer) & alive
    weights = 1 / reach_probability(rounds)
    chances = np.empty(MAX_DRAFTS)
    for k in range(1, MAX_DRAFTS + 1):
        rows = here & (raw["draft_index"] == k)
        if k == 1 and not rows.any():
            return None
        enough = k == 1 or rows.sum() >= ENOUGH_ROWS
        chances[k - 1] = np.average(accepted[rows], weights=weights[rows]) if enough else chances[k - 2]
    return chances


def reach_probability(columns: Columns) -> Float:
    """Probability (N,) that the behaviour took every logged action of the chain before this row."""
    logs = np.log(columns.propensities.astype(np.float64))
    before = np.concatenate([[0.0], np.cumsum(logs)[:-1]])
    starts = np.repeat(before[columns.chain_starts[:-1]], np.diff(columns.chain_starts))
    return np.exp(before - starts)


def tokens_and_time(rounds: Columns, costs: Costs) -> tuple[Float, Float]:
    """What each row of the `round` horizon adds to the tokens committed and to the milliseconds spent, (N,) each.

    The time reward at a rate is tokens - rate * milliseconds, the time to reach the first candidate left out of it.
    A walk that goes on past its last candidate verifies no draft there.
    """
    last = np.zeros(len(rounds.actions), bool)
    last[rounds.chain_starts[1:] - 1] = True
    raw = rounds.raw
    at_rate = [
        time_reward(
            rounds.actions, raw["accepted"], raw["phase"], raw["layer"], raw["draft_index"], last, costs, rate
        ).astype(np.float64)
        for rate in (0.0, 1.0)
    ]
    tokens, milliseconds = at_rate[0], at_rate[0] - at_rate[1]
    if (passed := bypassed(rounds)).any():
        milliseconds[passed] = costs.finish(rounds.layers[-1], 0)
    return tokens, milliseconds


def first_step(rounds: Columns, costs: Costs) -> Float:
    """Milliseconds (N,) to reach the first candidate visited, on each round's first row; 0 on all others."""
    starts = rounds.chain_starts[:-1]
    searched = costs.lookup if 0 in rounds.layers else 0.0
    by_layer = [costs.visit0, *(searched + costs.step(0, layer) for layer in range(1, costs.layers + 1))]
    spent = np.zeros(len(rounds.actions))
    spent[starts] = np.array(by_layer)[rounds.raw["layer"][starts]]
    return spent


def drafts_made(rounds: Columns) -> NDArray[np.bool_]:
    """Whether each row's token is a draft of its round: every row of the draft phase, and the walk's exit."""
    return (rounds.raw["phase"] != WALK) | (rounds.actions == EXIT)
