"""Learn an exit policy from the files of a dataset alone; the model is never loaded.

    result = learn("data/llama2-7b", "policies/first")

The time reward needs the rate to beat, which is what the best policy achieves and so not known in advance. As in
Dinkelbach's method, training runs in rounds: the first is at the best static rule's rate, each later one at the best
rate the policies so far are estimated to achieve, never a lower one, and continues from the weights before.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch

from learn import exact
from learn.buffer import ColumnBuffer
from learn.config import LearnConfig
from learn.errors import LearnError
from learn.exact import simulate
from learn.history import Point, draw, write_csv
from learn.library import d3rlpy, quiet
from learn.network import FusedAdamFactory, NoisyBodyFactory, NoisyQFunctionFactory, mean_weights
from learn.offpolicy import Score, complete, score
from learn.rate import Static, best_static, tokens_and_time
from learn.split import scaling, split
from replay.costs import Costs
from replay.errors import DatasetError
from replay.reader import Columns, Dataset, open_dataset
from replay.texts import Texts, read_texts
from serve.policy import Policy

DIVERGED = 1e4

# (updates done, updates in total, mean loss, mean greedy value, validation reward)
Progress = Callable[[int, int, float, float, float], None]


@dataclass(frozen=True)
class LearnResult:
    """What a training run gave.

    policy: the kept network, saved in `folder` beside learning.csv and learning.png. score: its held-out score.
    update: after how many of `updates` it was kept. static, rate: the best static rule and the rate (tokens a
    millisecond) of the last training round; None without costs, and without the time reward.
    """

    policy: Policy
    folder: Path
    score: Score
    update: int
    updates: int
    static: Static | None
    rate: float | None
    history: tuple[Point, ...]
    exact: bool  # scored on sweeps, not estimated from the log

    def summary(self) -> dict[str, Any]:
        """What `policy.json` says of the training, and the folder; ready for JSON."""
        return {"folder": str(self.folder), **self.policy.info["training"]}


def learn(
    dataset_path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: LearnConfig | None = None,
    progress: Progress | None = None,
) -> LearnResult:
    """Train a policy on the dataset and write it to the folder `out`. The same files and seed give the same weights.

    Raises DatasetError if the dataset cannot be read, LearnError if it cannot be learned from or training diverges.
    """
    config = config or LearnConfig()
    dataset = open_dataset(dataset_path)
    data = _load(dataset, config)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)  # now, not after minutes of training, is when to hear that it cannot be
    with _reproducible(config.seed), quiet():
        trainer = _Trainer(data, config)
        trainer.run(progress or (lambda *_: None))
    best = trainer.best
    policy = replace(best.policy, info=_info(dataset, data, config, trainer))
    policy.save(folder)
    write_csv(folder / "learning.csv", trainer.history)
    draw(folder / "learning.png", trainer.history, best.update, data.static)
    return LearnResult(
        policy=policy,
        folder=folder,
        score=best.score,
        update=best.update,
        updates=trainer.done,
        static=data.static,
        rate=trainer.rate,
        history=tuple(trainer.history),
        exact=data.texts is not None,
    )


@dataclass(frozen=True)
class _Data:
    """A dataset, split. train and chains: the horizon learned on, chains without cut ones; rounds: whole rounds.

    costs, static: None if the dataset has no costs. texts: the held-out episodes' sweeps, where all of them were swept:
    policies are then scored exactly, and not estimated from the log.
    """

    train: Columns
    chains: Columns
    rounds: Columns
    costs: Costs | None
    static: Static | None
    texts: Texts | None


def _load(dataset: Dataset, config: LearnConfig) -> _Data:
    try:
        costs = dataset.costs()
    except DatasetError:
        if config.reward == "time":
            raise
        costs = None
    everything = dataset.columns(horizon="round", reward="paper", features=config.features)
    train_rounds, held_rounds = split(everything, config.validation)
    if config.horizon == "round":
        train, chains = train_rounds, held_rounds
    else:
        walks = dataset.columns(horizon="walk", reward="paper", features=config.features)
        train, chains = split(walks, config.validation)
    rounds = complete(held_rounds)
    texts = training = None
    if costs is not None:
        texts, training = (read_texts(dataset, side.episodes) for side in (held_rounds, train_rounds))
        static = best_static(train_rounds, costs) if training is None else exact.best_static(training, costs)
    return _Data(
        train=train,
        chains=rounds if config.horizon == "round" else complete(chains),
        rounds=rounds,
        costs=costs,
        static=static if costs is not None else None,
        texts=texts,
    )


@dataclass(frozen=True)
class _Checkpoint:
    update: int
    policy: Policy
    score: Score


class _Trainer:
    """The training loop and what it has found so far."""

    best: _Checkpoint

    def __init__(self, data: _Data, config: LearnConfig) -> None:
        self.data, self.config = data, config
        self.mean, self.scale = scaling(data.train.observations)
        self.observations = (data.train.observations - self.mean) / self.scale
        self.total = config.updates_for(len(data.train.actions))
        self.rate = data.static.rate if config.reward == "time" and data.static else None
        self.history: list[Point] = []
        self.done = 0
        self.algorithm = make_algorithm(config)
        self.rng = np.random.default_rng(config.seed)

    def run(self, progress: Progress) -> None:
        rounds = min(self.config.outer if self.rate is not None else 1, self.total)
        for number in range(rounds):
            updates = self.total * (number + 1) // rounds - self.done
            train, chains = self._priced(self.data.train), self._priced(self.data.chains)
            rounds_held = chains if self.data.chains is self.data.rounds else self.data.rounds
            buffer = self._buffer(train)
            for loss in self._fit(buffer, updates):
                self._check(loss)
                point = self._score(loss, chains, rounds_held)
                progress(self.done, self.total, point.loss, point.mean_q, point.validation_reward)
            if self.rate is not None:
                # The lower end of the estimate: the best of many noisy scores flatters.
                achieved = self.best.score.rank(by_rate=True)
                self.rate = max(self.rate, achieved[1]) if achieved[0] else self.rate

    def _priced(self, columns: Columns) -> Columns:
        """With the time reward at the current rate, if that is what is learned."""
        if self.rate is None or self.data.costs is None:
            return columns
        tokens, milliseconds = tokens_and_time(columns, self.data.costs)
        return replace(columns, rewards=(tokens - self.rate * milliseconds).astype(np.float32))

    def _buffer(self, train: Columns) -> ColumnBuffer:
        config = self.config
        buffer = ColumnBuffer(
            train, self.observations, config.n_steps, config.gamma, self.rng, through_forced=config.through_forced
        )
        if not buffer.transition_count:
            raise LearnError("the training episodes hold no complete transition; collect more episodes")
        return buffer

    def _fit(self, buffer: ColumnBuffer, updates: int) -> Iterator[float]:
        """Train for so many updates; yields the mean loss of every `score_every`, and of the rest."""
        # d3rlpy counts gamma in twice, and trains nothing at all where there are fewer updates than an epoch has.
        assert buffer.gamma == self.algorithm.gamma
        every = self.config.score_every
        for length, epochs in ((every, updates // every), (updates % every, 1)):
            if length * epochs == 0:
                continue
            fitter = self.algorithm.fitter(
                buffer,
                n_steps=length * epochs,
                n_steps_per_epoch=length,
                logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
                show_progress=False,
            )
            for _, metrics in fitter:
                self.done += length
                yield metrics["loss"]

    def _check(self, loss: float) -> None:
        if not math.isfinite(loss) or loss > DIVERGED:
            raise LearnError(
                f"training diverged after {self.done} updates (loss {loss:.3g}); "
                "lower the learning rate, raise the target interval, or use more steps (n_steps 3 or more)"
            )

    def _score(self, loss: float, chains: Columns, rounds: Columns) -> Point:
        policy = Policy(
            features=self.data.train.feature_names,
            layers=self.data.train.layers,
            weights=mean_weights(self.algorithm.impl.q_function[0]),
            mean=self.mean,
            scale=self.scale,
        )
        values = policy.values(chains.observations)
        exits = policy.exits(chains.observations)
        if self.data.texts is not None and self.data.costs is not None:
            scored = simulate(self.data.texts, policy.features, policy.exits, self.data.costs, self.rate)
        else:
            round_exits = exits if rounds is chains else policy.exits(rounds.observations)
            scored = score(chains, rounds, exits, round_exits, self.config.gamma, self.data.costs)
        by_rate = self.config.reward == "time"
        if not self.history or scored.rank(by_rate) > self.best.score.rank(by_rate):
            self.best = _Checkpoint(self.done, policy, scored)
        point = Point(
            update=self.done,
            loss=loss,
            mean_q=float(values.max(axis=1).mean()),
            validation_reward=scored.reward,
            validation_rate=scored.rate,
            exit_layer=scored.exit_layer,
            draft_length=scored.drafts,
            acceptance=scored.acceptance,
            effective_rounds=scored.effective,
        )
        self.history.append(point)
        return point


def make_algorithm(config: LearnConfig) -> Any:
    """d3rlpy's DQN with the noisy network, Adam and a hard target copy, on the CPU."""
    return d3rlpy.algos.DQNConfig(
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        optim_factory=FusedAdamFactory(),
        encoder_factory=NoisyBodyFactory(widths=list(config.hidden), sigma0=config.sigma0),
        q_func_factory=NoisyQFunctionFactory(sigma0=config.sigma0),
        gamma=config.gamma,
        target_update_interval=config.target_interval,
    ).create(device=False)


@contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Seed torch inside, leave it as it was outside. One thread: for matrices this small more only get in the way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _info(dataset: Dataset, data: _Data, config: LearnConfig, trainer: _Trainer) -> dict[str, Any]:
    """What `policy.json` says besides the network."""
    header, best = dataset.header, trainer.best
    return {
        "model": header["model"],
        "tokenizer_hash": header["tokenizer_hash"],
        "state": {"top_k": header["top_k"], "trace": header["trace"]},
        "dataset": {"name": dataset.path.resolve().name, "runs": [run["id"] for run in dataset.runs]},
        "hyperparameters": config.to_dict(),
        "training": {
            "rows": len(data.train.actions),
            "updates": trainer.done,
            "kept": best.update,
            "validation": {name: _plain(value) for name, value in asdict(best.score).items()},
            "static": asdict(data.static) if data.static else None,
            "rate": trainer.rate,
        },
        "lede": _version(),
    }


def _plain(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _version() -> str:
    try:
        return metadata.version("lede")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
