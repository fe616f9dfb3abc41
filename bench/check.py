"""`lede bench --check`: what replay says of every rule on the bench's own texts, to be set beside what was measured.

The texts are swept, every rule is replayed on them (`simulate.scalar`), and the oracle is found (`simulate.oracle`). A
machine that throttles or is busy is not the same for long, so costs are measured again and again between the prompts,
as averages: what is predicted are sums over all that the machine did.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from lede.bench.job import Job, tokenised
from lede.bench.measure import Sample
from lede.bench.methods import rule_of
from lede.bench.names import BASELINE, FOREIGN
from lede.bench.store import Store, code_hash
from lede.bench.summary import Row
from lede.bench.tune import sweep_texts
from lede.decode.model import Model
from lede.decode.rules import LONG_DRAFTS, ExitRule
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
    *("bench/check.py", "decode/loop.py", "collect/sweep.py"),
    *(f"simulate/{name}.py" for name in ("scalar", "oracle", "costs", "texts")),
)


@dataclass(frozen=True)
class Check:
    """What replay predicts, ready for JSON.

    predictions: by method its speedup over plain decoding, reading prompts included, and the bounds of that (low, high:
    `simulate.scalar`). oracle_layers: what the oracle may choose from. calibrations: how often costs were measured;
    drift: how far they are apart (`drift`). plain_seconds: what plain decoding takes by these costs.
    """

    predictions: dict[str, list[float]]
    oracle_speedup: float
    oracle_layers: list[int]
    calibrations: int
    drift: float
    plain_seconds: float

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """The rows of a bench with what is predicted of them."""
        return [self._row(row) if row.method in self.predictions else row for row in rows]

    def _row(self, row: Row) -> Row:
        speedup, low, high = self.predictions[row.method]
        row = replace(row, predicted_speedup=speedup, predicted_low=low, predicted_high=high)
        return replace(row, oracle_speedup=self.oracle_speedup, regret=1 - row.speedup / self.oracle_speedup)


def calibrate(model: Model, store: Store, progress: Callable[[float], None] = lambda share: None) -> None:
    """Measure costs once more, and keep them beside those that were measured before."""
    more = measure_costs(model, SECONDS, progress, average=True).to_json()
    store.remember("calibrations", [*store.tuned().get("calibrations", []), more])


def calibrations(tuned: Mapping[str, Any]) -> list[Costs]:
    """The costs that a run measured between its prompts, in order; without a check, those from before it."""
    return [Costs.from_json(one) for one in tuned.get("calibrations") or [tuned["costs"]]]


def combined(costs: Sequence[Costs]) -> Costs:
    """The mean of every number; several calibrations must be of one model."""
    every = [one.to_json() for one in costs]
    mean = {name: np.mean([one[name] for one in every], axis=0).tolist() for name in every[0]}
    return Costs.from_json(mean | {"layers": costs[0].layers, "context": round(mean["context"])})


def drift(costs: Sequence[Costs]) -> float:
    """How far calibrations are apart where it moves predictions: in rounds over a token of plain decoding.

    The upper quartile over the lower one, less one.
    """
    shallow = max(costs[0].layers // 4, 1)
    ratios = np.array([[c.finish(layer, d) / c.plain() for layer, d in ((0, 8), (shallow, 4))] for c in costs])
    upper, lower = np.quantile(ratios, (0.75, 0.25), axis=0)
    return float((upper / lower - 1).max())


def check(
    model: Model,
    job: Job,
    store: Store,
    samples: Sequence[Sample],
    progress: Callable[[float, str], None] = lambda share, note: None,
) -> Check:
    """Predict what `samples` measured, or say again what was predicted of this run before."""
    code, tuned = code_hash(CHECK_CODE), store.tuned()
    if tuned.get("check", {}).get("code") == code:
        return Check(**tuned["check"]["said"])
    if "calibrations" not in tuned:  # measured without a check: these at least are of today
        calibrate(model, store, lambda share: progress(0.3 * share, "measuring costs again"))
    policies = job.load_policies(model)
    rules = {name: rule_of(model, name, store.parameters(name), policies) for name in job.rows if name not in FOREIGN}
    tokens = {prompt_id: ids for prompt_id, _, ids in tokenised(model, job.prompts)}
    plain = {s.prompt_id: s.token_ids for s in samples if s.method == BASELINE and s.token_ids}
    visited = {layer for rule in rules.values() for layer in (*rule.layers, *rule.shadow_layers)}
    texts = sweep_texts(
        model,
        [tokens[prompt] for prompt in plain],
        plain.values(),
        job.settings,
        {*real_layers(model.layer_count), *visited} - {model.layer_count},
        lambda done, total: progress(0.3 + 0.4 * done / total, "sweeping the texts"),
    )
    choice = {layer for chooser in (policies or rules).values() for layer in chooser.layers}
    oracle_layers = sorted({0, *choice} - {model.layer_count})
    said = predict(
        rules,
        texts,
        calibrations(store.tuned()),
        oracle_layers,
        lambda share: progress(0.7 + 0.3 * share, "replaying"),
    )
    store.remember("check", {"code": code, "said": asdict(said)})
    return said


def predict(
    rules: Mapping[str, ExitRule],
    texts: Texts,
    measured: Sequence[Costs],
    oracle_layers: Sequence[int],
    progress: Callable[[float], None] = lambda share: None,
) -> Check:
    """Replay the rules, plain decoding among them, on the texts, and find the oracle over these layers."""
    costs = combined(measured)
    prompts = sum(costs.read(int(length)) for length in texts.prompt_lengths)
    spent = {}
    for number, (name, rule) in enumerate(rules.items(), 1):
        replayed = replay_rule(rule, texts, costs)
        times = ("milliseconds", "milliseconds_high", "milliseconds_low")
        spent[name] = [prompts + sum(getattr(r, time) for r in replayed) for time in times]
        progress(number / (len(rules) + 1))
    plain = spent[BASELINE][0]
    lengths = range(1, LONG_DRAFTS + 1)
    free = ceiling(texts, costs, layers=tuple(oracle_layers), lengths=lengths, bypass=True, positions=True)
    best = float(plain / (free.milliseconds.sum() + prompts))
    predictions = {name: [float(plain / ms) for ms in times] for name, times in spent.items()}
    return Check(predictions, best, list(oracle_layers), len(measured), drift(measured), float(plain / 1e3))
