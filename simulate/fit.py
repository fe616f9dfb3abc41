"""From timed rounds to costs: what each layer, row, head, state, decision and round adds, fitted to all rounds at once.

Each sample gives two sums of unknown costs, its drafting and its verification, which are solved by least absolute
relative deviations, so that the typical round is met whatever else the machine did during some. No cost is negative,
and a pass over more rows never costs less: what is fitted for rows is the increments. Plain decoding, which speedups
are relative to, is taken from its own rounds. Rounds in which another process took a core are left out.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lede.simulate.costs import MAX_ROWS, Costs

REWEIGHTINGS = 15  # on the way from squared to absolute errors
FLOOR = 0.01  # relative errors below this weigh no more than this one
FEWEST = 0.25  # share of undisturbed rounds with which a fit does without the others

Float = NDArray[np.float64]

# the unknowns that are one number each; the increments of layer and head for rows 2, 3, … follow them
NAMES = ("first", "again", "head", "start", "cache", "attention", "features", "lookup", "decision", "opening", "speak")


@dataclass(frozen=True)
class Sample:
    """One round: what it did, and milliseconds.

    exit_layer 0 is the lookup; without drafts it was plain decoding, or, from the last layer, the model's head alone.
    """

    exit_layer: int
    drafts: int
    position: int
    states: bool  # whether it saw states,
    lookup: bool  # kept the lookup index,
    decisions: int  # and how often it asked the rule
    draft: float
    verify: float
    rest: float
    interrupted: bool = False  # another process took a core meanwhile
    spoken: bool = False  # drafts were made by exit heads or over a draft vocabulary, not by the model's head

    @property
    def whole(self) -> float:
        """Milliseconds of the round."""
        return self.draft + self.verify + self.rest


def fit(
    samples: Sequence[Sample], prompts: Sequence[tuple[int, float]], layer_count: int, average: bool = False
) -> Costs:
    """The costs of a model of `layer_count` layers, of a typical round or of the average one.

    prompts: tokens read, and milliseconds of each reading. Averages are typical costs times how much longer rounds took
    in all, those of plain decoding and the others apart, so that sums over many rounds are met.
    """
    undisturbed = [s for s in samples if not s.interrupted]
    used = undisturbed if len(undisturbed) >= FEWEST * len(samples) else samples
    costs = _typical(used, prompts, layer_count)
    costs = replace(
        costs,
        error=_held_out_error(used, layer_count),
        interrupted=1 - len(undisturbed) / len(samples),
        moved=_moved(costs, samples),
    )
    return _averages(costs, samples, prompts) if average else costs


def _typical(samples: Sequence[Sample], prompts: Sequence[tuple[int, float]], layer_count: int) -> Costs:
    context = round(sum(s.position for s in samples) / len(samples))
    lengths = sorted({s.drafts for s in samples if s.drafts})
    equations, times = [], []
    for s in samples:
        if s.drafts:
            equations += [_drafting(s, context, lengths), _verifying(s, context, lengths, layer_count)]
            times += [s.draft, s.verify]
        elif _bare(s) or s.exit_layer:
            equations.append(_verifying(s, context, lengths, layer_count))
            times.append(s.whole)
    solution = least_absolute(np.array(equations), np.array(times))
    known = dict(zip(NAMES, solution.tolist(), strict=False))
    increments = solution[len(NAMES) :].reshape(2, len(lengths)).cumsum(axis=1)
    rows = np.arange(2, MAX_ROWS + 1)
    layer = known["first"] + _between(rows, np.array(lengths) + 1, increments[0])
    head = known["head"] + _between(rows, np.array(lengths) + 1, increments[1])
    bare = _median([s.rest for s in samples if s.drafts and not s.states and not s.lookup], 0.0)
    indexed = _median([s.rest for s in samples if s.drafts and s.lookup and not s.states], bare)
    traced = _median([s.rest for s in samples if s.drafts and s.lookup and s.states], indexed)
    slope = layer_count * (known["cache"] + known["attention"])
    plain = _median([s.whole - slope * (s.position - context) for s in samples if _bare(s) and not s.drafts], 0.0)
    return Costs(
        layers=layer_count,
        layer=(known["again"], *layer.tolist()),
        head=(known["head"], *head.tolist()),
        round=known["start"] + bare,
        context=context,
        prefill=_reading(prompts, np.median),
        autoregressive=max(plain, known["head"]),
        index=max(indexed - bare, 0.0),
        trace=known["opening"] + max(traced - indexed, 0.0),
        speak=max(known["speak"], 1e-9) if any(s.spoken for s in samples) else 0.0,
        **{name: known[name] for name in ("features", "decision", "lookup", "cache", "attention")},
    )


def _bare(s: Sample) -> bool:
    """Whether the round saw nothing but what it drafted: `_predicted` says what it takes."""
    alone = s.exit_layer > 0 and s.drafts == 0  # the head
    return not s.states and not alone and s.lookup == (s.drafts > 0 and s.exit_layer == 0)


def _predicted(s: Sample, costs: Costs) -> float:
    return costs.fixed(s.exit_layer, s.drafts, s.position) if s.drafts else costs.plain(s.position)


def _averages(costs: Costs, samples: Sequence[Sample], prompts: Sequence[tuple[int, float]]) -> Costs:
    """Plain decoding and the walk, which costs the same, take what plain rounds took; the rest of a round is scaled."""
    alone = [s for s in samples if not s.drafts and _bare(s)]
    rounds = [s for s in samples if s.drafts and _bare(s)]
    slower = sum(s.whole for s in alone) / max(sum(_predicted(s, costs) for s in alone), 1e-9)
    costs = replace(costs, autoregressive=costs.plain() * slower, prefill=_reading(prompts, np.mean))
    walks = sum(s.exit_layer * costs.first(s.position) for s in rounds)
    rest = sum(_predicted(s, costs) for s in rounds) - walks
    factor = max(sum(s.whole for s in rounds) - walks, 0.0) / max(rest, 1e-9)
    scaled = (
        "layer",
        "head",
        "features",
        "decision",
        "lookup",
        "round",
        "cache",
        "attention",
        "index",
        "trace",
        "speak",
    )
    values = {name: np.multiply(getattr(costs, name), factor).tolist() for name in scaled}
    return Costs.from_json(costs.to_json() | values)


def _held_out_error(samples: Sequence[Sample], layer_count: int) -> float:
    """By how much fits to either half of the samples mispredict the speedups of rounds of the other half.

    Of kinds of rounds (exit layer, about as many drafts): the relative error of round over plain token that three
    quarters of them keep to. 0 for too few samples.
    """
    off = defaultdict(list)
    for first in (0, 1):
        half = samples[first::2]
        if not any(s.drafts for s in half) or not any(not s.drafts and _bare(s) for s in half):
            return 0.0
        costs = _typical(half, [], layer_count)
        for s in samples[1 - first :: 2]:
            if _bare(s):
                off[s.exit_layer, s.drafts.bit_length()].append(s.whole / max(_predicted(s, costs), 1e-9))
    plain = np.median(off.pop((0, 0), [1.0]))
    errors = [abs(float(np.median(ratios) / plain) - 1) for ratios in off.values() if len(ratios) >= 4]
    return float(np.quantile(errors, 0.75)) if errors else 0.0


def _moved(costs: Costs, samples: Sequence[Sample]) -> float:
    """By how much what interruptions did to rounds' times moves the speedup of all rounds over plain decoding.

    Of rounds' sums over their predictions', with the interrupted ones over without: that of drafting over that of plain
    decoding. An interruption that takes no time moves nothing, however many rounds have one.
    """

    def lengthened(drafting: bool) -> float:
        mine = [s for s in samples if _bare(s) and bool(s.drafts) == drafting]
        rates = []
        for some in (mine, [s for s in mine if not s.interrupted]):
            rates.append(sum(s.whole for s in some) / max(sum(_predicted(s, costs) for s in some), 1e-9))
        return rates[0] / rates[1] if rates[1] else 1.0

    return abs(lengthened(True) / lengthened(False) - 1)


def _drafting(s: Sample, context: int, lengths: list[int]) -> Float:
    """The walk's pass, the drafts' and the bonus token's after it, their heads, and what the rule sees and thinks."""
    e, d, further = s.exit_layer, s.drafts, s.position - context
    reach = e * (d + 1) * further
    own = d * (not s.spoken)  # drafts by the model's head
    layers = (e, e * d, own, 1, reach, reach) if e else (0, 0, 0, 0, 0, 0)  # a lookup's draft runs no layer and no head
    # a round's first decision is dearer: what it takes was last used a verification ago
    sees = (d if s.states and e else 0, d if s.lookup else 0, s.decisions, s.decisions > 0)
    spoken = d if s.spoken and e else 0
    return np.array([*layers, *sees, spoken, *[0] * (2 * len(lengths))], float)


def _verifying(s: Sample, context: int, lengths: list[int], layer_count: int) -> Float:
    """The upper layers over the drafts' rows, and the head; without drafts, a token of plain decoding."""
    upper, further = layer_count - s.exit_layer, s.position - context
    up_to = [float(length <= s.drafts) for length in lengths]
    row = [upper, 0, 1, 0, upper * further, upper * (s.drafts + 1) * further, 0, 0, 0, 0, 0]
    return np.array([*row, *(upper * on for on in up_to), *up_to], float)


def least_absolute(equations: Float, values: Float) -> Float:
    """Non-negative factors (K,) of `equations` (N, K) with least absolute relative deviations from `values` (N,)."""
    from scipy.optimize import nnls  # not needed before the first fit

    relative = equations / values[:, None]
    scale = np.maximum(np.abs(relative).max(axis=0), 1e-300)  # columns of one size; empty ones get 0
    relative, weights = relative / scale, np.ones(len(values))
    for _ in range(REWEIGHTINGS):
        weighted = np.column_stack([relative * weights[:, None], weights])
        square = np.linalg.qr(weighted).R  # (K + 1, K + 1): the same problem in fewer rows
        factors, _ = nnls(square[:, :-1], square[:, -1])
        weights = np.maximum(np.abs(1 - relative @ factors), FLOOR) ** -0.5
    return factors / scale


def _between(rows: NDArray[np.int64], known: NDArray[np.int64], values: Float) -> Float:
    """`values` at `known` rows, on straight lines between them and beyond the last."""
    out = np.interp(rows, known, values)
    if len(known) > 1:
        slope = max(float(values[-1] - values[0]) / float(known[-1] - known[0]), 0.0)
        out = np.where(rows > known[-1], values[-1] + slope * (rows - known[-1]), out)
    return out


def _reading(prompts: Sequence[tuple[int, float]], middle: Callable[..., np.floating]) -> float:
    """Milliseconds per token of prompts of every length in turn; the longer one's tokens see more others."""
    lengths = {tokens for tokens, _ in prompts}
    spent = sum(float(middle([spent for tokens, spent in prompts if tokens == length])) for length in lengths)
    return spent / max(sum(lengths), 1)


def _median(values: Sequence[float], otherwise: float) -> float:
    return float(np.median(values)) if values else otherwise
