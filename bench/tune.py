"""Setting a method's parameters on training prompts, every family of rules with the same budget.

The training prompts are decoded and swept once, for all families. Each family may have so many configurations scored
by exact replay of those sweeps (`simulate.scalar`), drawn evenly and by a seed from its space (`simulate.baselines`),
and so many of the best timed for real, in turns; the fastest is kept. A space with fewer configurations is tried whole,
and the rest of its budget is not used. Nothing here ever sees the prompts that are measured on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from lede.bench.measure import Sample, measure, rule_method
from lede.collect.sweep import sweep
from lede.decode.generate import generate
from lede.decode.model import Model
from lede.decode.rules import ExitRule
from lede.decode.sampling import Settings
from lede.simulate.baselines import CONFIGURATIONS, Parameters, drawn, predicted_rate, real_layers
from lede.simulate.costs import Costs
from lede.simulate.texts import Texts, texts_of

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Budget:
    """What every family may use: configurations scored by replay, and of those the best so many timed for real."""

    configurations: int = CONFIGURATIONS
    finalists: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Finalist:
    """A configuration that was timed; rates are tokens a second on the training prompts, reading them included."""

    parameters: Parameters
    predicted: float
    measured: float


@dataclass(frozen=True)
class Tuned:
    """The fastest configuration of a method, and what was tried for it; rates as in Finalist."""

    parameters: Parameters
    predicted: float
    measured: float
    scored: int  # configurations; fewer than the budget's where the space is smaller
    finalists: tuple[Finalist, ...]
    budget: Budget


def sweep_prompts(
    model: Model,
    prompts: Sequence[list[int]],
    settings: Settings,
    layers: Sequence[int] | None = None,
    progress: Progress = lambda done, total: None,
) -> Texts:
    """Write the training prompts' greedy texts and sweep them, at layer 0 and by default every layer of 1 … 3L/4."""
    wanted = real_layers(model.layer_count) if layers is None else layers
    greedy = replace(settings, temperature=0.0)
    outputs = (generate(model, ids, None, greedy).token_ids for ids in prompts)
    return sweep_texts(model, prompts, outputs, settings, wanted, progress)


def sweep_texts(
    model: Model,
    prompts: Sequence[list[int]],
    outputs: Iterable[tuple[int, ...]],
    settings: Settings,
    layers: Sequence[int],
    progress: Progress = lambda done, total: None,
) -> Texts:
    """Sweep greedy texts that are written, at layer 0 and these; `settings` are those that they were written with."""
    wanted, sweeps = tuple(sorted({0, *layers})), []
    for number, (ids, output) in enumerate(zip(prompts, outputs, strict=True)):
        sweeps.append(sweep(model, wanted, number, tuple(ids), output))
        progress(number + 1, len(prompts))
    limits = [min(settings.max_new_tokens, model.context - len(ids)) for ids in prompts]
    return texts_of(sweeps, prompts, wanted, limits, settings.stops(model))


def tune(
    model: Model,
    space: Sequence[Parameters],
    make: Callable[[Parameters], ExitRule],
    texts: Texts,
    costs: Costs,
    prompts: Sequence[list[int]],
    settings: Settings,
    budget: Budget | None = None,
    progress: Progress = lambda done, total: None,
) -> Tuned:
    """Score configurations of a search space by replay of `texts`, the sweeps of `prompts`; time the best of them."""
    budget = budget or Budget()
    chosen = drawn(space, budget.configurations, budget.seed)
    most = min(budget.finalists, len(chosen))
    total = len(chosen) + most * len(prompts)
    predicted = []
    for number, parameters in enumerate(chosen):
        predicted.append(predicted_rate(make(parameters), texts, costs))
        progress(number + 1, total)
    order = sorted(range(len(chosen)), key=predicted.__getitem__, reverse=True)[:most]
    samples = []
    methods = [rule_method(model, make(chosen[i]), settings, str(i)) for i in order]
    for sample in measure(model, methods, [(str(n), "training", ids) for n, ids in enumerate(prompts)]):
        samples.append(sample)
        progress(len(chosen) + len(samples), total)
    finalists = tuple(Finalist(chosen[i], predicted[i], measured_rate(samples, str(i))) for i in order)
    best = max(finalists, key=lambda one: one.measured)
    return Tuned(best.parameters, best.predicted, best.measured, len(chosen), finalists, budget)


def measured_rate(samples: Sequence[Sample], method: str) -> float:
    """Tokens a second of one method's samples."""
    own = [sample for sample in samples if sample.method == method]
    return sum(len(sample.token_ids) for sample in own) / sum(sample.seconds for sample in own)
