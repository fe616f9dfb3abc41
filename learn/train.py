"""Learn an exit policy from the files of a dataset alone; the model is never loaded."""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from lede.learn.config import LearnConfig
from lede.learn.data import Data, Snapshot
from lede.learn.dqn import learn_dqn
from lede.learn.fitted import learn_fitted
from lede.learn.history import draw, point, write_csv
from lede.learn.library import quiet, threadpool_limits
from lede.learn.score import Score
from lede.policy import Policy
from lede.replay.reader import Dataset, open_dataset
from lede.simulate.costs import costs_device

Progress = Callable[[Snapshot, Score], None]


@dataclass(frozen=True)
class LearnResult:
    """What a training run gave.

    policy: the kept network, saved in `folder` beside learning.csv and learning.png. score: on the validation texts,
    which chose it; test: on the test texts, None where none were swept. history: the lines of learning.csv.
    """

    policy: Policy
    folder: Path
    score: Score
    test: Score | None
    history: list[dict[str, float]]
    data: Data

    def summary(self) -> dict[str, Any]:
        """What `policy.json` says of the training, and the folder; ready for JSON."""
        return {"folder": str(self.folder), **self.policy.info["training"]}


def learn(
    dataset: Dataset | str | os.PathLike[str],
    out: str | os.PathLike[str],
    config: LearnConfig | None = None,
    progress: Progress | None = None,
) -> LearnResult:
    """Train a policy on the dataset and write it to the folder `out`. The same files and seed give the same weights.

    Raises DatasetError if the dataset cannot be read, LearnError if it cannot be learned from or training diverges.
    """
    folder = Path(out)
    data = Data(dataset if isinstance(dataset, Dataset) else open_dataset(dataset), config or LearnConfig())
    folder.mkdir(parents=True, exist_ok=True)  # now, not after minutes of training, is when to hear that it cannot be
    return train(data, folder, progress)


def train(data: Data, folder: Path, progress: Progress | None = None) -> LearnResult:
    """Train, keep the network that does best on the validation texts, and write it to the folder.

    Raises LearnError if training diverges.
    """
    config = data.config
    history: list[dict[str, float]] = []
    by_rate = config.reward != "paper" and data.costs is not None  # the paper's recipe is to be had to the letter
    best: tuple[Snapshot, Score] | None = None
    with _alone(config.seed), quiet():
        for step in (learn_fitted if config.algorithm == "fitted" else learn_dqn)(data):
            score = data.score(step.policy, "validation", step.rate)
            if best is None or score.rank(by_rate) > best[1].rank(by_rate):
                best = step, score
            history.append(point(step, score))
            if progress is not None:
                progress(step, score)
        assert best is not None  # a learner yields its last step
        kept, score = best
        test = data.score(kept.policy, "test", kept.rate) if data.exact("test") else None
    training: dict[str, Any] = {
        "rows": data.rows,
        "temperatures": data.heat,
        "updates": history[-1]["update"],
        "kept": kept.update,
        "validation": known(score),
        "test": known(test) if test else None,
        "static": asdict(data.static) if data.static else None,
        "static_validation": data.static_score("validation"),
        "static_test": data.static_score("test"),
        "rate": kept.rate,
        "costs": data.costs_from,
    }
    dataset = data.dataset
    info = {
        "model": dataset.header["model"],
        "tokenizer_hash": dataset.header["tokenizer_hash"],
        "state": {"top_k": dataset.header["top_k"], "trace": dataset.header["trace"]},
        "dataset": {"name": dataset.name, "runs": [run["id"] for run in dataset.runs]},
        "max_drafts": data.limit,
        "hyperparameters": config.to_dict(),
        "lede": version("lede"),
        "device": costs_device(dataset),
        "training": training,
    }
    policy = replace(kept.policy, info=info, draft_vocabulary=dataset.draft_vocabulary)
    policy.save(folder)
    write_csv(folder / "learning.csv", history)
    draw(folder / "learning.png", history, kept.update, data.static, training["static_validation"])
    return LearnResult(policy, folder, score, test, history, data)


@contextmanager
def _alone(seed: int) -> Iterator[None]:
    """Seed torch inside, leave it as it was outside. One thread: for matrices this small more only get in the way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), threadpool_limits(1):
            torch.default_generator.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def known(score: Score) -> dict[str, float | None]:
    """A score as JSON, which has no NaN."""
    return {name: value if math.isfinite(value) else None for name, value in asdict(score).items()}
