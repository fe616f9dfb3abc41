"""A dataset as learning sees it."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lede.learn.config import Features, LearnConfig
from lede.learn.errors import LearnError
from lede.learn.network import Weights
from lede.learn.rewards import rewarded
from lede.learn.score import Score, exact_score, logged_score, ratio
from lede.policy import Policy
from lede.replay.columns import Columns, complete, take, walks, with_candidates, with_features
from lede.replay.errors import DatasetError
from lede.replay.reader import Dataset
from lede.replay.schema import EXTENDED, FREE, OF_SAMPLED, PAPER_STATE
from lede.replay.split import Split, episode_splits
from lede.simulate.batched import Engine, Prices, prices_of
from lede.simulate.costs import Costs, dataset_costs
from lede.simulate.oracle import Static, best_static, static_milliseconds, worthwhile
from lede.simulate.texts import Texts, read_texts

#: Bytes that learning takes per decision of a log, and per row of sweeps (measured: tests/replay/big.py).
LOG_BYTES, SWEEP_BYTES = 750, 200
FEATURES: Mapping[Features, tuple[str, ...]] = {"paper": PAPER_STATE, "free": FREE, "extended": EXTENDED}


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


class Data:
    """What a training learns from and is judged by.

    config: with its `source` settled. layers: candidates of the texts; the policy's, `candidates`, end with L where
    there is a bypass. left_out: layers at which no fixed draft length beats drafting nothing. features: names of the
    policy's inputs. heat: see `temperatures`. limit: drafts per round. costs, prices: None where the dataset has no
    costs. static: the best fixed rule of the training texts, None where none were swept or priced. windows: parts of
    the dataset that are learned from one after the other, one where no limit of memory wants more; validation and test
    are of the first alone.

    Raises LearnError or DatasetError if the dataset lacks what the configuration needs.
    """

    def __init__(self, dataset: Dataset, config: LearnConfig) -> None:
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
        except DatasetError:
            if config.reward == "time":
                raise
        model = self.model_layers = dataset.model_layers
        self.layers = config.candidates or tuple(layer for layer in dataset.layers if layer or config.layer0)
        if not self.layers or (config.bypass and self.layers[-1] >= model):
            raise LearnError(
                f"candidates {list(self.layers)} leave nothing to choose: "
                f"name layers before {model}, the full model, with --candidates"
            )
        self._held: dict[tuple[str, Split], Any] = {}
        self.windows, self._window = [dataset], 0
        if config.memory is not None:
            self.windows = windows_within(dataset, config.memory)
        source = config.source or ("sweeps" if config.fits_sweeps else "log")
        if source == "sweeps" and not all(len(self.texts(side).lengths) for side in ("train", "validation")):
            if config.from_sweeps_only:
                raise LearnError(
                    f"{dataset.path} has no swept episodes on both sides of the split, which this needs: "
                    "collect without --no-sweep"
                )
            source = "log"
        bypass = source == "sweeps" if config.bypass is None else config.bypass
        self.left_out: tuple[int, ...] = ()
        if bypass and self.costs is not None and not config.candidates and config.reward == "time":
            paying = worthwhile(self.texts("train"), self.costs) or self.layers[:1]
            self.left_out = tuple(layer for layer in self.layers if layer not in paying)
            self.layers = paying
            self._held.clear()
        self.config, self.limit = replace(config, source=source, bypass=bypass), config.max_drafts
        if source == "log":
            self.limit = max(2, min(self.limit, int(self._columns(self.windows[0]).raw["draft_index"].max(initial=0))))
        self.candidates = (*self.layers, model) if bypass else self.layers
        indicators = () if config.features == "paper" else tuple(f"layer={layer}" for layer in self.candidates)
        self.heat = self.temperatures()
        # what is the same in all that it learns from it would not learn to read, and elsewhere it is not
        same = OF_SAMPLED if not self.heat["sampled"] else ("temperature",) * (self.heat["min"] == self.heat["max"])
        self.features = (*(name for name in FEATURES[config.features] if name not in same), *indicators)
        self.prices: Prices | None = None
        self.static: Static | None = None
        if self.costs is not None:
            self.prices = prices_of(self.costs, self.features, self.layers)
            if self.exact("train"):
                self.static = best_static(self.texts("train"), self.costs)

    def texts(self, side: Split) -> Texts:
        """The swept texts of one side."""
        texts: Texts = self._hold("texts", side, lambda part: read_texts(part, self._numbers(side), self.layers))
        return texts

    def rounds(self, side: Split) -> Columns:
        """The logged rounds of one side, all features, as a walk over the candidates has them."""

        def read(part: Dataset) -> Columns:
            columns = self._columns(part)
            chains = columns.episodes[columns.chain_starts[:-1]]
            return with_candidates(take(columns, np.isin(chains, self._numbers(side))), self.layers)

        rounds: Columns = self._hold("rounds", side, read)
        return rounds

    def advance(self) -> bool:
        """Go on to the next part of the dataset, of which training is then; false where there is only one."""
        self._window = (self._window + 1) % len(self.windows)
        for what in ("texts", "rounds") if len(self.windows) > 1 else ():
            self._held.pop((what, "train"), None)
        return len(self.windows) > 1

    def _numbers(self, side: Split) -> NDArray[np.int64]:
        return self.splits.numbers[self.splits.split == side]

    def _columns(self, part: Dataset) -> Columns:
        """All logged rounds of a part, with `extended` features; held where there is only one."""
        if len(self.windows) > 1:
            return part.columns("round", "extended")
        columns: Columns = self._hold("columns", "train", lambda part: part.columns("round", "extended"))
        return columns

    def _hold(self, what: str, side: Split, read: Callable[[Dataset], Any]) -> Any:
        """What was read of a side of the part that it is from, read now where it was not."""
        if (what, side) not in self._held:
            self._held[what, side] = read(self.windows[self._window if side == "train" else 0])
        return self._held[what, side]

    def chains(self, side: Split) -> Columns:
        """Logged decisions of one side, all features: chains of the horizon learned on."""
        return walks(self.rounds(side)) if self.config.horizon == "walk" else self.rounds(side)

    def policy(self, weights: Weights, mean: NDArray[np.float32], scale: NDArray[np.float32]) -> Policy:
        """The network as the artefact that is served."""
        return Policy(self.features, self.candidates, weights, mean, scale, {"max_drafts": self.limit})

    @property
    def rows(self) -> int:
        """Training decisions of a log, or tokens of swept training texts; with several parts, about."""
        log = self.config.source == "log"
        return len(self.windows) * (
            len(self.chains("train").actions) if log else int(self.texts("train").lengths.sum())
        )

    def engine(self, side: Split) -> Engine:
        """Of one side's texts, for a dataset with costs."""
        assert self.costs is not None
        return Engine(
            self.texts(side), self.costs, self.features, bypass=bool(self.config.bypass), max_drafts=self.limit
        )

    def exact(self, side: Split) -> bool:
        """Whether policies can be played on this side's texts, and need not be estimated from the log."""
        return self.costs is not None and len(self.texts(side).lengths) > 0

    def temperatures(self) -> dict[str, float]:
        """Of the episodes learned from: the lowest and the highest (0: greedy), and the share that was sampled."""
        rows, numbers = self.dataset.read("episodes", ["temperature"])
        here = np.isin(numbers, self._numbers("train"))
        if self.config.source == "sweeps":
            here &= np.isin(numbers, self.dataset.swept())
        heat = rows["temperature"].to_numpy()[here]
        return {"min": float(heat.min()), "max": float(heat.max()), "sampled": float((heat > 0).mean())}

    def rewarded(self, columns: Columns, rate: float | None) -> Columns:
        """With the configured reward (the time reward at this rate) and the policy's features."""
        priced = rewarded(columns, self.config.reward, self.model_layers, self.costs, self.prices, rate)
        return with_features(priced, self.features)

    def score(self, policy: Policy, side: Split, rate: float | None) -> Score:
        """How a policy does on one side: exactly, or estimated from the log."""
        if self.exact(side):
            rollout = self.engine(side).play(policy.exits)
            return exact_score(rollout, self.groups(side), self.config.reward, rate or 0.0)
        chains = self.rewarded(complete(self.chains(side)), rate)
        rounds = with_features(complete(self.rounds(side)), self.features)
        exits, round_exits = (policy.exits(columns.observations) for columns in (chains, rounds))
        return logged_score(chains, rounds, exits, round_exits, self.config.gamma, self.prices)

    def static_score(self, side: Split) -> tuple[float, float] | None:
        """The rate of `static` on one side's texts, and its standard error; None where it is not known."""
        if self.static is None or not self.exact(side):
            return None
        assert self.costs is not None
        texts = self.texts(side)
        spent = static_milliseconds(texts, self.costs, self.static.layer)[:, self.static.drafts]
        return ratio(texts.lengths.astype(float), spent, self.groups(side))

    def groups(self, side: Split) -> NDArray[np.int64]:
        """The group of each of one side's texts."""
        return self.splits.group[np.searchsorted(self.splits.numbers, self.texts(side).numbers)]


def windows_within(dataset: Dataset, memory: int) -> list[Dataset]:
    """The parts of a dataset each of which can be learned from in so many bytes, the process as it is now included.

    Raises LearnError if they cannot be that small.
    """
    decisions = max(dataset.rows("transitions"), 1)
    per_decision = LOG_BYTES + SWEEP_BYTES * dataset.rows("sweeps") / decisions
    free = memory - process_bytes()
    windows = dataset.windows(int(free / per_decision))
    largest = max(part.rows("transitions") for part in windows)
    if largest * per_decision > free * 1.25:
        wanted = (process_bytes() + largest * per_decision) / 1e9
        raise LearnError(f"the smallest part of {dataset.path} needs --memory {wanted:.1f}GB: give it, or leave it out")
    return windows


def process_bytes() -> int:
    """The most memory that this process has had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def scaling(observations: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and scale (F,) of rows (N, F): the standard deviation, or 1 where a feature does not vary.

    Features that are 0 or 1 throughout stay as they are: scaled, a rare layer's indicator would dwarf all others.
    """
    mean = observations.mean(axis=0, dtype=np.float64)
    scale = observations.std(axis=0, dtype=np.float64)
    as_is = (scale < 1e-6) | np.isin(observations, (0.0, 1.0)).all(axis=0)
    return np.where(as_is, 0, mean).astype(np.float32), np.where(as_is, 1, scale).astype(np.float32)
