"""`lede bench --check`: what replay says of every rule on the bench's own texts, to be set beside what was measured.

The texts are swept, every rule is replayed on them (`simulate.scalar`), and the oracle is found (`simulate.oracle`). A
machine that throttles or is busy is not the same for long, so costs are measured again and again between the prompts,
as averages: what is predicted are sums over all that the machine did.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lede.bench.job import Job, tokenised
from lede.bench.measure import Sample
from lede.bench.methods import rule_of
from lede.bench.names import BASELINE, FOREIGN
from lede.bench.store import Store, code_hash
from lede.bench.tune import sweep_texts
from lede.decode.model import Model
from lede.decode.rules import ExitRule
from lede.process import LONG_DRAFTS
from lede.simulate.baselines import real_layers
from lede.simulate.costs import Costs
from lede.simulate.evaluate import Method, evaluate
from lede.simulate.profile import measure as measure_costs
from lede.simulate.texts import Texts

CALIBRATIONS = 10  # in a run, evenly spread over its prompts,
SECONDS = 2.5  # each

# What predictions depend on besides what is measured.
CHECK_CODE = (
    *("bench/check.py", "decode/loop.py", "collect/sweep.py"),
    *(f"simulate/{name}.py" for name in ("evaluate", "scalar", "oracle", "costs", "texts")),
)


@dataclass(frozen=True)
class Check:
    """What replay predicts, ready for JSON.

    predictions: by method its speedup over plain decoding, reading prompts included, and the bounds of that (low, high:
    `simulate.scalar`). oracle_layers: what the oracle may choose from. plain_seconds: what plain decoding takes by
    these costs.
    """

    predictions: dict[str, list[float]]
    oracle_speedup: float
    oracle_layers: list[int]
    plain_seconds: float


def calibrate(model: Model, job: Job, store: Store, progress: Callable[[float], None] = lambda share: None) -> None:
    """Measure costs once more, and keep them beside those that were measured before."""
    more = measure_costs(model, SECONDS, progress, average=True, settings=job.charged).to_json()
    store.remember("calibrations", [*store.tuned().get("calibrations", []), more])


def calibrations(tuned: Mapping[str, Any]) -> list[Costs]:
    """The costs that a run measured between its prompts, in order; without a check, those from before it."""
    return [Costs.from_json(one) for one in tuned.get("calibrations") or [tuned["costs"]]]


def combined(costs: Sequence[Costs]) -> Costs:
    """The mean of every number; several calibrations must be of one model."""
    every = [one.to_json() for one in costs]
    mean = {name: np.mean([one[name] for one in every], axis=0).tolist() for name in every[0]}
    return Costs.from_json(mean | {"layers": costs[0].layers, "context": round(mean["context"])})


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
        calibrate(model, job, store, lambda share: progress(0.3 * share, "measuring costs again"))
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
        combined(calibrations(store.tuned())),
        oracle_layers,
        lambda share: progress(0.7 + 0.3 * share, "replaying"),
    )
    store.remember("check", {"code": code, "said": asdict(said)})
    return said


def predict(
    rules: Mapping[str, ExitRule],
    texts: Texts,
    costs: Costs,
    oracle_layers: Sequence[int],
    progress: Callable[[float], None] = lambda share: None,
) -> Check:
    """Replay the rules on the texts, and find the oracle over these layers."""
    methods = [Method(name, rule) for name, rule in rules.items() if name != BASELINE]
    oracle = {"oracle": {"layers": oracle_layers, "lengths": range(1, LONG_DRAFTS + 1), "bypass": True}}
    found = evaluate(texts, costs, methods, None, lambda done, total: progress(done / total), oracle)
    predictions = {row.method: [row.predicted_speedup, row.bound_low, row.bound_high] for row in found.rows}
    seconds = float(texts.lengths.sum()) / found.rows[0].tokens_per_s
    return Check(predictions, found.oracle_speedup, list(oracle_layers), seconds)
