"""A grid of variants from one dataset: all trained in one pass over its columns, scored alike, and ranked.

Variants of DQN and double DQN whose networks have one shape are stacked and trained together (`learn.together`);
d3rlpy's other algorithms and `fitted` run one after another. A variant's folder is complete once it has a result.json,
so an interrupted grid goes on with the variants that have none.
"""

import hashlib
import json
import os
from collections.abc import Callable, Hashable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lede.learn.data import Source
from lede.learn.errors import LearnError
from lede.learn.grid import Variant
from lede.learn.judge import Diverged, Judge
from lede.learn.library import quiet
from lede.learn.rewards import NAMED
from lede.learn.together import stack_key, train_together
from lede.learn.train import finite, keep, reproducible, train
from lede.replay.reader import Dataset, open_dataset

RESULT = "result.json"
STACK = 24  # networks trained together; more do not fit into the cache, and their folders wait longer

# (thousandths done, a word on what is being trained)
Progress = Callable[[int, str], None]


@dataclass(frozen=True)
class Result:
    """How one variant did. status: `ok`; `diverged`; `failed`, and then message says why.

    score: as `learn.offpolicy.Score`, None for what is not known. static: the best fixed rule of the training episodes
    on the held-out ones, as `learn.rate.Static`. exact: scored on sweeps, not estimated from the log.
    """

    name: str
    seed: int
    status: str
    message: str
    config: dict[str, Any]
    data: dict[str, Any]
    score: dict[str, float | None]
    kept: int
    static: dict[str, float] | None
    exact: bool


def run_grid(
    dataset_path: str | os.PathLike[str], variants: list[Variant], out: str | os.PathLike[str], progress: Progress
) -> list[Result]:
    """Train every variant that has no result in `out` yet; the results of all of them, in order.

    Raises DatasetError if the dataset cannot be read. What goes wrong with a variant is its result.
    """
    dataset, folder = open_dataset(dataset_path), Path(out)
    identity = {"name": dataset.path.resolve().name, "runs": [run["id"] for run in dataset.runs]}
    results = {v: found for v in variants if (found := _stored(folder, v, identity)) is not None}
    todo = [variant for variant in variants if variant not in results]
    if todo:
        grid = _Grid(dataset, folder, identity, progress, len(variants), len(results))
        with quiet():
            for group in _groups(todo):
                with reproducible(group[0].config.seed):  # what trained before must not matter
                    results |= grid.train(group)
    return [results[variant] for variant in variants]


class _Grid:
    """What the groups of a grid share."""

    def __init__(
        self, dataset: Dataset, folder: Path, identity: dict[str, Any], progress: Progress, total: int, done: int
    ) -> None:
        self.dataset, self.folder, self.identity, self.progress = dataset, folder, identity, progress
        self.source, self.total, self.done = Source(dataset), total, done

    def train(self, group: list[Variant]) -> dict[Variant, Result]:
        """Train variants of one `stack_key`, or a single one that has none, and write their folders."""
        results, judges = {}, {}
        for variant in group:
            try:
                judges[variant] = self._judge(variant)
            except LearnError as error:
                results[variant] = self._write(variant, None, "failed", str(error))
        if judges:
            for variant, (judge, trouble) in self._trained(judges).items():
                status = "ok" if trouble is None else "diverged" if isinstance(trouble, Diverged) else "failed"
                results[variant] = self._write(variant, judge, status, str(trouble or ""))
        self.done += len(group)
        self.progress(round(1000 * self.done / self.total), "")
        return results

    def _judge(self, variant: Variant) -> Judge:
        return Judge(self.source.view(variant.config), variant.config)

    def _trained(self, judges: dict[Variant, Judge]) -> dict[Variant, tuple[Judge, LearnError | None]]:
        variants = list(judges)
        words = variants[0].folder if len(variants) == 1 else f"{len(variants)} networks in one stack"

        def report(done: int, total: int) -> None:
            share = len(variants) * done / total
            self.progress(round(1000 * (self.done + share) / self.total), words)

        if stack_key(variants[0].config) is not None:
            troubles = train_together(list(judges.values()), report)
            return {v: (judges[v], trouble) for v, trouble in zip(variants, troubles, strict=True)}
        try:
            data = judges[variants[0]].data
            return {variants[0]: (train(data, variants[0].config, lambda done, total, *_: report(done, total)), None)}
        except LearnError as error:
            return {variants[0]: (judges[variants[0]], error)}

    def _write(self, variant: Variant, judge: Judge | None, status: str, message: str) -> Result:
        """The variant's folder, result.json last."""
        target = self.folder / variant.folder
        target.mkdir(parents=True, exist_ok=True)
        good = judge is not None and status == "ok"
        if judge is not None and good:
            keep(self.dataset, judge, target)
        static = judge.data.held_static if judge is not None else None
        result = Result(
            name=variant.name,
            seed=variant.config.seed,
            status=status,
            message=message,
            config=_identified(variant),
            data=self.identity,
            score={k: finite(v) for k, v in asdict(judge.best.score).items()} if judge is not None and good else {},
            kept=judge.best.update if judge is not None and good else 0,
            static=asdict(static) if static is not None else None,
            exact=judge is not None and judge.exact,
        )
        temporary = target / (RESULT + ".tmp")
        temporary.write_text(json.dumps(asdict(result), indent=2) + "\n", encoding="utf-8")
        os.replace(temporary, target / RESULT)
        return result


def _groups(variants: list[Variant]) -> Iterator[list[Variant]]:
    """Stacks of at most `STACK` variants, and single ones; in the order of the first of each."""
    stacks: dict[Hashable, list[Variant]] = {}
    for number, variant in enumerate(variants):
        key = stack_key(variant.config)
        stacks.setdefault(number if key is None else key, []).append(variant)
    for group in stacks.values():
        for start in range(0, len(group), STACK):
            yield group[start : start + STACK]


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
