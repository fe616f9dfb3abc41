"""Methods ready to be measured: their parameters are set on training prompts, and remembered as they are found."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from lede.bench.library import Library
from lede.bench.measure import Method, rule_method
from lede.bench.names import BASELINE, EARLY_EXIT, FAMILIES, LIBRARY, POLICY_OF
from lede.bench.store import Store
from lede.bench.tune import Budget, search, sweep_prompts, tune
from lede.decode.facts import model_facts
from lede.decode.model import Model
from lede.decode.rules import MAX_DRAFTS, Autoregressive, ExitRule, FixedExit, FixedLength
from lede.decode.sampling import Settings
from lede.serve.generate import policy_rule
from lede.serve.policy import Policy, check_fits, load_policy
from lede.simulate.costs import Costs
from lede.simulate.families import make_rule, real_layers
from lede.simulate.profile import measure as measure_costs
from lede.simulate.texts import Texts

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
    return _Preparing(model, path, names, training, settings, policies, store, progress, budget).methods()


class _Preparing:
    """One call of `prepare`."""

    def __init__(
        self, model: Model, path: str, names: Sequence[str], training: Sequence[list[int]], settings: Settings,
        policies: Mapping[str, Path], store: Store, progress: Progress, budget: Budget | None,
    ):  # fmt: skip
        self.model, self.path, self.names, self.training, self.settings = model, path, names, training, settings
        self.store, self.progress, self.budget = store, progress, budget
        self.policies = {name: load_policy(folder) for name, folder in policies.items()}
        for policy in self.policies.values():
            check_fits(policy, model_facts(model))
        self.step = 0
        self.steps = len(names) + 2  # the costs and the sweeps come first

    def methods(self) -> list[Method]:
        known = self.store.tuned()
        if "costs" not in known:
            costs = measure_costs(self.model, progress=lambda share: self.report("measuring costs", share))
            self.store.remember("costs", costs.to_json())
        self.step = 1
        due = [name for name in self.names if name not in known]
        if any(name in FAMILIES or name in ABLATIONS for name in due):
            _ = self.texts
        for name in due:
            self.step += 1
            if (found := self.tuned(name)) is not None:
                self.store.remember(name, found)
        self.progress(1.0, "")
        known = self.store.tuned()
        return [self.method(name, known.get(name, {}).get("parameters", {})) for name in self.names]

    def tuned(self, name: str) -> dict[str, Any] | None:
        """What tuning finds for a method; None for one that has nothing to set."""

        def report(done: int, total: int) -> None:
            self.report(f"tuning {name}", done / total)

        if name == EARLY_EXIT:
            return self.library.tune(self.training, report)
        given = (self.costs, self.training, self.settings, self.budget, report)
        if name in FAMILIES:
            return tune(self.model, name, self.texts, *given).to_json()
        if name in ABLATIONS:
            space, make = ABLATIONS[name]
            policy = self.policies[POLICY_OF[name]]
            return search(
                self.model, name, space(policy, self.model), lambda p: make(policy, **p), self.texts, *given
            ).to_json()
        return None

    def method(self, name: str, parameters: dict[str, Any]) -> Method:
        if name == LIBRARY:
            return self.library.method(name)
        if name == EARLY_EXIT:
            return self.library.method(name, **parameters)
        rule = rule_of(self.model, name, parameters, self.policies)
        assert rule is not None  # the two that are not rules are the library's
        return rule_method(self.model, rule, self.settings, name)

    def report(self, note: str, share: float) -> None:
        self.progress((self.step + share) / self.steps, note)

    @cached_property
    def library(self) -> Library:
        return Library(self.model, self.path, self.settings)

    @cached_property
    def costs(self) -> Costs:
        return Costs.from_json(self.store.tuned()["costs"])

    @cached_property
    def texts(self) -> Texts:
        """The training prompts' texts, swept once, at every layer that a family or a policy may exit at."""

        def report(done: int, total: int) -> None:
            self.report("sweeping the training prompts", done / total)

        exits = {layer for policy in self.policies.values() for layer in policy.layers}
        wanted = set(real_layers(self.model.layer_count)) | exits - {self.model.layer_count}
        return sweep_prompts(self.model, self.training, self.settings, sorted(wanted), report)


def rule_of(
    model: Model, name: str, parameters: dict[str, Any], policies: Mapping[str, Policy]
) -> ExitRule | None:  # fmt: skip
    """The exit rule of a method with these parameters; None for a method of the library."""
    if name in (LIBRARY, EARLY_EXIT):
        return None
    if name == BASELINE:
        return Autoregressive()
    if name in FAMILIES:
        return make_rule(name, parameters)
    if name in ABLATIONS:
        return ABLATIONS[name][1](policies[POLICY_OF[name]], **parameters)
    return policy_rule(model, policies[POLICY_OF[name]], name)


def _exits(policy: Policy, model: Model) -> list[dict[str, Any]]:
    return [{"exit_layer": layer} for layer in policy.layers if layer < model.layer_count]


def _lengths(policy: Policy, model: Model) -> list[dict[str, Any]]:
    return [{"draft_length": length} for length in range(1, MAX_DRAFTS + 1)]


# The paper's Table 3: half of the policy, the other half fixed at what is fastest on the training prompts.
ABLATIONS: dict[str, tuple[Callable[[Policy, Model], list[dict[str, Any]]], Callable[..., ExitRule]]] = {
    f"{recipe}-{part}": ablation
    for recipe in ("lede", "lede-paper")
    for part, ablation in (("fixed-exit", (_exits, FixedExit)), ("fixed-length", (_lengths, FixedLength)))
}
