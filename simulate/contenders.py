"""Who is evaluated offline: policies, their ablations, and the rivals, tuned by replay on the training episodes."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace

from lede.bench.errors import BenchError
from lede.bench.tune import Budget, drawn, predicted_rate
from lede.decode.rules import QPolicy
from lede.replay.errors import DatasetError
from lede.replay.reader import Dataset
from lede.replay.split import episode_splits
from lede.serve.policy import Policy, check_fits
from lede.simulate.costs import Costs
from lede.simulate.evaluate import Rival
from lede.simulate.families import FAMILIES, make_rule
from lede.simulate.texts import Texts, read_texts

TUNING = 40  # training texts that the rivals are tuned on: more change little, and each configuration reads them all


def held_out_texts(dataset: Dataset) -> tuple[Texts, Texts]:
    """Sweeps of the test episodes, and of those that `lede learn` trains on.

    Raises DatasetError for a dataset that was collected without sweeps.
    """
    splits = episode_splits(dataset)
    layers = tuple(sorted({0, *dataset.layers}))  # lookups are compared with, also where none was collected
    texts, training = (read_texts(dataset, splits.numbers[splits.split == side], layers) for side in ("test", "train"))
    if not len(texts.lengths) or not len(training.lengths):
        raise DatasetError(
            f"{dataset.path} has no swept episodes on one side of the split, which exact replay needs: "
            "collect greedily and without --no-sweep"
        )
    return texts, training


def contenders(
    dataset: Dataset,
    policies: Mapping[str, Policy],
    training: Texts | None,
    costs: Costs,
    progress: Callable[[float, str], None] = lambda share, what: None,
) -> list[Rival]:
    """The policies by name; before them, with `training` texts, each family's best of the usual budget there.

    Raises PolicyError for a policy of another model, BenchError for one with layers that were not swept.
    """
    for name, policy in policies.items():
        check_fits(policy, dataset.header["model"])
        if unknown := sorted({*policy.layers} - {0, *dataset.layers, dataset.model_layers}):
            raise BenchError(
                f"the policy {name} exits at {_listed(unknown)}, but {dataset.path} was swept at "
                f"{_listed(dataset.layers)} only: evaluate it on the dataset that it was learned from"
            )
    out = []
    for number, family in enumerate(FAMILIES if training is not None else ()):
        assert training is not None
        progress(number / len(FAMILIES), f"tuning {family}")
        out.append(tuned_by_replay(family, first(training, TUNING), costs))
    return out + [Rival(name, QPolicy(policy, name)) for name, policy in policies.items()]


def _listed(layers: Sequence[int]) -> str:
    return f"layer{'s' if len(layers) != 1 else ''} {', '.join(map(str, layers))}"


def tuned_by_replay(family: str, training: Texts, costs: Costs) -> Rival:
    """The configuration with the highest predicted rate; the swept layers are the choice that there is."""
    budget = Budget()
    space = drawn(FAMILIES[family].space(training, costs.layers), budget.configurations, budget.seed)
    best = max(space, key=lambda parameters: predicted_rate(make_rule(family, parameters), training, costs))
    return Rival(family, make_rule(family, best), best)


def first(texts: Texts, count: int) -> Texts:
    """The first `count` texts."""
    names = [field.name for field in fields(texts) if field.name not in ("layers", "copies", "stops")]
    return replace(texts, copies=texts.copies.first(count), **{name: getattr(texts, name)[:count] for name in names})
