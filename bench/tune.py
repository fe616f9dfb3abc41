"""Setting a method's parameters on training prompts, every method with the same budget.

The training prompts are decoded and swept once. Of each search space so many configurations are scored by exact replay
of the sweeps, a third drawn evenly, the others near the best, and the best are timed for real, in turns; the fastest is
kept. A space with fewer configurations is tried whole. Nothing here ever sees the prompts that are measured on.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lede.bench.measure import measure, prompt_seed, rule_method, speed
from lede.collect.sweep import sweep
from lede.decode.generate import generate
from lede.decode.model import Model
from lede.decode.rules import ExitRule
from lede.decode.sampling import Settings
from lede.simulate.baselines import CONFIGURATIONS, Parameters, predicted_rate, searched
from lede.simulate.costs import Costs
from lede.simulate.texts import Texts, texts_of

FINALISTS = 5  # of CONFIGURATIONS scored by replay, the best so many are timed

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Training:
    """What methods are tuned on: prompts (token ids), the sweeps of their texts, and what operations cost."""

    prompts: Sequence[list[int]]
    texts: Texts
    costs: Costs
    settings: Settings


def sweep_texts(
    model: Model,
    prompts: Sequence[list[int]],
    outputs: Iterable[tuple[int, ...]] | None,
    settings: Settings,
    layers: Collection[int],
    progress: Progress = lambda done, total: None,
) -> Texts:
    """Sweep the prompts' texts at layer 0 and these.

    outputs: the texts, written with `settings` and each prompt's seed (`prompt_seed`); None: they are written first.
    """
    own = [replace(settings, seed=prompt_seed(settings.seed, ids)) for ids in prompts]
    if outputs is None:
        outputs = (generate(model, ids, None, its).token_ids for ids, its in zip(prompts, own, strict=True))
    wanted, sweeps = tuple(sorted({0, *layers})), []
    for number, (ids, output, its) in enumerate(zip(prompts, outputs, own, strict=True)):
        sweeps.append(sweep(model, wanted, number, tuple(ids), output, its))
        progress(number + 1, len(prompts))
    limits = [min(settings.max_new_tokens, model.context - len(ids)) for ids in prompts]
    seeds = [its.seed or 0 for its in own]
    return texts_of(sweeps, prompts, wanted, limits, settings.stops(model), seeds)


def tune(
    model: Model,
    space: Sequence[Parameters],
    make: Callable[[Parameters], ExitRule],
    training: Training,
    progress: Progress = lambda done, total: None,
) -> dict[str, Any]:
    """The fastest configuration of a search space, and what was tried, ready for JSON.

    Of it and of each finalist: its parameters, and tokens per second on the training prompts, reading them included, as
    predicted by replay and as measured.
    """
    budget = min(CONFIGURATIONS, len(space))
    total = budget + min(FINALISTS, budget) * len(training.prompts)
    scored: list[dict[str, Any]] = []

    def replayed(parameters: Parameters) -> float:
        return predicted_rate(make(parameters), training.texts, training.costs)

    for parameters, rate in searched(space, replayed, budget):
        scored.append({"parameters": parameters, "predicted": rate})
        progress(len(scored), total)
    best = sorted(scored, key=lambda one: one["predicted"], reverse=True)[:FINALISTS]
    methods = [rule_method(model, make(one["parameters"]), training.settings, str(i)) for i, one in enumerate(best)]
    samples = []
    prompts = [(str(n), "training", ids) for n, ids in enumerate(training.prompts)]
    for sample in measure(model, methods, prompts, training.settings.seed):
        samples.append(sample)
        progress(budget + len(samples), total)
    finalists = [one | {"measured": speed([s for s in samples if s.method == str(i)])} for i, one in enumerate(best)]
    return max(finalists, key=lambda one: one["measured"]) | {"scored": budget, "finalists": finalists}
