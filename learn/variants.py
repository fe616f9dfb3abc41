"""A grid of variants from one dataset: trained one after another, scored alike, and ranked.

A variant's folder is complete once it has a result.json, so an interrupted grid goes on with the variants that have
none.
"""

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lede.learn.data import Source
from lede.learn.errors import Diverged, LearnError
from lede.learn.grid import Variant
from lede.learn.rewards import NAMED
from lede.learn.train import LearnResult, known, train
from lede.replay.errors import DatasetError
from lede.replay.files import write_json
from lede.replay.reader import open_dataset

RESULT = "result.json"

# (thousandths done, a word on what is being trained)
Progress = Callable[[int, str], None]


@dataclass(frozen=True)
class Result:
    """How one variant did. status: `ok`; `diverged`; `failed`, and then message says why.

    config, data: of what it is the result. score: as `learn.score.Score`, on validation, None for what is not known.
    texts: where the score is exact, not estimated from the log, of each validation text `group`, `tokens`,
    `milliseconds` and the best fixed rule's `static`; else None.
    """

    name: str
    seed: int
    status: str
    message: str
    config: dict[str, Any]
    data: dict[str, Any]
    score: dict[str, float | None]
    texts: dict[str, list[float]] | None


def run_grid(
    dataset_path: str | os.PathLike[str], variants: list[Variant], out: str | os.PathLike[str], progress: Progress
) -> list[Result]:
    """Train every variant that has no result in `out` yet; the results of all of them, in order.

    Raises DatasetError if the dataset cannot be read. What goes wrong with a variant is its result.
    """
    dataset, folder = open_dataset(dataset_path), Path(out)
    identity = {"name": dataset.path.resolve().name, "runs": [run["id"] for run in dataset.runs]}
    results = {v: stored for v in variants if (stored := _stored(folder, v, identity)) is not None}
    source = Source(dataset) if len(results) < len(variants) else None
    for number, variant in enumerate(variants):
        if variant in results or source is None:
            continue

        def report(share: float, number: int = number, words: str = variant.folder) -> None:
            progress(round(1000 * (number + share) / len(variants)), words)

        report(0.0)
        target = folder / variant.folder
        target.mkdir(parents=True, exist_ok=True)
        status, message, score, texts = "ok", "", {}, None
        try:
            trained = train(source.view(variant.config), target, lambda step, _: report(step.update / step.total))
            score, texts = known(trained.score), _texts(trained)
        except (LearnError, DatasetError) as error:
            status, message = ("diverged" if isinstance(error, Diverged) else "failed"), str(error)
        result = Result(
            variant.name, variant.config.seed, status, message, _identified(variant), identity, score, texts
        )
        write_json(target / RESULT, asdict(result))  # the last of its files
        results[variant] = result
    return [results[variant] for variant in variants]


def _texts(trained: LearnResult) -> dict[str, list[float]] | None:
    data = trained.data
    if not data.exact("validation"):
        return None
    rollout = data.engine("validation").play(trained.policy.exits)
    return {
        "group": data.groups("validation").tolist(),
        "tokens": rollout.tokens.tolist(),
        "milliseconds": rollout.milliseconds.tolist(),
        "static": data.static_milliseconds("validation").tolist(),
    }


def _identified(variant: Variant) -> dict[str, Any]:
    """The configuration as JSON reads it back, and what is in the file of a reward of one's own."""
    config = variant.config.to_dict()
    if variant.config.reward not in NAMED:
        config["reward_sha256"] = hashlib.sha256(Path(variant.config.reward).read_bytes()).hexdigest()
    return config


def _stored(folder: Path, variant: Variant, identity: dict[str, Any]) -> Result | None:
    """The result that is there, if it is of this very variant and of these runs of the dataset."""
    try:
        stored = Result(**json.loads((folder / variant.folder / RESULT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
    same = (stored.config, stored.data) == (_identified(variant), identity)
    return stored if same else None
