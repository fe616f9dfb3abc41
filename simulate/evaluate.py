"""`lede evaluate`: what any rule would do on the sweeps of a dataset's test texts, and how far that is from the best.

Baselines are tuned by replay on training texts. Every time includes reading the prompt, as in `lede bench`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lede.decode.rules import Autoregressive, ExitRule
from lede.process import LONG_DRAFTS
from lede.replay.errors import DatasetError
from lede.replay.reader import Dataset
from lede.replay.schema import FREE
from lede.replay.split import EpisodeSplits, episode_splits
from lede.simulate.baselines import BASELINES, Parameters, make_rule, predicted_rate, searched
from lede.simulate.bootstrap import ratio_interval
from lede.simulate.costs import Costs
from lede.simulate.oracle import ceiling
from lede.simulate.rollouts import Copies
from lede.simulate.scalar import Replayed, replay_rule
from lede.simulate.texts import Texts, Totals, prompts_of, read_texts

Float = NDArray[np.float64]
TUNING = 30  # training texts that baselines are tuned on: more change little, and each configuration reads them all
FIXED = (2, 4, 8, 12, 24)  # draft lengths of ceilings that may not choose them


@dataclass(frozen=True)
class Evaluated:
    """One rule, or one ceiling, over all texts; names as in `lede bench --json`.

    predicted_speedup: over plain decoding, with its 95 % bootstrap interval over groups of texts. bound_low,
    bound_high: the same if, behind every first wrong draft, the rule did the worst and the best it could (what replay
    cannot see). exits: rounds by exit layer; None for a ceiling.
    """

    method: str
    exit_layer: float | None
    draft_length: float | None
    acceptance: float | None
    tokens_per_round: float
    tokens_per_s: float
    predicted_speedup: float
    predicted_low: float
    predicted_high: float
    bound_low: float
    bound_high: float
    exits: dict[int, int] | None
    parameters: dict[str, Any] | None


@dataclass(frozen=True)
class Evaluation:
    """Rules and ceilings, scored on the same texts of so many groups. doubt: why the costs cannot be trusted."""

    rows: list[Evaluated]
    ceilings: list[Evaluated]
    oracle_speedup: float
    texts: int
    groups: int
    doubt: str | None


class Method(NamedTuple):
    """A rule to evaluate, by the name and the parameters it is shown with."""

    name: str
    rule: ExitRule
    parameters: dict[str, Any] | None = None


class Sides(NamedTuple):
    """Swept texts of the test side and of the training side, and the group of each test text."""

    test: Texts
    groups: NDArray[np.int64]  # (N,) numbers of modules, articles or conversations
    training: Texts


def read_sides(dataset: Dataset) -> Sides:
    """The sweeps to evaluate on and to tune on, of the episodes that have them, each greedy text once.

    Raises DatasetError where one of the sides has none.
    """
    splits = episode_splits(dataset)
    test, training = (_side(dataset, splits, side) for side in ("test", "train"))
    for side, texts in (("test", test), ("train", training)):
        if not len(texts.lengths):
            raise DatasetError(
                f"{dataset.path} has no swept episodes on the {side} side of the split, which exact replay needs: "
                "collect without --no-sweep, and with --split all"
            )
    return Sides(test, splits.group[np.searchsorted(splits.numbers, test.numbers)], training)


def _side(dataset: Dataset, splits: EpisodeSplits, side: str) -> Texts:
    layers = tuple(sorted({0, *dataset.layers}))  # lookups are compared with, also where none was collected
    texts = read_texts(dataset, splits.numbers[splits.split == side], layers)
    prompts = prompts_of(dataset, texts.numbers)
    heat, seeds = texts.temperatures.tolist(), np.where(texts.temperatures > 0, texts.seeds, 0).tolist()
    keys = zip(map(tuple, prompts), heat, seeds, strict=True)
    once = {key: number for number, key in reversed(list(enumerate(keys)))}
    return chosen(texts, sorted(once.values()))


def chosen(texts: Texts, numbers: Sequence[int]) -> Texts:
    """Some of the texts."""
    at = np.array(numbers, np.int64)
    names = [field.name for field in fields(texts) if field.name not in ("layers", "copies", "stops")]
    copies = Copies(texts.copies.number[at], texts.copies.tokens, texts.copies.states)
    return replace(texts, copies=copies, **{name: getattr(texts, name)[at] for name in names})


def tuned_baselines(
    training: Texts, costs: Costs, progress: Callable[[float, str], None] = lambda share, what: None
) -> list[Method]:
    """Every baseline with the best of its configurations on the training texts."""
    every = np.linspace(0, len(training.lengths) - 1, min(TUNING, len(training.lengths))).astype(int)

    def rate(parameters: Parameters, name: str) -> float:
        return predicted_rate(make_rule(name, parameters), training, costs)

    training, methods = chosen(training, every.tolist()), []  # of all runs, in whose order the texts are
    for number, name in enumerate(BASELINES):
        progress(number / len(BASELINES), f"tuning {name}")
        space = BASELINES[name].space(training, costs.layers)
        best, _ = max(searched(space, partial(rate, name=name)), key=lambda one: one[1])
        methods.append(Method(name, make_rule(name, best), best))
    return methods


def evaluate(
    texts: Texts,
    costs: Costs,
    methods: Sequence[Method],
    groups: ArrayLike | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
    ceilings: Mapping[str, dict[str, Any]] | None = None,
) -> Evaluation:
    """Replay every method, and plain decoding, on the texts; find the ceilings.

    groups: (N,) those of the texts, which intervals resample; None: each text is one. ceilings: by name, what they may
    choose (None: `ceilings_of`), an oracle among them. Raises ValueError for a rule with layers that the texts were not
    swept at.
    """
    methods = [Method("autoregressive", Autoregressive()), *methods]
    groups = np.arange(len(texts.lengths)) if groups is None else np.asarray(groups)
    wanted = ceilings_of(texts.layers) if ceilings is None else ceilings
    total = len(methods) + len(wanted)
    prompts = costs.read(texts.prompt_lengths)
    found: dict[str, Totals] = {}
    for name, options in wanted.items():
        paid = costs.for_policy(FREE, texts.layers) if "decisions" in options else costs
        found[name] = ceiling(texts, paid, positions=True, **options)
        progress(len(found), total)
    replayed = []
    for method in methods:
        replayed.append(replay_rule(method.rule, texts, costs))
        progress(len(found) + len(replayed), total)
    plain = replayed[0].milliseconds + prompts

    def row(name: str, done: Totals, parameters: dict[str, Any] | None = None) -> Evaluated:
        times = done.milliseconds, *((done.low, done.high) if isinstance(done, Replayed) else (done.milliseconds,) * 2)
        whole = replace(done, milliseconds=done.milliseconds + prompts)
        speedup, fastest, slowest = (float(plain.sum() / (time + prompts).sum()) for time in times)
        low, high = ratio_interval(plain, whole.milliseconds, groups)
        return Evaluated(
            method=name,
            **whole.measures,
            predicted_speedup=speedup,
            predicted_low=low,
            predicted_high=high,
            bound_low=slowest,
            bound_high=fastest,
            exits=done.exits if isinstance(done, Replayed) else None,
            parameters=parameters,
        )

    rows = [row(method.name, done, method.parameters) for method, done in zip(methods, replayed, strict=True)]
    above = [row(name, done) for name, done in found.items()]
    oracle = next(one.predicted_speedup for one in above if one.method == "oracle")
    return Evaluation(rows, above, oracle, len(texts.lengths), len(np.unique(groups)), costs.doubt)


def ceilings_of(layers: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Names of the ceilings and what they may choose; each takes a choice away, so that its worth is seen.

    The one that pays to look pays for the features that a policy learned by default has.
    """
    real = [layer for layer in layers if layer > 0]
    free = range(1, LONG_DRAFTS + 1)
    out: dict[str, dict[str, Any]] = {"oracle": {"lengths": free, "bypass": True}}
    if 0 < len(real) < len(layers):
        out["oracle without layer 0"] = {"layers": real, "lengths": free, "bypass": True}
    out["oracle that pays to look"] = {"lengths": free, "decisions": True, "bypass": True}
    out |= {f"always E={layer}, best d": {"layers": [layer], "lengths": free} for layer in layers}
    out |= {f"always d={d}, best E": {"lengths": [d]} for d in FIXED}
    return out
