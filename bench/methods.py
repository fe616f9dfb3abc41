"""Methods ready to be measured: their parameters are set on training prompts, and remembered."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from lede.bench.library import Library
from lede.bench.measure import Method, rule_method
from lede.bench.names import BASELINE, EARLY_EXIT, FAMILIES, LIBRARY, POLICY_OF
from lede.bench.store import Store
from lede.bench.tune import Budget, sweep_prompts, tune
from lede.decode.facts import model_facts
from lede.decode.model import Model
from lede.decode.rules import Autoregressive, ExitRule, FixedExit, FixedLength
from lede.decode.sampling import Settings
from lede.serve.generate import policy_rule
from lede.serve.policy import Policy, check_fits, load_policy
from lede.simulate.baselines import BASELINES, make_rule, real_layers
from lede.simulate.costs import Costs
from lede.simulate.profile import measure as measure_costs

Progress = Callable[[float, str], None]  # how much is done, 0…1, and what runs now


def prepare(
    model: Model,
    path: str,
    names: Sequence[str],
    training: Sequence[list[int]],
    settings: Settings,
    policies: Mapping[str, Path],
    store: Store,
    progress: Progress = lambda share, note: None,
    budget: Budget | None = None,
) -> list[Method]:
    """The named methods, each tuned on `training` (token ids) where the store does not know its parameters yet.

    `policies`: the folders of the policies, by the names in POLICY_OF. All families have the same `budget`; the
    library's early exit, which is timed alone, tries fewer. Raises PolicyError for a policy of another model.
    """
    loaded = {name: load_policy(folder) for name, folder in policies.items()}
    for policy in loaded.values():
        check_fits(policy, model_facts(model))

    def step(number: int, note: str) -> Callable[..., None]:
        """Progress of one of the names, behind the costs and the sweeps."""
        return lambda done, total=1: progress((number + done / total) / (len(names) + 2), note)

    if "costs" not in store.tuned():
        store.remember("costs", measure_costs(model, progress=step(0, "measuring costs")).to_json())
    known = store.tuned()
    if any(name not in known and (name in FAMILIES or name in ABLATIONS) for name in names):
        exits = {layer for policy in loaded.values() for layer in policy.layers} - {model.layer_count}
        layers = sorted({*real_layers(model.layer_count), *exits})
        texts = sweep_prompts(model, training, settings, layers, step(1, "sweeping the training prompts"))
        given = (texts, Costs.from_json(known["costs"]), training, settings, budget)
    library = Library(model, path, settings) if {LIBRARY, EARLY_EXIT} & set(names) else None
    methods = []
    for number, name in enumerate(names, 2):
        if name not in known:
            report = step(number, f"tuning {name}")
            if name == EARLY_EXIT and library is not None:
                store.remember(name, library.tune(training, report))
            elif name in FAMILIES or name in ABLATIONS:
                space = (
                    BASELINES[name].space(texts, model.layer_count)
                    if name in FAMILIES
                    else ABLATIONS[name][0](loaded[POLICY_OF[name]], model)
                )
                rule_for = partial(rule_of, model, name, policies=loaded)
                store.remember(name, asdict(tune(model, space, rule_for, *given, report)))
        parameters = store.tuned().get(name, {}).get("parameters", {})
        if name in (LIBRARY, EARLY_EXIT) and library is not None:
            methods.append(library.method(name, **parameters))
        else:
            methods.append(rule_method(model, rule_of(model, name, parameters, loaded), settings, name))
    progress(1.0, "")
    return methods


def rule_of(model: Model, name: str, parameters: dict[str, Any], policies: Mapping[str, Policy]) -> ExitRule:
    """The exit rule of a method that is not the library's, with these parameters."""
    if name == BASELINE:
        return Autoregressive()
    if name in FAMILIES:
        return make_rule(name, parameters)
    policy = policies[POLICY_OF[name]]
    return ABLATIONS[name][1](policy, **parameters) if name in ABLATIONS else policy_rule(model, policy, name)


def _exits(policy: Policy, model: Model) -> list[dict[str, Any]]:
    return [{"exit_layer": layer} for layer in policy.layers if layer < model.layer_count]


def _lengths(policy: Policy, model: Model) -> list[dict[str, Any]]:
    return [{"draft_length": length} for length in range(1, policy.max_drafts + 1)]


# The paper's Table 3: half of the policy, the other half fixed at what is fastest on the training prompts. Method →
# its parameters, and the rule of one of them.
ABLATIONS: dict[str, tuple[Callable[[Policy, Model], list[dict[str, Any]]], Callable[..., ExitRule]]] = {
    f"{recipe}-{part}": ablation
    for recipe in ("lede", "lede-paper")
    for part, ablation in (("fixed-exit", (_exits, FixedExit)), ("fixed-length", (_lengths, FixedLength)))
}
