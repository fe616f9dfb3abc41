"""`lede evaluate`: what any rule would do on the sweeps of a dataset's test texts, and how far that is from the best.

Baselines are tuned by replay on training texts. Every time includes reading the prompt, as in `lede bench`.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lede.decode.rules import LONG_DRAFTS, Autoregressive, ExitRule
from lede.replay.errors import DatasetError
from lede.replay.reader import Dataset
from lede.replay.schema import FREE
from lede.replay.split import EpisodeSplits, episode_splits
from lede.simulate.baselines import BASELINES, best_by_replay
from lede.simulate.bootstrap import ratio_interval
from lede.simulate.costs import Costs
from lede.simulate.oracle import ceiling
from lede.simulate.rollouts import Copies
from lede.simulate.scalar import Replayed, replay_rule
from lede.simulate.texts import Texts, prompts_of, read_texts

Float = NDArray[np.float64]
WORST = 0.1  # share of the texts that is told apart
TUNING = 30  # training texts that baselines are tuned on: more change little, and each configuration reads them all
FIXED = (2, 4, 8, 12, 24)  # draft lengths of ceilings that may not choose them


@dataclass(frozen=True)
class Evaluated:
    """One rule, or one ceiling, over all texts; names as in `lede bench --json`.

    predicted_speedup: over plain decoding, with its 95 % bootstrap interval over groups of texts. bound_low,
    bound_high: the same if, behind every first wrong draft, the rule did the worst and the best it could (what replay
    cannot see). regret: share of the oracle's speedup that is missed. worst_decile: speedup on the tenth of the texts
    where it is lowest. exits: rounds by exit layer; None for a ceiling.
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
    regret: float
    worst_decile: float
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
    """The sweeps to evaluate on and to tune on, of the episodes that have them, each prompt once.

    Raises DatasetError where one of the sides has none.
    """
    splits = episode_splits(dataset)
    test, training = (_side(dataset, splits, side) for side in ("test", "train"))
    for side, texts in (("test", test), ("train", training)):
        if not len(texts.lengths):
            raise DatasetError(
                f"{dataset.path} has no swept episodes on the {side} side of the split, which exact replay needs: "
                "collect greedily, without --no-sweep, and with --split all"
            )
    return Sides(test, splits.group[np.searchsorted(splits.numbers, test.numbers)], training)


def _side(dataset: Dataset, splits: EpisodeSplits, side: str) -> Texts:
    layers = tuple(sorted({0, *dataset.layers}))  # lookups are compared with, also where none was collected
    texts = read_texts(dataset, splits.numbers[splits.split == side], layers)
    prompts = prompts_of(dataset, texts.numbers)
    once = {tuple(prompt): number for number, prompt in reversed(list(enumerate(prompts)))}
    return chosen(texts, sorted(once.values()))


def chosen(texts: Texts, numbers: Sequence[int]) -> Texts:
    """Some of the texts."""
    at = np.array(numbers, np.int64)
    names = ("states", "found", "right", "drafts", "targets", "lengths", "prompt_lengths", "limits", "numbers")
    copies = Copies(texts.copies.number[at], texts.copies.tokens, texts.copies.states)
    return replace(texts, copies=copies, **{name: getattr(texts, name)[at] for name in names})


def tuned_baselines(
    training: Texts, costs: Costs, progress: Callable[[float, str], None] = lambda share, what: None
) -> list[Method]:
    """Every baseline with the best of its configurations on the training texts."""
    training, methods = chosen(training, range(min(TUNING, len(training.lengths)))), []
    for number, name in enumerate(BASELINES):
        progress(number / len(BASELINES), f"tuning {name}")
        methods.append(Method(name, *best_by_replay(name, training, costs)))
    return methods


def evaluate(
    texts: Texts,
    costs: Costs,
    methods: Sequence[Method],
    groups: ArrayLike | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Replay every method, and plain decoding, on the texts; find the ceilings.

    groups: (N,) those of the texts, which intervals resample; None: each text is one. Raises ValueError for a rule with
    layers that the texts were not swept at.
    """
    methods = [Method("autoregressive", Autoregressive()), *methods]
    groups = np.arange(len(texts.lengths)) if groups is None else np.asarray(groups)
    wanted = ceilings_of(texts.layers)
    total = len(methods) + len(wanted)
    prompts = np.array([costs.read(int(length)) for length in texts.prompt_lengths])
    best = {}
    for name, options in wanted.items():
        paid = costs.for_policy(FREE, texts.layers) if "decisions" in options else costs
        best[name] = ceiling(texts, paid, positions=True, **options)
        progress(len(best), total)
    replayed = []
    for method in methods:
        replayed.append(replay_rule(method.rule, texts, costs))
        progress(len(best) + len(replayed), total)
    plain = _column(replayed[0], "milliseconds") + prompts
    oracle = float(plain.sum() / (best["oracle"].milliseconds + prompts).sum())

    def row(
        name: str,
        times: Sequence[Float],  # milliseconds (N,): as replayed, at least, at most; prompts not included
        counts: Sequence[float],
        exits: dict[int, int] | None = None,
        parameters: dict[str, Any] | None = None,
    ) -> Evaluated:
        tokens, rounds, drafting, depth, drafted, accepted = counts
        spent = times[0] + prompts
        speedup, fastest, slowest = (float(plain.sum() / (time + prompts).sum()) for time in times)
        low, high = ratio_interval(plain, spent, groups)
        return Evaluated(
            method=name,
            exit_layer=depth / drafting if drafting else None,
            draft_length=drafted / drafting if drafting else None,
            acceptance=accepted / drafted if drafted else None,
            tokens_per_round=tokens / rounds,
            tokens_per_s=float(tokens / spent.sum() * 1e3),
            predicted_speedup=speedup,
            predicted_low=low,
            predicted_high=high,
            bound_low=slowest,
            bound_high=fastest,
            regret=1 - speedup / oracle,
            worst_decile=worst(plain, spent),
            exits=exits,
            parameters=parameters,
        )

    rows, ceilings = [], []
    for method, texts_of_rule in zip(methods, replayed, strict=True):
        times = [_column(texts_of_rule, f"milliseconds{end}") for end in ("", "_low", "_high")]
        names = ("tokens", "rounds", "drafting_rounds", "exit_layers", "drafted", "accepted")
        exits = sum((Counter(one.exits) for one in texts_of_rule), Counter())
        counts = [float(_column(texts_of_rule, name).sum()) for name in names]
        rows.append(row(method.name, times, counts, dict(sorted(exits.items())), method.parameters))
    for name, c in best.items():
        counts = [float(part.sum()) for part in (c.tokens, c.rounds, c.drafting, c.depth, c.drafted, c.accepted)]
        ceilings.append(row(name, [c.milliseconds] * 3, counts))
    return Evaluation(rows, ceilings, oracle, len(texts.lengths), len(np.unique(groups)), costs.doubt)


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


def _column(replayed: Sequence[Replayed], name: str) -> Float:
    return np.array([getattr(one, name) for one in replayed], float)


def worst(plain: Float, spent: Float) -> float:
    """Speedup over the tenth of the texts on which it is lowest, one at least."""
    order = np.argsort(plain / spent)[: max(round(WORST * len(plain)), 1)]
    return float(plain[order].sum() / spent[order].sum())
