"""A dataset as learning sees it: read once, then viewed as many ways as there are variants."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.learn.config import LearnConfig
from lede.learn.errors import LearnError
from lede.learn.offpolicy import complete
from lede.learn.rate import Static, best_static, static_rules
from lede.learn.rewards import rewarded
from lede.learn.split import held_out, split
from lede.learn.views import walks, with_bypass, with_candidates, with_features
from lede.replay.errors import DatasetError
from lede.replay.reader import Columns, Dataset
from lede.simulate import batched as exact
from lede.simulate.costs import Costs, dataset_costs
from lede.simulate.relive import explored, texts_at
from lede.simulate.texts import Texts


@dataclass(frozen=True)
class Data:
    """What one variant learns from and is judged by.

    train, chains: training rows and complete held-out chains of the horizon learned on, all features. rounds: complete
    held-out rounds. costs, static: None if the dataset has no costs; static is the best fixed rule of the training
    episodes, held_static what it does on the held-out ones.
    texts, training: sweeps of the held-out and of the training episodes, where all were swept: policies are then scored
    exactly, and not estimated from the log. layers: L, of the model. bypass: whether L is the last candidate.
    """

    train: Columns
    chains: Columns
    rounds: Columns
    costs: Costs | None
    static: Static | None
    held_static: Static | None
    texts: Texts | None
    training: Texts | None
    layers: int
    bypass: bool

    @property
    def candidates(self) -> tuple[int, ...]:
        """Candidate layers of the policy, ascending; the last is L with a bypass."""
        return (*self.train.layers, self.layers) if self.bypass else self.train.layers

    def priced(self, columns: Columns, config: LearnConfig, rate: float | None) -> Columns:
        """With the configured reward (the time reward at this rate) and features."""
        return with_features(rewarded(columns, config.reward, self.layers, self.costs, rate), config.features)


class Source:
    """A dataset on disk, whose files are read once however many views of it are asked for."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        try:
            self.costs: Costs | None = dataset_costs(dataset)[0]
            self.no_costs: DatasetError | None = None
        except DatasetError as error:
            self.costs, self.no_costs = None, error
        self._rounds = lru_cache(1)(lambda: dataset.columns(horizon="round", features="extended"))
        self._candidates = lru_cache(2)(self._of_candidates)
        self._view = lru_cache(2)(self._of_view)

    def view(self, config: LearnConfig) -> Data:
        """The data of one variant.

        Raises DatasetError if the time reward is asked for and there are no costs, LearnError if the dataset lacks what
        the configuration names.
        """
        if self.no_costs is not None and (config.reward == "time" or config.algorithm == "fitted"):
            raise self.no_costs
        layers = config.candidates or self.dataset.layers
        return self._view(layers, config.bypass, config.horizon, config.validation)

    def _of_view(self, layers: tuple[int, ...], bypass: bool, horizon: str, validation: float) -> Data:
        model = self.dataset.model_layers
        if bypass and layers[-1] >= model:
            raise LearnError(f"layer {layers[-1]} is the full model; a bypass needs a candidate before it")
        train, held, training, texts = self._candidates(layers, validation)
        static, held_static = self._best_static(train, held, training, texts)
        if bypass:
            train, held = with_bypass(train, model, both=True), with_bypass(held, model, both=False)
        rounds = complete(held)
        return Data(
            train=train if horizon == "round" else walks(train),
            chains=rounds if horizon == "round" else complete(walks(held)),
            rounds=rounds,
            costs=self.costs,
            static=static,
            held_static=held_static,
            texts=texts,
            training=training,
            layers=model,
            bypass=bypass,
        )

    def _of_candidates(
        self, layers: tuple[int, ...], validation: float
    ) -> tuple[Columns, Columns, Texts | None, Texts | None]:
        """Training and held-out rounds, and their sweeps."""
        logged = self._rounds()
        episodes = np.unique(logged.episodes)
        held = held_out(episodes, validation)
        swept = [texts_at(self.dataset, part, layers) for part in (episodes[~held], episodes[held])]
        if set(layers) <= set(self.dataset.layers):
            rounds = with_candidates(logged, layers)
        else:
            rounds = _relived(episodes, held, swept, self.dataset)
        train, held_rounds = split(rounds, validation)
        return train, held_rounds, swept[0], swept[1]

    def _best_static(
        self, train: Columns, held: Columns, training: Texts | None, texts: Texts | None
    ) -> tuple[Static | None, Static | None]:
        """The best fixed rule of the training episodes, and the same rule on the held-out ones."""
        if self.costs is None:
            return None, None
        if training is not None and texts is not None:
            best = exact.best_static(training, self.costs)
            return best, exact.static(texts, self.costs, best.layer, best.drafts)
        best = best_static(train, self.costs)
        same = [
            rule for rule in static_rules(held, self.costs) if (rule.layer, rule.drafts) == (best.layer, best.drafts)
        ]
        return best, same[0] if same else None


def _relived(
    episodes: NDArray[np.int64], held: NDArray[np.bool_], swept: list[Any], dataset: Dataset
) -> Columns:  # fmt: skip
    """Decisions drawn anew from the sweeps, for candidates that were not walked when the dataset was collected."""
    if any(part is None for part in swept):
        raise LearnError(
            f"{dataset.path} was logged without layer 0 and not every episode was swept: choose among its candidates, "
            f"{', '.join(map(str, dataset.layers))}, or collect with 0 among --candidates"
        )
    parts = [explored(texts, episodes[side]) for texts, side in zip(swept, (~held, held), strict=True)]
    return _joined(*parts)


def _joined(first: Columns, second: Columns) -> Columns:
    """Two sets of chains as one."""

    names = ("observations", "actions", "rewards", "terminals", "truncated", "propensities", "episodes")
    arrays: dict[str, Any] = {name: np.concatenate([getattr(first, name), getattr(second, name)]) for name in names}
    return replace(
        first,
        **arrays,
        chain_starts=np.concatenate([first.chain_starts, second.chain_starts[1:] + first.chain_starts[-1]]),
        raw={name: np.concatenate([values, second.raw[name]]) for name, values in first.raw.items()},
    )
