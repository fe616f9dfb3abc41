"""From timed rounds to costs: what each layer, row, head, state, decision and round adds, fitted to all rounds at once.

Each sample gives two sums of unknown costs, its drafting and its verification. What is least is the sum of the relative
errors, so that the typical round is met whatever else the machine did during some; or, for averages, that of their
squares, so that many rounds together take as long as they took. No cost is negative, and a pass over more rows never
costs less: what is fitted for rows is the increments.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lede.simulate.costs import MAX_ROWS, Costs

REWEIGHTINGS = 15  # on the way from squared to absolute errors
FLOOR = 0.01  # relative errors below this weigh no more than this one
FAR = 5.0  # times as long as typical: in averages a round counts as no longer than this

Float = NDArray[np.float64]

# the unknowns that are one number each; the increments of layer and head for rows 2, 3, … follow them
NAMES = ("first", "again", "head", "start", "cache", "attention", "features", "lookup", "decision", "opening")


@dataclass(frozen=True)
class Sample:
    """One round: what it did, and milliseconds. exit_layer 0 is the lookup; without drafts it was plain decoding."""

    exit_layer: int
    drafts: int
    position: int
    states: bool  # whether it saw states,
    lookup: bool  # kept the lookup index,
    decisions: int  # and how often it asked the rule
    draft: float
    verify: float
    rest: float

    @property
    def whole(self) -> float:
        """Milliseconds of the round."""
        return self.draft + self.verify + self.rest


def fit(
    samples: Sequence[Sample], prompts: Sequence[tuple[int, float]], layer_count: int, average: bool = False
) -> Costs:
    """The costs of a model of `layer_count` layers, of a typical round or of the average one.

    prompts: tokens read, and milliseconds of each reading.
    """
    context = round(sum(s.position for s in samples) / len(samples))
    lengths = sorted({s.drafts for s in samples if s.drafts})
    equations, times = [], []
    for s in samples:
        if s.drafts:
            equations += [_drafting(s, context, lengths), _verifying(s, context, lengths, layer_count)]
            times += [s.draft, s.verify]
        elif not s.lookup and not s.states:
            equations.append(_plain(s, context, lengths, layer_count))
            times.append(s.whole)
    matrix, spent = np.array(equations), np.array(times)
    found = typical(matrix, spent)
    middle = _mean if average else _median
    if average:
        found = averages(matrix, spent, matrix @ found)
    known = dict(zip(NAMES, found, strict=False))
    increments = found[len(NAMES) :].reshape(2, len(lengths)).cumsum(axis=1)
    rows = np.arange(2, MAX_ROWS + 1)
    layer = known["first"] + _between(rows, np.array(lengths) + 1, increments[0])
    head = known["head"] + _between(rows, np.array(lengths) + 1, increments[1])
    bare = middle([s.rest for s in samples if s.drafts and not s.states and not s.lookup], 0.0)
    indexed = middle([s.rest for s in samples if s.drafts and s.lookup and not s.states], bare)
    traced = middle([s.rest for s in samples if s.drafts and s.lookup and s.states], indexed)
    return Costs(
        layers=layer_count,
        layer=(float(known["again"]), *map(float, layer)),
        head=(float(known["head"]), *map(float, head)),
        features=float(known["features"]),
        decision=float(known["decision"]),
        lookup=float(known["lookup"]),
        round=float(known["start"]) + bare,
        context=context,
        cache=float(known["cache"]),
        attention=float(known["attention"]),
        prefill=_reading(prompts, middle),
        autoregressive=float(layer_count * known["first"] + known["head"]),
        index=max(indexed - bare, 0.0),
        trace=float(known["opening"]) + max(traced - indexed, 0.0),
    )


def _drafting(s: Sample, context: int, lengths: list[int]) -> Float:
    """The walk's pass, the drafts' and the bonus token's after it, their heads, and what the rule sees and thinks."""
    e, d, further = s.exit_layer, s.drafts, s.position - context
    reach = e * (d + 1) * further
    layers = (e, e * d, d, 1, reach, reach) if e else (0, 0, 0, 0, 0, 0)  # a lookup's draft runs no layer and no head
    # a round's first decision is dearer: what it takes was last used a verification ago
    sees = (d if s.states and e else 0, d if s.lookup else 0, s.decisions, s.decisions > 0)
    return np.array([*layers, *sees, *[0] * (2 * len(lengths))], float)


def _verifying(s: Sample, context: int, lengths: list[int], layer_count: int) -> Float:
    """The upper layers over the drafts' rows, and the head."""
    upper, further = layer_count - s.exit_layer, s.position - context
    up_to = [float(length <= s.drafts) for length in lengths]
    row = [upper, 0, 1, 0, upper * further, upper * (s.drafts + 1) * further, 0, 0, 0, 0]
    return np.array([*row, *(upper * on for on in up_to), *up_to], float)


def _plain(s: Sample, context: int, lengths: list[int], layer_count: int) -> Float:
    """All layers over one row, and the head."""
    reach = layer_count * (s.position - context)
    return np.array([layer_count, 0, 1, 0, reach, reach, 0, 0, 0, 0, *[0] * (2 * len(lengths))], float)


def typical(equations: Float, values: Float) -> Float:
    """Non-negative factors (K,) of `equations` (N, K) that give `values` (N,) with the least sum of relative errors."""
    relative = equations / values[:, None]
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-300)  # columns of one size; empty ones get 0
    relative, weights = relative / scale, np.ones(len(values))
    found = np.zeros(equations.shape[1])
    for _ in range(REWEIGHTINGS):
        found = nonnegative(relative * weights[:, None], weights)
        weights = np.maximum(np.abs(1 - relative @ found), FLOOR) ** -0.5
    return found / scale


def averages(equations: Float, values: Float, expected: Float) -> Float:
    """Likewise with the least sum of squares of errors over `expected` (N,): sums of many values are met."""
    expected = np.maximum(expected, 1e-9)
    relative = equations / expected[:, None]
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-300)
    return nonnegative(relative / scale, np.minimum(values / expected, FAR)) / scale


def nonnegative(matrix: Float, values: Float) -> Float:
    """x >= 0 with the least |matrix·x - values|² (Lawson and Hanson, Solving Least Squares Problems, chapter 23)."""
    # by the normal equations, which need not be solved to the last digit: K is small, and N is thousands
    square, target = matrix.T @ matrix, matrix.T @ values
    square += np.diag(np.full(len(square), 1e-13 * max(float(np.trace(square)), 1e-300)))
    x, free = np.zeros(len(square)), np.zeros(len(square), bool)
    tolerance = 1e-11 * max(float(np.abs(target).max()), 1e-300)
    for _ in range(3 * len(x)):
        pull = target - square @ x
        pull[free] = -np.inf
        if free.all() or pull.max() <= tolerance:
            break
        free[pull.argmax()] = True
        while free.any():
            trial = np.zeros(len(x))
            trial[free] = np.linalg.solve(square[np.ix_(free, free)], target[free])
            below = free & (trial <= 0)
            if not below.any():
                x = trial
                break
            share = float((x[below] / np.maximum(x[below] - trial[below], 1e-300)).min())
            x += share * (trial - x)
            free &= x > 1e-14
            x[~free] = 0.0
    return x


def _between(rows: NDArray[np.int64], known: NDArray[np.int64], values: Float) -> Float:
    """`values` at `known` rows, on straight lines between them and beyond the last."""
    out = np.interp(rows, known, values)
    if len(known) > 1:
        slope = max(float(values[-1] - values[0]) / float(known[-1] - known[0]), 0.0)
        out = np.where(rows > known[-1], values[-1] + slope * (rows - known[-1]), out)
    return out


def _reading(prompts: Sequence[tuple[int, float]], middle: Callable[[Sequence[float], float], float]) -> float:
    """Milliseconds a token of prompts of every length in turn; the longer one's tokens see more others."""
    lengths = {tokens for tokens, _ in prompts}
    spent = sum(middle([spent for tokens, spent in prompts if tokens == length], 0.0) for length in lengths)
    return spent / max(sum(lengths), 1)


def _median(values: Sequence[float], otherwise: float) -> float:
    return float(np.median(values)) if values else otherwise


def _mean(values: Sequence[float], otherwise: float) -> float:
    return float(np.minimum(values, FAR * np.median(values)).mean()) if values else otherwise
