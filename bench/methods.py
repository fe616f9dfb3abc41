"""Methods ready to be measured: their parameters are set on training prompts, and remembered as they are found."""

from collections.abc import Callable, Sequence
from pathlib import Path

from bench.library import Library
from bench.measure import Method, rule_method
from bench.names import BASELINE, EARLY_EXIT, LIBRARY
from bench.store import Store
from collect.costs import measure as measure_costs
from decode.model import Model
from decode.rules import Autoregressive
from decode.sampling import Settings
from serve.generate import policy_rule

Progress = Callable[[float, str], None]


def prepare(
    model: Model,
    path: str,
    names: Sequence[str],
    training: Sequence[list[int]],
    settings: Settings,
    policies: dict[str, Path],
    store: Store,
    progress: Progress,
) -> list[Method]:
    """The named methods, each tuned on `training` (token ids) where the store does not know its parameters yet.

    `policies`: the folders of `lede` and `lede-paper`. Raises PolicyError for a policy of another model.
    """
    rules = {name: policy_rule(model, folder, name) for name, folder in policies.items()}
    known = store.tuned()
    if "costs" not in known:
        progress(0.0, "measuring costs")
        store.remember("costs", measure_costs(model).to_json())
    library = Library(model, path, settings) if {LIBRARY, EARLY_EXIT} & set(names) else None
    out = []
    for number, name in enumerate(names):

        def report(done: int, total: int, number: int = number, name: str = name) -> None:
            progress((number + done / max(total, 1)) / len(names), f"tuning {name}")

        if name == LIBRARY:
            assert library is not None
            out.append(library.method(name))
        elif name == EARLY_EXIT:
            assert library is not None
            if name not in known:
                store.remember(name, library.tune(training, report))
            out.append(library.method(name, **store.tuned()[name]["parameters"]))
        elif name == BASELINE:
            out.append(rule_method(model, Autoregressive(), settings))
        elif name in rules:
            out.append(rule_method(model, rules[name], settings, name))
    return out
