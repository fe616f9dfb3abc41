"""A dataset as learning sees it: read once, then viewed as many ways as there are variants."""

from dataclasses import dataclass, replace
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from lede.learn.config import FEATURES, LearnConfig
from lede.learn.errors import LearnError
from lede.learn.importance import best_static as best_logged_static
from lede.learn.network import Weights
from lede.learn.rewards import rewarded
from lede.learn.score import Score, exact_score, logged_score, ratio
from lede.learn.views import complete, take, walks, with_bypass, with_candidates, with_features
from lede.replay.errors import DatasetError
from lede.replay.reader import Columns, Dataset
from lede.replay.split import Split, episode_splits
from lede.serve.policy import Policy
from lede.simulate.batched import Engine, Prices, prices_of
from lede.simulate.costs import Costs, dataset_costs
from lede.simulate.oracle import Static, best_static, static_milliseconds
from lede.simulate.texts import Texts, read_texts


@dataclass(frozen=True)
class Snapshot:
    """What a learner has come to. update: of `total`. loss: mean since the last one, NaN where there is none.

    rate: the one to beat by now, tokens per millisecond; None where the reward has none.
    """

    update: int
    total: int
    loss: float
    policy: Policy
    rate: float | None


@dataclass(frozen=True)
class Log:
    """Logged decisions of one side of the split, all features: chains of the horizon learned on, and whole rounds."""

    chains: Columns
    rounds: Columns


class Source:
    """A dataset on disk, whose files are read once however many views of it are asked for."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.splits = dataset, episode_splits(dataset)
        here = [int((self.splits.split == side).sum()) for side in ("train", "validation", "test")]
        if not all(here[:2]):
            raise LearnError(
                f"{dataset.path} has {here[0]} episodes to train on, {here[1]} to validate on, {here[2]} to test on; "
                "learning needs some of the first two: collect more (lede collect --episodes)"
            )
        self.costs: Costs | None = None
        self.costs_from = ""
        try:
            self.costs, self.costs_from = dataset_costs(dataset)
        except DatasetError as error:
            self.no_costs = error
        self.texts = lru_cache(8)(self._texts)
        self.log = lru_cache(4)(self._log)

    @cached_property
    def columns(self) -> Columns:
        """All logged rounds, with `extended` features."""
        return self.dataset.columns(horizon="round", features="extended")

    def groups(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The group of each of these episodes."""
        return self.splits.group[np.searchsorted(self.splits.numbers, numbers)]

    def _texts(self, layers: tuple[int, ...], side: Split) -> Texts:
        return read_texts(self.dataset, self.splits.numbers[self.splits.split == side], layers)

    def _log(self, layers: tuple[int, ...], bypass: bool, horizon: str, side: Split) -> Log:
        here = self.splits.numbers[self.splits.split == side]
        chains = self.columns.episodes[self.columns.chain_starts[:-1]]
        rounds = with_candidates(take(self.columns, np.isin(chains, here)), layers)
        if bypass:
            rounds = with_bypass(rounds, self.dataset.model_layers)
        return Log(walks(rounds) if horizon == "walk" else rounds, rounds)

    def view(self, config: LearnConfig) -> "Data":
        """The data of one variant. Raises LearnError or DatasetError if the dataset lacks what it names."""
        if self.costs is None and (config.reward == "time" or config.algorithm == "fitted"):
            raise self.no_costs
        layers = config.candidates or tuple(layer for layer in self.dataset.layers if layer or config.layer0)
        model = self.dataset.model_layers
        if not layers or (config.bypass and layers[-1] >= model):
            raise LearnError(
                f"candidates {list(layers)} leave nothing to choose: "
                f"name layers before {model}, the full model, with --candidates"
            )
        fits = config.from_sweeps_only or (len(self.dataset.swept()) > 0 and config.fits_sweeps)
        source = config.source or ("sweeps" if fits else "log")
        if source == "sweeps" and not all(len(self.texts(layers, side).lengths) for side in ("train", "validation")):
            if config.from_sweeps_only or not {*layers} <= {*self.dataset.layers}:
                raise LearnError(
                    f"{self.dataset.path} has no swept episodes on both sides of the split, which this needs: "
                    "collect greedily, without --no-sweep"
                )
            source = "log"
        return Data(self, replace(config, source=source), layers)


class Data:
    """What one variant learns from and is judged by.

    config: with its `source` settled. layers: candidates of the texts; the policy's, `candidates`, end with L where
    there is a bypass. features: names of the policy's inputs. limit: drafts per round. static: the best fixed rule of
    the training texts, None without costs.
    """

    def __init__(self, source: Source, config: LearnConfig, layers: tuple[int, ...]) -> None:
        self.source, self.config, self.layers = source, config, layers
        self.costs, self.model_layers = source.costs, source.dataset.model_layers
        self.candidates = (*layers, self.model_layers) if config.bypass else layers
        names = FEATURES[config.features]
        indicators = () if config.features == "paper" else tuple(f"layer={layer}" for layer in self.candidates)
        self.features = (*names, *indicators)
        self.limit = config.max_drafts
        if config.source == "log":
            self.limit = max(2, min(self.limit, int(source.columns.raw["draft_index"].max(initial=0))))
        self.prices: Prices | None = None
        self.static: Static | None = None
        if self.costs is not None:
            self.prices = prices_of(self.costs, self.features, layers)
            texts = self.texts("train")
            self.static = (
                best_static(texts, self.costs)
                if len(texts.lengths)
                else best_logged_static(self.log("train").rounds, self.costs)
            )

    def policy(self, weights: Weights, mean: NDArray[np.float32], scale: NDArray[np.float32]) -> Policy:
        """The network as the artefact that is served."""
        return Policy(self.features, self.candidates, weights, mean, scale, {"max_drafts": self.limit})

    @property
    def rows(self) -> int:
        """Training decisions of a log, or tokens of swept training texts."""
        log = self.config.source == "log"
        return len(self.log("train").chains.actions) if log else int(self.texts("train").lengths.sum())

    def texts(self, side: Split) -> Texts:
        return self.source.texts(self.layers, side)

    def log(self, side: Split) -> Log:
        return self.source.log(self.layers, self.config.bypass, self.config.horizon, side)

    def engine(self, side: Split) -> Engine:
        """Of one side's texts, for a dataset with costs."""
        assert self.costs is not None
        return Engine(self.texts(side), self.costs, self.features, bypass=self.config.bypass, max_drafts=self.limit)

    def exact(self, side: Split) -> bool:
        """Whether policies can be played on this side's texts, and need not be estimated from the log."""
        return self.costs is not None and len(self.texts(side).lengths) > 0

    def rewarded(self, columns: Columns, rate: float | None) -> Columns:
        """With the configured reward (the time reward at this rate) and the policy's features."""
        priced = rewarded(columns, self.config.reward, self.model_layers, self.costs, self.prices, rate)
        return with_features(priced, self.features)

    def score(self, policy: Policy, side: Split, rate: float | None) -> Score:
        """How a policy does on one side: exactly, or estimated from the log."""
        if self.exact(side):
            rollout = self.engine(side).play(policy.exits)
            return exact_score(rollout, self.groups(side), self.config.reward, rate or 0.0)
        log = self.log(side)
        chains = self.rewarded(complete(log.chains), rate)
        rounds = chains if log.rounds is log.chains else with_features(complete(log.rounds), self.features)
        exits = policy.exits(chains.observations)
        round_exits = exits if rounds is chains else policy.exits(rounds.observations)
        return logged_score(chains, rounds, exits, round_exits, self.config.gamma, self.prices)

    def static_score(self, side: Split) -> tuple[float, float] | None:
        """The rate of `static` on one side's texts, and its standard error; None where it is not known."""
        if self.static is None or not self.exact(side):
            return None
        return ratio(self.texts(side).lengths.astype(float), self.static_milliseconds(side), self.groups(side))

    def static_milliseconds(self, side: Split) -> NDArray[np.float64]:
        """Milliseconds (N,) of `static` on each of one side's texts."""
        assert self.static is not None and self.costs is not None
        return static_milliseconds(self.texts(side), self.costs, self.static.layer)[:, self.static.drafts]

    def groups(self, side: Split) -> NDArray[np.int64]:
        return self.source.groups(self.texts(side).numbers)


def scaling(observations: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and scale (F,) of rows (N, F): the standard deviation, or 1 where a feature does not vary.

    Features that are 0 or 1 throughout stay as they are: scaled, a rare layer's indicator would dwarf all others.
    """
    mean = observations.mean(axis=0, dtype=np.float64)
    scale = observations.std(axis=0, dtype=np.float64)
    as_is = (scale < 1e-6) | np.isin(observations, (0.0, 1.0)).all(axis=0)
    return np.where(as_is, 0, mean).astype(np.float32), np.where(as_is, 1, scale).astype(np.float32)
