"""Methods ready to be measured: their parameters are set on training prompts, and remembered."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from lede.bench.job import Job, tokenised
from lede.bench.library import Library
from lede.bench.llama_cpp import KINDS, LlamaCpp
from lede.bench.measure import Method, rule_method
from lede.bench.names import ABLATIONS, BASELINE, EARLY_EXIT, FAMILIES, FOREIGN, LIBRARY, POLICY_OF, TUNED
from lede.bench.store import Store
from lede.bench.tune import Training, sweep_texts, tune
from lede.decode.model import Model
from lede.decode.rules import Autoregressive, ExitRule, FixedExit, FixedLength
from lede.policy import Policy
from lede.serve.generate import policy_rule
from lede.simulate.baselines import BASELINES, Parameters, make_rule, real_layers
from lede.simulate.costs import Costs
from lede.simulate.profile import measure as measure_costs
from lede.simulate.texts import Texts

Progress = Callable[[float, str], None]  # how much is done, 0…1, and what runs now


def prepare(
    model: Model, path: str, job: Job, store: Store, progress: Progress = lambda share, note: None
) -> list[Method]:
    """The methods of a job, each tuned on its training prompts where the store does not know its parameters yet.

    All spaces have the same budget; other decoders, which are timed alone, try fewer. `path`: see `bench`.
    Raises PolicyError for a policy of another model, BenchError for what llama.cpp is not given.
    """
    policies, names, settings = job.load_policies(model), job.rows, job.settings
    prompts = [ids for _, _, ids in tokenised(model, job.training)]

    theirs = _foreign(model, path, job, prompts)

    def step(number: int, note: str) -> Callable[..., None]:
        """Progress of one of the names, behind the costs and the sweeps."""
        return lambda done, total=1: progress((number + done / total) / (len(names) + 2), note)

    if "costs" not in store.tuned():
        costs = measure_costs(model, progress=step(0, "measuring costs"), settings=job.charged)
        store.remember("costs", costs.to_json())
    known = store.tuned()
    due = {name for name in names if name in TUNED and name not in known}
    if due - {*FOREIGN}:
        exits = {layer for policy in policies.values() for layer in policy.layers} - {model.layer_count}
        layers = {*real_layers(model.layer_count), *exits}
        texts = sweep_texts(model, prompts, None, settings, layers, step(1, "sweeping the training prompts"))
        training = Training(prompts, texts, Costs.from_json(known["costs"]), settings)
    methods = []
    for number, name in enumerate(names, 2):
        if name in due:
            note = step(number, f"tuning {name}")
            if name in theirs:
                store.remember(name, theirs[name].tune(prompts, note))
            else:
                rule = partial(rule_of, model, name, policies=policies)
                store.remember(name, tune(model, _space(model, name, texts, policies), rule, training, note))
        parameters = store.parameters(name)
        if name in theirs:
            methods.append(theirs[name].method(name, **parameters))
        else:
            methods.append(rule_method(model, rule_of(model, name, parameters, policies), settings, name))
    progress(1.0, "")
    return methods


def _foreign(model: Model, path: str, job: Job, training: list[list[int]]) -> dict[str, Library | LlamaCpp]:
    """The job's other decoders, by the names of their methods."""
    theirs: dict[str, Library | LlamaCpp] = {}
    if mine := {LIBRARY, EARLY_EXIT} & {*job.rows}:
        theirs |= dict.fromkeys(mine, Library(model, path, job.settings))
    for kind in KINDS:
        if mine := {f"llama-cpp-{kind}", f"llama-cpp-{kind}-ngram"} & {*job.rows}:
            longest = max(len(ids) for ids in (*training, *(ids for _, _, ids in tokenised(model, job.prompts))))
            theirs |= dict.fromkeys(mine, LlamaCpp(model, path, kind, job.settings, longest))
    return theirs


def rule_of(model: Model, name: str, parameters: dict[str, Any], policies: Mapping[str, Policy]) -> ExitRule:
    """The exit rule of a method of ours, with these parameters."""
    if name == BASELINE:
        return Autoregressive()
    if name in FAMILIES:
        return make_rule(name, parameters)
    policy = policies[POLICY_OF.get(name, name)]
    if name in ABLATIONS:
        return (FixedExit if name.endswith("exit") else FixedLength)(policy, **parameters)
    return policy_rule(model, policy, name)


def _space(model: Model, name: str, texts: Texts, policies: Mapping[str, Policy]) -> list[Parameters]:
    """The parameters to choose from."""
    if name in FAMILIES:
        return BASELINES[name].space(texts, model.layer_count)
    policy = policies[POLICY_OF[name]]
    if name.endswith("exit"):
        return [{"exit_layer": layer} for layer in policy.layers if layer < model.layer_count]
    return [{"draft_length": length} for length in range(1, policy.max_drafts + 1)]
