"""The baselines, and the search space of each one's parameters: small spaces, all stated here.

Early-exit baselines try the real layers 1 … 3L/4 only, prompt lookup only layer 0, a cascade both. Parameters can be
stored as JSON.
"""

import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise, product
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from lede.decode.rules import (
    AdaptiveLookup,
    Cascade,
    Del,
    DraftVerify,
    ExitRule,
    Kangaroo,
    LayerSkip,
    LengthHeuristic,
    Lite,
    PromptLookup,
    TapOut,
    Ucb,
)
from lede.decode.rules.dynamic_exit import best_exit
from lede.process import LONG_DRAFTS, MAX_DRAFTS
from lede.simulate.costs import Costs
from lede.simulate.scalar import replay_rule
from lede.simulate.texts import SWEPT, Texts

T = TypeVar("T")
Parameters = dict[str, Any]
CONFIGURATIONS = 120  # that tuning may score of each baseline
TOP1 = SWEPT.index("top1_logp")
KEEPS_LAST = (True, False)


def make_rule(name: str, parameters: Parameters) -> ExitRule:
    """A baseline's rule, with parameters from its search space or read back from JSON. Raises KeyError."""
    return BASELINES[name].make(**parameters)


def drawn(space: Sequence[T], count: int = CONFIGURATIONS, seed: int = 0) -> list[T]:
    """`count` of the space, one at random from each of as many equal stretches of it; all of it where it is smaller."""
    if len(space) <= count:
        return list(space)
    rng = random.Random(seed)
    edges = [round(i * len(space) / count) for i in range(count + 1)]
    return [space[rng.randrange(lo, hi)] for lo, hi in pairwise(edges)]


def searched(
    space: Sequence[Parameters], rate: Callable[[Parameters], float], count: int = CONFIGURATIONS, seed: int = 0
) -> Iterator[tuple[Parameters, float]]:
    """`count` of the space (all of a smaller one) and the rate of each, the highest of which is looked for.

    A third is drawn evenly. From the best on, one parameter after another is changed, and what is better is gone on
    from; where nothing near is left, from the next best.
    """
    if len(space) <= count:
        yield from ((parameters, rate(parameters)) for parameters in space)
        return
    rng, rates, near = random.Random(seed), dict[int, float](), list[int]()
    todo, done, best = drawn(range(len(space)), max(count // 3, 1), seed), set[int](), -1
    codes = _coded(space)
    while len(rates) < count:
        while not (todo or near) and (open_ := [one for one in rates if one not in done]):
            best = max(open_, key=rates.__getitem__)
            done.add(best)
            near = [
                place for place in np.flatnonzero((codes != codes[best]).sum(1) == 1).tolist() if place not in rates
            ]
            rng.shuffle(near)
        place = todo.pop() if todo else near.pop() if near else rng.randrange(len(space))
        if place in rates:
            continue
        rates[place] = rate(space[place])
        yield space[place], rates[place]
        if rates[place] > rates.get(best, math.inf):
            near = []


def _coded(space: Sequence[Parameters]) -> NDArray[np.int64]:
    """(configurations, parameters): equal numbers in a column where the values are equal."""
    names = list(space[0])
    known: dict[tuple[str, str], int] = {}
    rows = [[known.setdefault((name, repr(own[name])), len(known)) for name in names] for own in space]
    return np.array(rows, np.int64)


def predicted_rate(rule: ExitRule, texts: Texts, costs: Costs) -> float:
    """Tokens per second by replay, reading the prompts included."""
    replayed = replay_rule(rule, texts, costs)
    return replace(replayed, milliseconds=replayed.milliseconds + costs.read(texts.prompt_lengths)).tokens_per_s


def real_layers(layer_count: int) -> tuple[int, ...]:
    """The layers that early-exit rules may use: 1 … 3L/4."""
    return tuple(range(1, max(min(layer_count * 3 // 4, layer_count - 1), 1) + 1))


def grid(**values: Iterable[Any]) -> list[Parameters]:
    """Every combination, the first parameter changing slowest."""
    return [dict(zip(values, choice, strict=True)) for choice in product(*values.values())]


def _real(texts: Texts) -> tuple[int, ...]:
    return tuple(layer for layer in texts.layers if layer > 0)


def ladders(layers: Sequence[int], sizes: Sequence[int]) -> list[tuple[int, ...]]:
    """Evenly spaced sets of so many candidates: from each of about six starts, over the rest and over half of it."""
    starts = layers[:: max(len(layers) // 6, 1)]
    sets: dict[tuple[int, ...], None] = {}
    for start in starts:
        above = [layer for layer in layers if layer >= start]
        for size, span in product(sizes, (above, above[: (len(above) + 1) // 2])):
            picks = np.linspace(0, len(span) - 1, min(size, len(span))).round().astype(int)
            sets[tuple(span[i] for i in sorted(set(picks.tolist())))] = None
    return list(sets)


def _length_heuristic(texts: Texts, layer_count: int) -> list[Parameters]:
    choices = grid(exit_layer=_real(texts), start=(2, 5), up=(1, 2), most=(3, 6, MAX_DRAFTS))
    return [choice for choice in choices if choice["start"] <= choice["most"]]


def _lite(texts: Texts, layer_count: int) -> list[Parameters]:
    """Thresholds either the same at every layer, or those that the same share of each layer's tokens passes."""
    passed = {}  # by layer and share
    for layer, share in product(_real(texts), (0.3, 0.6)):
        column = texts.layers.index(layer)
        seen = texts.states[:, :, column, TOP1][texts.found[:, :, column]]
        passed[layer, share] = round(float(np.exp(np.quantile(seen, 1 - share))), 4)
    return [
        {"thresholds": thresholds, "draft_length": length, "layer_count": fallback}
        for layers in ladders(_real(texts), (1, 2, 4))
        for thresholds in (
            *({str(layer): level for layer in layers} for level in (0.5, 0.8)),
            *({str(layer): passed[layer, share] for layer in layers} for share in (0.3, 0.6)),
        )
        for length in (2, 4, 7, MAX_DRAFTS)
        for fallback in (None, layer_count)
        # a single candidate without the full model to fall back on is asked nothing: LayerSkip
        if len(layers) > 1 or fallback is not None
    ]


def _del(texts: Texts, layer_count: int) -> list[Parameters]:
    layers = _real(texts)
    sets = list(dict.fromkeys([layers, layers[::2], layers[1::2] or layers, *ladders(layers, (2, 4))]))
    return [
        {"layers": list(c.pop("layers")), "layer_count": layer_count, **c}
        for c in grid(layers=sets, decay=(0.8, 0.95), max_drafts=(MAX_DRAFTS, 18), keeps_last=(True, False))
    ]


def _ucb(texts: Texts, layer_count: int) -> list[Parameters]:
    """The lookup with sets of real layers; few arms are soon known, many leave more to choose from."""
    sets = [[0], *([0, *layers] for layers in ladders(_real(texts), (1, 2, 4)))]
    lengths = ([4], [2, 6], [1, 3, 6, MAX_DRAFTS])
    return grid(layers=sets, lengths=lengths, exploration=(0.001, 0.03, 0.5), decay=(1.0, 0.99))


def promising(texts: Texts, layer_count: int, count: int) -> list[int]:
    """The real layers that are worth most as exits (tokens a layer run, as DEL has it) by how often they are right."""
    shares = {}
    for layer in _real(texts):
        column = texts.layers.index(layer)
        shares[layer] = float(texts.right[:, :, column][texts.found[:, :, column]].mean())
    best: list[int] = []
    while shares and len(best) < count:
        layer, _ = best_exit(shares, layer_count, MAX_DRAFTS)
        best.append(layer)
        del shares[layer]
    return sorted(best)


def _cascade(texts: Texts, layer_count: int) -> list[Parameters]:
    """Of two rules at once, so of few exit layers."""
    return grid(
        exit_layer=promising(texts, layer_count, 4),
        threshold=(0.2, 0.4, 0.6, 0.8),
        match=(1, 2, 3, 5, 8, 16),
        goes_on=(1, 3, 5, 8),
        least=(1, 2, 4),
        most=(6, MAX_DRAFTS, LONG_DRAFTS),
        drafts=(3, 6, MAX_DRAFTS),
        keeps_last=KEEPS_LAST,
        layer_count=(None, layer_count),
    )


class Baseline(NamedTuple):
    """A kind of rule: its search space, of swept texts and a layer count, neighbours alike; and how one is made."""

    space: Callable[[Texts, int], list[Parameters]]
    make: Callable[..., ExitRule]


BASELINES = {
    "layerskip": Baseline(lambda t, _: grid(exit_layer=_real(t), draft_length=range(1, MAX_DRAFTS + 1)), LayerSkip),
    "lite": Baseline(_lite, lambda thresholds, **more: Lite({int(e): p for e, p in thresholds.items()}, **more)),
    # γ adapts slowly (0.001 a round), so where it starts decides
    "draft-verify": Baseline(
        lambda t, _: grid(
            exit_layer=_real(t), threshold=(0.3, 0.5, 0.7, 0.85), target=(0.7, 0.9), keeps_last=KEEPS_LAST
        ),
        DraftVerify,
    ),
    "kangaroo": Baseline(
        lambda t, _: grid(
            exit_layer=_real(t), threshold=(0.2, 0.4, 0.6, 0.8), max_drafts=(3, 6, MAX_DRAFTS), keeps_last=KEEPS_LAST
        ),
        Kangaroo,
    ),
    "length-heuristic": Baseline(_length_heuristic, LengthHeuristic),
    "del": Baseline(_del, lambda layers, **more: Del(tuple(layers), **more)),
    "prompt-lookup": Baseline(lambda t, _: grid(draft_length=range(1, LONG_DRAFTS + 1)), PromptLookup),
    "adaptive-lookup": Baseline(
        lambda t, _: grid(
            match=(1, 2, 3, 4, 5, 6, 8, 11, 16, 24, 40), least=(1, 2, 3), most=(6, MAX_DRAFTS, LONG_DRAFTS)
        ),
        AdaptiveLookup,
    ),
    "cascade": Baseline(_cascade, Cascade),
    "ucb": Baseline(_ucb, Ucb),
    "tapout": Baseline(
        lambda t, _: grid(
            exit_layer=_real(t), exploration=(0.01, 0.2, 2.0), max_drafts=(3, 6, MAX_DRAFTS), keeps_last=KEEPS_LAST
        ),
        TapOut,
    ),
}
