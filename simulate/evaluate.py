"""`lede evaluate`: what any rule would do, from the files of a dataset alone, and how far that is from the best.

Rules are replayed over the sweeps of test texts (`simulate.scalar`) with measured costs; the oracle is dynamic
programming on the same sweeps (`simulate.oracle`). Baselines are tuned by replay on training texts. Reading the prompts
is part of every time, as it is in `lede bench`, where the costs say what it takes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lede.decode.rules import LONG_DRAFTS, Autoregressive, ExitRule
from lede.replay.errors import DatasetError
from lede.replay.reader import Dataset
from lede.replay.split import EpisodeSplits, episode_splits
from lede.simulate.baselines import BASELINES, best_by_replay
from lede.simulate.bootstrap import ratio_interval
from lede.simulate.costs import Costs
from lede.simulate.oracle import Ceiling, ceiling
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
    """Rules and ceilings, scored on the same texts.

    groups: how many the texts are of. prompts_included: whether the costs say what reading prompts takes. doubt: why
    the costs cannot be trusted; None where nothing speaks against them.
    """

    rows: list[Evaluated]
    ceilings: list[Evaluated]
    oracle_speedup: float
    texts: int
    groups: int
    prompts_included: bool
    doubt: str | None

    def to_json(self) -> dict[str, Any]:
        """As `lede evaluate --json` prints it."""
        return asdict(self)


@dataclass(frozen=True)
class Method:
    """A rule to evaluate, by the name and the parameters it is shown with."""

    name: str
    rule: ExitRule
    parameters: dict[str, Any] | None = None


@dataclass(frozen=True)
class Sides:
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
        best[name] = ceiling(texts, costs, positions=True, **options)
        progress(len(best), total)
    replayed = []
    for method in methods:
        replayed.append(replay_rule(method.rule, texts, costs))
        progress(len(best) + len(replayed), total)
    plain = milliseconds(replayed[0])
    scale = Scale(plain, float(plain.sum() / (best["oracle"].milliseconds + prompts).sum()), groups)
    return Evaluation(
        [_rule(m, r, scale) for m, r in zip(methods, replayed, strict=True)],
        [_ceiling(name, c, prompts, scale) for name, c in best.items()],
        scale.oracle, len(texts.lengths), len(np.unique(groups)), bool(prompts.any()), costs.doubt,
    )  # fmt: skip


def ceilings_of(layers: Sequence[int]) -> dict[str, dict[str, Any]]:
    """Names of the ceilings and what they may choose; each takes a choice away, so that its worth is seen."""
    real = [layer for layer in layers if layer > 0]
    free = range(1, LONG_DRAFTS + 1)
    out: dict[str, dict[str, Any]] = {"oracle": {"lengths": free, "bypass": True}}
    if 0 < len(real) < len(layers):
        out["oracle without layer 0"] = {"layers": real, "lengths": free, "bypass": True}
    out["oracle that pays to look"] = {"lengths": free, "decisions": True, "bypass": True}
    out |= {f"always E={layer}, best d": {"layers": [layer], "lengths": free} for layer in layers}
    out |= {f"always d={d}, best E": {"lengths": [d]} for d in FIXED}
    return out


def milliseconds(replayed: Sequence[Replayed]) -> Float:
    """(N,): reading the prompt and writing the text."""
    return np.array([r.milliseconds + r.prompt_milliseconds for r in replayed])


@dataclass(frozen=True)
class Scale:
    """What times are compared with: plain decoding's milliseconds (N,), the oracle's speedup; groups (N,)."""

    plain: Float
    oracle: float
    groups: NDArray[np.int64]

    def row(self, method: str, spent: Float, bounds: tuple[Float, Float], counts: Any, **shown: Any) -> Evaluated:
        """One row: milliseconds (N,), the slowest and the fastest that they may be, and counts by name."""
        tokens, rounds, drafting, depth, drafted, accepted = counts
        speedup = float(self.plain.sum() / spent.sum())
        low, high = ratio_interval(self.plain, spent, self.groups)
        slow, fast = (float(self.plain.sum() / bound.sum()) for bound in bounds)
        return Evaluated(
            method=method,
            exit_layer=depth / drafting if drafting else None,
            draft_length=drafted / drafting if drafting else None,
            acceptance=accepted / drafted if drafted else None,
            tokens_per_round=tokens / rounds,
            tokens_per_s=float(tokens / spent.sum() * 1e3),
            predicted_speedup=speedup,
            predicted_low=low,
            predicted_high=high,
            bound_low=slow,
            bound_high=fast,
            regret=1 - speedup / self.oracle,
            worst_decile=worst(self.plain, spent),
            **shown,
        )


def _rule(method: Method, replayed: Sequence[Replayed], scale: Scale) -> Evaluated:
    prompts = np.array([r.prompt_milliseconds for r in replayed])
    slow, fast = (np.array([getattr(r, f"milliseconds_{end}") for r in replayed]) + prompts for end in ("high", "low"))
    names = ("tokens", "rounds", "drafting_rounds", "exit_layers", "drafted", "accepted")
    exits = sum((Counter(r.exits) for r in replayed), Counter())
    return scale.row(
        method.name, milliseconds(replayed), (slow, fast), [sum(getattr(r, name) for r in replayed) for name in names],
        exits=dict(sorted(exits.items())), parameters=method.parameters,
    )  # fmt: skip


def _ceiling(name: str, c: Ceiling, prompts: Float, scale: Scale) -> Evaluated:
    spent = c.milliseconds + prompts
    counts = [int(part.sum()) for part in (c.tokens, c.rounds, c.drafting, c.depth, c.drafted, c.accepted)]
    return scale.row(name, spent, (spent, spent), counts, exits=None, parameters=None)


def worst(plain: Float, spent: Float) -> float:
    """Speedup over the tenth of the texts on which it is lowest, one at least."""
    order = np.argsort(plain / spent)[: max(round(WORST * len(plain)), 1)]
    return float(plain[order].sum() / spent[order].sum())
