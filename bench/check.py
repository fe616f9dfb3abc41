"""`lede bench --check`: what replay says of every rule on the bench's own texts, to be set beside what was measured.

The texts are swept, every rule of the bench is replayed on them (`simulate.scalar`), and the oracle is found
(`simulate.oracle`). A machine that throttles or is busy is not the same for long, so costs are measured again and again
between the prompts, as averages: what is predicted are sums over all that the machine did.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from lede.bench.measure import Sample
from lede.bench.methods import rule_of
from lede.bench.names import BASELINE, EARLY_EXIT, LIBRARY, POLICY_OF
from lede.bench.store import Store, code_hash
from lede.bench.summary import Row
from lede.bench.tune import sweep_texts
from lede.decode.model import Model
from lede.decode.rules import LONG_DRAFTS, ExitRule
from lede.decode.sampling import Settings
from lede.serve.policy import load_policy
from lede.simulate.baselines import real_layers
from lede.simulate.costs import Costs
from lede.simulate.oracle import ceiling
from lede.simulate.profile import measure as measure_costs
from lede.simulate.scalar import replay_rule
from lede.simulate.texts import Texts

CALIBRATIONS = 10  # in a run, evenly spread over its prompts,
SECONDS = 2.5  # each

# What predictions depend on besides what is measured.
CHECK_CODE = (
    "bench/check.py", "simulate/scalar.py", "decode/loop.py", "collect/sweep.py",
    "simulate/oracle.py", "simulate/costs.py", "simulate/texts.py",
)  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """Speedup over plain decoding by replay, reading prompts included, and its bounds (`simulate.scalar`)."""

    speedup: float
    low: float
    high: float


@dataclass(frozen=True)
class Check:
    """Predictions by method; the oracle's speedup and the layers it may choose from; how steady the machine was.

    calibrations: how often costs were measured; drift: how far they are apart (`drift`); plain_seconds: what plain
    decoding takes by these costs.
    """

    predictions: dict[str, Prediction]
    oracle_speedup: float
    oracle_layers: tuple[int, ...]
    calibrations: int
    drift: float
    plain_seconds: float

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of a bench with what is known of them here."""
        return [self._row(row) if row.method in self.predictions else row for row in rows]

    def _row(self, row: Row) -> Row:
        found = self.predictions[row.method]
        return replace(
            row, predicted_speedup=found.speedup, predicted_low=found.low, predicted_high=found.high,
            oracle_speedup=self.oracle_speedup, regret=1 - row.speedup / self.oracle_speedup,
        )  # fmt: skip

    def to_json(self) -> dict[str, Any]:
        """As it is stored and printed."""
        return asdict(self) | {"oracle_layers": list(self.oracle_layers)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Check":
        """Inverse of `to_json`; other keys are ignored."""
        known = {field.name: data[field.name] for field in fields(cls)}
        predictions = {name: Prediction(**found) for name, found in known.pop("predictions").items()}
        return cls(**known | {"predictions": predictions, "oracle_layers": tuple(known["oracle_layers"])})


def calibrate(model: Model, store: Store, progress: Callable[[float], None] = lambda share: None) -> None:
    """Measure costs once more, and keep them beside those that were measured before."""
    more = measure_costs(model, SECONDS, progress, average=True).to_json()
    store.remember("calibrations", [*store.tuned().get("calibrations", []), more])


def calibrations(tuned: Mapping[str, Any]) -> list[Costs]:
    """The costs that a run measured between its prompts, in order; without a check, those from before it."""
    return [Costs.from_json(one) for one in tuned.get("calibrations") or [tuned["costs"]]]


def combined(found: Sequence[Costs]) -> Costs:
    """The mean of every number; several calibrations must be of one model."""
    if len(found) == 1:
        return found[0]
    every = [costs.to_json() for costs in found]
    known = [name for name in every[0] if all(one[name] is not None for one in every)]
    mean = {name: np.mean([one[name] for one in every], axis=0).tolist() for name in known}
    return Costs.from_json(mean | {"layers": found[0].layers, "context": round(mean["context"])})


def drift(found: Sequence[Costs]) -> float:
    """How far calibrations are apart where it moves predictions: in rounds over a token of plain decoding.

    The upper quartile over the lower one, less one.
    """
    shallow = max(found[0].layers // 4, 1)
    ratios = np.array([[c.finish(layer, d) / c.plain() for layer, d in ((0, 8), (shallow, 4))] for c in found])
    upper, lower = np.quantile(ratios, (0.75, 0.25), axis=0)
    return float((upper / lower - 1).max())


def check(
    model: Model,
    store: Store,
    methods: Sequence[str],
    policies: Mapping[str, Path],
    settings: Settings,
    tokens: Mapping[str, list[int]],
    samples: Sequence[Sample],
    progress: Callable[[float, str], None] = lambda share, note: None,
) -> Check:
    """Predict what `samples` measured, or say again what was predicted of this run before.

    `tokens` are the prompts' ids; the texts behind them are those of plain decoding.
    """
    code = code_hash(CHECK_CODE)
    tuned = store.tuned()
    if tuned.get("check", {}).get("code") == code:
        return Check.from_json(tuned["check"])
    if "calibrations" not in tuned:  # measured without a check: these at least are of today
        calibrate(model, store, lambda share: progress(0.3 * share, "measuring costs again"))
        tuned = store.tuned()
    loaded = {name: load_policy(folder) for name, folder in policies.items()}
    rules = {
        name: rule_of(model, name, tuned.get(name, {}).get("parameters", {}), loaded)
        for name in methods
        if name not in (LIBRARY, EARLY_EXIT)
    }
    plain = {s.prompt_id: s.token_ids for s in samples if s.method == BASELINE and s.token_ids}
    layers = set(real_layers(model.layer_count)) | {layer for rule in rules.values() for layer in needed(rule, model)}
    texts = sweep_texts(
        model, [tokens[prompt] for prompt in plain], plain.values(), settings, sorted(layers),
        lambda done, total: progress(0.3 + 0.4 * done / total, "sweeping the texts"),
    )  # fmt: skip
    choice = {layer for name in rules if name in POLICY_OF for layer in loaded[POLICY_OF[name]].layers}
    choice = choice or {layer for rule in rules.values() for layer in rule.layers}
    oracle_layers = tuple(sorted({0, *choice} - {model.layer_count}))
    found = predict(
        rules, texts, calibrations(tuned), oracle_layers, lambda share: progress(0.7 + 0.3 * share, "replaying")
    )
    store.remember("check", found.to_json() | {"code": code})
    return found


def needed(rule: ExitRule, model: Model) -> set[int]:
    """The layers of a rule that texts must be swept at."""
    return {*rule.layers, *rule.shadow_layers} - {model.layer_count}


def predict(
    rules: Mapping[str, ExitRule],
    texts: Texts,
    found: Sequence[Costs],
    oracle_layers: tuple[int, ...],
    progress: Callable[[float], None] = lambda share: None,
) -> Check:
    """Replay the rules, plain decoding among them, on the texts, and find the oracle over these layers."""
    costs = combined(found)
    prompts = sum(costs.read(int(length)) for length in texts.prompt_lengths)
    spent = {}
    for number, (name, rule) in enumerate(rules.items()):
        replayed = replay_rule(rule, texts, costs)
        spent[name] = [
            prompts + sum(getattr(r, time) for r in replayed)
            for time in ("milliseconds", "milliseconds_high", "milliseconds_low")
        ]
        progress((number + 1) / (len(rules) + 1))
    plain = spent[BASELINE][0]
    best = ceiling(
        texts, costs, layers=oracle_layers, lengths=range(1, LONG_DRAFTS + 1), bypass=True, positions=True
    ).milliseconds.sum()  # fmt: skip
    predictions = {name: Prediction(*(float(plain / ms) for ms in times)) for name, times in spent.items()}
    return Check(predictions, float(plain / (best + prompts)), oracle_layers, len(found), drift(found), plain / 1e3)
