"""Runs of a dataset, runs/<id>.json: what each was collected with, and who may work on one."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from lede.replay.errors import DatasetError
from lede.replay.folder import hold, write_json
from lede.replay.header import describe_differences, load_header, read_json
from lede.replay.parquet import read_columns
from lede.replay.parts import committed_parts, live_files, remove_leftovers, visible
from lede.replay.storage import place

Shard = tuple[int, int]  # share i of n, counted from 0; (0, 1) is all of it


@dataclass(frozen=True)
class Run:
    """One set of arguments for which rows are collected into a dataset. Cheap to pickle and send to workers."""

    path: Path  # the dataset
    id: str
    layers: int  # L of the model

    def committed(self) -> set[int]:
        """Numbers of the episodes that need not be collected again. Raises `DatasetError` if a file is damaged."""
        parts = committed_parts(self.path, self.id)
        files = live_files(self.path, "episodes", self.id, parts)
        return {n for path in files for n in read_columns(path, "episodes", ["episode"])["episode"].to_pylist()}


def start_run(
    path: str | os.PathLike[str],
    arguments: Mapping[str, Any],
    facts: Mapping[str, Any] | Callable[[], Mapping[str, Any]],
    new_run: bool = False,
) -> Run:
    """Start the run with these arguments, or resume it if the dataset has it already.

    `arguments` is what decides the rows; `facts` (versions, device, behaviour, costs, …) is written beside it when the
    run is new; a function is called only then. Raises `DatasetError` if the dataset has runs, but none with these
    arguments, unless `new_run`.
    """
    root = place(path)
    header = load_header(root)
    wanted = json.loads(json.dumps(arguments))
    run_id = run_name(wanted)
    run = Run(root, run_id, header["model"]["layers"])
    description = run_file(root, run_id)
    with starting(root, run_id):  # shards that start at once wait for the first, and measure nothing themselves
        if description.exists():
            if (lock := hold(run_lock(root, run_id), exclusive=True)) is not None:  # no writer is at work
                try:
                    remove_leftovers(root, run_id)
                finally:
                    os.close(lock)
            return run
        if not new_run and (others := load_runs(root)):
            nearest = min((describe_differences(wanted, other["arguments"]) for other in others), key=len)
            raise DatasetError(
                f"{root} was collected with other arguments: {'; '.join(nearest)}. "
                "Pass --new-run to add a run to it, or another --out"
            )
        started = datetime.now(UTC).isoformat(timespec="seconds")
        told = facts() if callable(facts) else facts
        content = {"id": run_id, "arguments": wanted, "reward": "paper", **told, "started": started}
        write_json(description, content)
    return run


def run_name(arguments: Mapping[str, Any]) -> str:
    """The id of the run with these arguments, as JSON has them."""
    return "r" + hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:7]


def run_file(root: Path, run_id: str) -> Path:
    return root / "runs" / f"{run_id}.json"


def load_runs(*roots: Path) -> list[dict[str, Any]]:
    """What `runs/*.json` say, oldest run first."""
    runs = [read_json(path, "id", "arguments") for root in roots for path in visible(root / "runs", "*.json")]
    return sorted(runs, key=lambda run: (str(run.get("started")), str(run.get("id"))))


def run_lock(root: Path, run: str, worker: int | None = None) -> Path:
    """The lock file of a run, which its writers share, or of one writer of it."""
    return root / "runs" / (f"{run}.lock" if worker is None else f"{run}.{worker}.lock")


@contextmanager
def alone(root: Path, run: str, verb: str) -> Iterator[None]:
    """Keep writers of a run away. Raises `DatasetError` if one is at work: `verb` later."""
    if (lock := hold(run_lock(root, run), exclusive=True)) is None:
        raise DatasetError(f"{root}: run {run} is being written, {verb} when its collector is done")
    try:
        yield
    finally:
        os.close(lock)


@contextmanager
def starting(root: Path, run_id: str) -> Iterator[None]:
    """Begin work on a run one after the other; waits."""
    lock = hold(root / "runs" / f"{run_id}.start.lock", exclusive=True, wait=True)
    try:
        yield
    finally:
        if lock is not None:
            os.close(lock)


@contextmanager
def claim(run: Run, shard: Shard = (0, 1)) -> Iterator[None]:
    """Keep a share of a run's plan for this process; then ask the run what is committed.

    Raises `DatasetError` where somebody is collecting any of it: the same share, or one of another number of shares.
    """
    held = [hold(run_lock(run.path, run.id), exclusive=False)]  # waits for compaction
    try:
        with starting(run.path, run.id):  # one after the other
            for path in visible(run.path / "runs", f"{run.id}.*of*.lock"):
                i, n = map(int, path.name.split(".")[1].split("of"))
                if n == shard[1] and i != shard[0]:
                    continue
                if (lock := hold(path, exclusive=True)) is None:
                    who = f"shard {i + 1}/{n} of run {run.id}" if n > 1 else f"run {run.id}"
                    raise DatasetError(f"{run.path}: {who} is being collected, wait until its collector is done")
                os.close(lock)
            held.append(hold(run.path / "runs" / f"{run.id}.{shard[0]}of{shard[1]}.lock", exclusive=True))
        yield
    finally:
        for lock in held:
            if lock is not None:
                os.close(lock)
