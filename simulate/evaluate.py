"""`lede evaluate`: what any rule would do, from the files of a dataset alone, and how far that is from the best.

Rules are replayed over the sweeps of texts (`simulate.scalar`) with measured costs; the oracle is dynamic programming
on the same sweeps (`simulate.oracle`). Reading the prompts is part of every time, as it is in `lede bench`, where the
costs say what it takes.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.decode.rules import LONG_DRAFTS, Autoregressive, ExitRule
from lede.simulate.bootstrap import ratio_interval
from lede.simulate.costs import Costs
from lede.simulate.oracle import Ceiling, ceiling
from lede.simulate.scalar import Replayed, replay_rule
from lede.simulate.texts import Texts

Float = NDArray[np.float64]
WORST = 0.1  # share of the texts that is told apart
FIXED = (2, 4, 8, 12, 24)  # draft lengths of ceilings that may not choose them


@dataclass(frozen=True)
class Evaluated:
    """One rule, or one ceiling, over all texts; names as in `lede bench --json`.

    predicted_speedup: over plain decoding, with its 95 % bootstrap interval over texts. bound_low, bound_high: the same
    if, behind every first wrong draft, the rule did the worst and the best it could (what replay cannot see). regret:
    share of the oracle's speedup that is missed. worst_decile: speedup on the tenth of the texts where it is lowest.
    exits: rounds by exit layer; None for a ceiling.
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
    """Rules and ceilings, scored on the same texts; prompts_included: whether the costs say what reading them takes."""

    rows: list[Evaluated]
    ceilings: list[Evaluated]
    oracle_speedup: float
    texts: int
    prompts_included: bool

    def to_json(self) -> dict[str, Any]:
        """As `lede evaluate --json` prints it."""
        return {
            "texts": self.texts,
            "prompts_included": self.prompts_included,
            "oracle_speedup": self.oracle_speedup,
            "rows": [asdict(row) for row in self.rows],
            "ceilings": [asdict(row) for row in self.ceilings],
        }


@dataclass(frozen=True)
class Rival:
    """A rule to evaluate, by the name and the parameters it is shown with."""

    name: str
    rule: ExitRule
    parameters: dict[str, Any] | None = None


def evaluate(
    texts: Texts,
    costs: Costs,
    rivals: Sequence[Rival],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Replay every rival, and plain decoding, on the texts; find the ceilings.

    Raises ValueError for a rule with layers that the texts were not swept at.
    """
    methods = [Rival("autoregressive", Autoregressive()), *rivals]
    wanted = ceilings_of(texts.layers)
    total = len(methods) + len(wanted)
    prompts = np.array([costs.read(int(length)) for length in texts.prompt_lengths])
    found = {}
    for name, options in wanted.items():
        found[name] = ceiling(texts, costs, positions=True, **options)
        progress(len(found), total)
    replayed = []
    for method in methods:
        replayed.append(replay_rule(method.rule, texts, costs))
        progress(len(found) + len(replayed), total)
    plain = milliseconds(replayed[0])
    oracle = float(plain.sum() / (found["oracle"].milliseconds + prompts).sum())
    return Evaluation(
        [_rule(m, r, plain, oracle) for m, r in zip(methods, replayed, strict=True)],
        [_ceiling(name, c, plain, prompts, oracle) for name, c in found.items()],
        oracle,
        len(texts.lengths),
        bool(prompts.any()),
    )


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


def _rule(rival: Rival, replayed: Sequence[Replayed], plain: Float, oracle: float) -> Evaluated:
    spent = milliseconds(replayed)
    prompts = np.array([r.prompt_milliseconds for r in replayed])
    slow = np.array([r.milliseconds_high for r in replayed]) + prompts
    fast = np.array([r.milliseconds_low for r in replayed]) + prompts
    tokens, rounds, drafting, depth, drafted, accepted = (
        sum(getattr(r, name) for r in replayed)
        for name in ("tokens", "rounds", "drafting_rounds", "exit_layers", "drafted", "accepted")
    )
    return _evaluated(
        rival.name, spent, plain, oracle, tokens=tokens, rounds=rounds, drafting=drafting, depth=depth, drafted=drafted,
        accepted=accepted, bounds=(float(plain.sum() / slow.sum()), float(plain.sum() / fast.sum())),
        exits=dict(sorted(sum((Counter(r.exits) for r in replayed), Counter()).items())), parameters=rival.parameters,
    )  # fmt: skip


def _ceiling(name: str, c: Ceiling, plain: Float, prompts: Float, oracle: float) -> Evaluated:
    spent = c.milliseconds + prompts
    speedup = float(plain.sum() / spent.sum())
    return _evaluated(
        name, spent, plain, oracle, tokens=int(c.tokens.sum()), rounds=int(c.rounds.sum()),
        drafting=int(c.drafting.sum()), depth=int(c.depth.sum()), drafted=int(c.drafted.sum()),
        accepted=int(c.accepted.sum()), bounds=(speedup, speedup), exits=None, parameters=None,
    )  # fmt: skip


def _evaluated(
    name: str, spent: Float, plain: Float, oracle: float, *, tokens: int, rounds: int, drafting: int, depth: int,
    drafted: int, accepted: int, bounds: tuple[float, float], exits: dict[int, int] | None,
    parameters: dict[str, Any] | None,
) -> Evaluated:  # fmt: skip
    speedup = float(plain.sum() / spent.sum())
    low, high = ratio_interval(plain, spent)
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
        bound_low=bounds[0],
        bound_high=bounds[1],
        regret=1 - speedup / oracle,
        worst_decile=worst(plain, spent),
        exits=exits,
        parameters=parameters,
    )


def worst(plain: Float, spent: Float) -> float:
    """Speedup over the tenth of the texts on which it is lowest, one at least."""
    order = np.argsort(plain / spent)[: max(round(WORST * len(plain)), 1)]
    return float(plain[order].sum() / spent[order].sum())
