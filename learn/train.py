"""Learn an exit policy from the files of a dataset alone; the model is never loaded.

result = learn("data/llama2-7b", "policies/first")
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

from lede.learn.algorithms import exported, make_algorithm
from lede.learn.buffer import ColumnBuffer
from lede.learn.config import LearnConfig
from lede.learn.data import Data, Source
from lede.learn.doubly_robust import UPDATES, Estimate, doubly_robust
from lede.learn.errors import LearnError
from lede.learn.fitted import FittedConfig, fit
from lede.learn.history import Point, draw, write_csv
from lede.learn.judge import Judge
from lede.learn.library import d3rlpy, quiet
from lede.learn.offpolicy import Score
from lede.learn.rate import Static
from lede.learn.views import with_features
from lede.replay.reader import Dataset, open_dataset
from lede.serve.policy import Policy

# (updates done, updates in total, mean loss, mean greedy value, validation reward)
Progress = Callable[[int, int, float, float, float], None]


@dataclass(frozen=True)
class LearnResult:
    """What a training run gave.

    policy: the kept network, saved in `folder` beside learning.csv and learning.png. score: its held-out score.
    update: after how many of `updates` it was kept. static: the best static rule of the training episodes; held_static:
    what it does on the held-out ones; None without costs. rate: that of the last training round, tokens a millisecond;
    None without the time reward.
    """

    policy: Policy
    folder: Path
    score: Score
    update: int
    updates: int
    static: Static | None
    held_static: Static | None
    rate: float | None
    history: tuple[Point, ...]
    exact: bool  # scored on sweeps, not estimated from the log
    estimate: Estimate | None  # where not: its rate once more, doubly robust, with an interval

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
    data = Source(dataset).view(config)
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)  # now, not after minutes of training, is when to hear that it cannot be
    with reproducible(config.seed), quiet():
        judge = train(data, config, progress or (lambda *_: None))
    return keep(dataset, judge, folder)


def keep(dataset: Dataset, judge: Judge, folder: Path) -> LearnResult:
    """Write what a training run gave into the folder: the policy, learning.csv and learning.png."""
    best, data = judge.best, judge.data
    estimate = _estimate(judge)
    policy = replace(best.policy, info=_info(dataset, judge, estimate))
    policy.save(folder)
    write_csv(folder / "learning.csv", judge.history)
    draw(folder / "learning.png", judge.history, best.update, data.held_static)
    return LearnResult(
        policy=policy,
        folder=folder,
        score=best.score,
        update=best.update,
        updates=judge.history[-1].update,
        static=data.static,
        held_static=data.held_static,
        rate=judge.rate,
        history=tuple(judge.history),
        exact=judge.exact,
        estimate=estimate,
    )


def _estimate(judge: Judge) -> Estimate | None:
    """Where there are costs but no sweeps: the kept policy's rate, doubly robust. The walk alone has no rate."""
    data, config = judge.data, judge.config
    if judge.exact or data.costs is None or config.horizon == "walk":
        return None
    updates = min(UPDATES, judge.history[-1].update)
    train, held = (with_features(part, config.features) for part in (data.train, data.rounds))
    return doubly_robust(judge.best.policy, train, held, data.costs, updates, config.seed)


def train(data: Data, config: LearnConfig, progress: Progress) -> Judge:
    """Train one variant; raises LearnError if training diverges."""
    if config.algorithm == "fitted":
        return _fit_sweeps(data, config, progress)
    judge = Judge(data, config)
    algorithm = make_algorithm(config)
    rng = np.random.default_rng(config.seed)
    done = 0
    for updates in judge.rounds():
        buffer = ColumnBuffer(
            judge.begin(), judge.observations, config.n_steps, config.gamma, rng, config.through_forced
        )  # fmt: skip
        if not buffer.transition_count:
            raise LearnError("the training episodes hold no complete transition; collect more episodes")
        for length, loss in _fit(algorithm, buffer, updates, config.score_every):
            done += length
            point = judge.score(done, loss, exported(algorithm, config))
            progress(done, judge.total, point.loss, point.mean_q, point.validation_reward)
        judge.end()
    return judge


def _fit_sweeps(data: Data, config: LearnConfig, progress: Progress) -> Judge:
    """`learn.fitted` instead of a Q-learner: from the sweeps, not the logged decisions."""
    if data.training is None or data.texts is None or data.costs is None:
        raise LearnError("fitted learns from sweeps, and not every episode was swept: collect without --no-sweep")
    how = FittedConfig(
        hidden=config.hidden,
        steps=config.updates_for(len(data.train.actions)),
        batch=config.batch_size,
        learning_rate=config.learning_rate,
        refresh=config.score_every,
        bypass=config.bypass,
        max_drafts=config.max_drafts,
        seed=config.seed,
    )
    judge = Judge(data, config)

    def watch(step: int, policy: Policy, rate: float) -> None:
        judge.rate = rate
        point = judge.record(step, math.nan, math.nan, policy)
        progress(step, judge.total, point.loss, point.mean_q, point.validation_reward)

    fit(data.training, data.texts, data.costs, how, watch)
    return judge


def _fit(algorithm: Any, buffer: ColumnBuffer, updates: int, every: int) -> Iterator[tuple[int, float]]:
    """Train for so many updates; yields the number and mean loss of every so many, and of the rest."""
    # d3rlpy counts gamma in twice, and trains nothing at all where there are fewer updates than an epoch has.
    assert buffer.gamma == algorithm.gamma
    for length, epochs in ((every, updates // every), (updates % every, 1)):
        if length * epochs == 0:
            continue
        fitter = algorithm.fitter(
            buffer,
            n_steps=length * epochs,
            n_steps_per_epoch=length,
            logger_adapter=d3rlpy.logging.NoopAdapterFactory(),
            show_progress=False,
        )
        for _, metrics in fitter:
            yield length, metrics["loss"]


@contextmanager
def reproducible(seed: int) -> Iterator[None]:
    """Seed torch inside, leave it as it was outside. One thread: for matrices this small more only get in the way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _info(dataset: Dataset, judge: Judge, estimate: Estimate | None) -> dict[str, Any]:
    """What `policy.json` says besides the network."""
    header, best, data = dataset.header, judge.best, judge.data
    return {
        "model": header["model"],
        "tokenizer_hash": header["tokenizer_hash"],
        "state": {"top_k": header["top_k"], "trace": header["trace"]},
        "dataset": {"name": dataset.path.resolve().name, "runs": [run["id"] for run in dataset.runs]},
        "max_drafts": judge.config.max_drafts,
        "hyperparameters": judge.config.to_dict(),
        "training": {
            "rows": len(data.train.actions),
            "updates": judge.history[-1].update,
            "kept": best.update,
            "validation": {name: finite(value) for name, value in asdict(best.score).items()},
            "static": asdict(data.static) if data.static else None,
            "held_static": asdict(data.held_static) if data.held_static else None,
            "rate": judge.rate,
            "doubly_robust": {k: finite(v) for k, v in asdict(estimate).items()} if estimate else None,
        },
        "lede": _version(),
    }


def finite(value: float) -> float | None:
    """JSON has no NaN."""
    return value if math.isfinite(value) else None


def _version() -> str:
    try:
        return metadata.version("lede")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
