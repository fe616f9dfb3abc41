"""Runs of a dataset, runs/<id>.json: what each was collected with, and who may work on one."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lede.replay.errors import DatasetError
from lede.replay.header import describe_differences, load_header, read_json, to_json
from lede.replay.parts import committed_episodes, remove_leftovers
from lede.replay.store import Store, files_in, open_store, present

Shard = tuple[int, int]  # share i of n, counted from 0; (0, 1) is all of it


@dataclass(frozen=True)
class Run:
    """One set of arguments for which rows are collected into a dataset. Cheap to pickle and send to workers."""

    store: Store  # of the dataset
    id: str
    layers: int  # L of the model

    def committed(self) -> set[int]:
        """See `parts.committed_episodes`."""
        return committed_episodes(self.store, self.id)


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
    store = open_store(path)
    header = load_header(store)
    wanted = json.loads(json.dumps(arguments))
    run_id = run_name(wanted)
    run = Run(store, run_id, header["model"]["layers"])
    with starting(store, run_id):  # shards that start at once wait for the first, and measure nothing themselves
        if present(store, run_file(run_id)):
            if (lock := store.lock(run_lock(run_id), exclusive=True)) is not None:  # no writer is at work
                with lock:
                    remove_leftovers(store, run_id)
            return run
        if not new_run and (others := load_runs(store)):
            nearest = min((describe_differences(wanted, other["arguments"]) for other in others), key=len)
            raise DatasetError(
                f"{store.path} was collected with other arguments: {'; '.join(nearest)}. "
                "Pass --new-run to add a run to it, or another --out"
            )
        started = datetime.now(UTC).isoformat(timespec="seconds")
        told = facts() if callable(facts) else facts
        content = {"id": run_id, "arguments": wanted, "reward": "paper", **told, "started": started}
        with suppress(FileExistsError):  # where nobody can wait, the first one's stays
            store.create(run_file(run_id), to_json(content))
    return run


def run_name(arguments: Mapping[str, Any]) -> str:
    """The id of the run with these arguments, as JSON has them."""
    return "r" + hashlib.sha256(json.dumps(arguments, sort_keys=True).encode()).hexdigest()[:7]


def run_file(run_id: str) -> str:
    """The name of the file that describes a run."""
    return f"runs/{run_id}.json"


def load_runs(*stores: Store) -> list[dict[str, Any]]:
    """What `runs/*.json` say, oldest run first."""
    runs = [read_json(file, "id", "arguments") for store in stores for file in files_in(store, "runs", ".json")]
    return sorted(runs, key=lambda run: (str(run.get("started")), str(run.get("id"))))


def run_lock(run_id: str, worker: int | None = None) -> str:
    """The name of the lock of a run, which its writers share, or of one writer of it."""
    return f"runs/{run_id}.lock" if worker is None else f"runs/{run_id}.{worker}.lock"


def locked(
    store: Store, name: str, told: str, *, exclusive: bool = True, wait: bool = False
) -> AbstractContextManager[Any]:
    """Hold a lock, as `Store.lock` does. Raises `DatasetError` if somebody else holds it: the dataset, and `told`."""
    if (lock := store.lock(name, exclusive=exclusive, wait=wait)) is None:
        raise DatasetError(f"{store.path}: {told}")
    return lock


def alone(store: Store, run_id: str, verb: str) -> AbstractContextManager[Any]:
    """Keep writers of a run away. Raises `DatasetError` if one is at work: `verb` later."""
    return locked(store, run_lock(run_id), f"run {run_id} is being written, {verb} when its collector is done")


def sharing(store: Store, run_id: str) -> AbstractContextManager[Any]:
    """Work on a run beside others, and keep away who wants to be `alone`; waits for them."""
    return locked(store, run_lock(run_id), f"run {run_id} is being changed", exclusive=False)


def starting(store: Store, run_id: str) -> AbstractContextManager[Any]:
    """Begin work on a run one after the other; waits."""
    return locked(store, f"runs/{run_id}.start.lock", f"run {run_id} is being started", wait=True)


@contextmanager
def claim(run: Run, shard: Shard = (0, 1)) -> Iterator[None]:
    """Keep a share of a run's plan for this process; then ask the run what is committed.

    No two have the same share, on one machine or, by a shared file system, on many. Raises `DatasetError` where
    somebody is collecting any of it: the same share, or one of another number of shares.
    """
    store = run.store
    with ExitStack() as held:
        held.enter_context(sharing(store, run.id))
        with starting(store, run.id):  # one after the other
            mine = f"runs/{run.id}.{shard[0]}of{shard[1]}.lock"
            for file in files_in(store, "runs", ".lock"):
                found = re.fullmatch(rf"runs/{run.id}\.(\d+)of(\d+)\.lock", file.name)
                if found is None:
                    continue
                i, n = map(int, found.groups())
                if n == shard[1] and i != shard[0]:
                    continue
                who = f"shard {i + 1}/{n} of run {run.id}" if n > 1 else f"run {run.id}"
                with locked(store, file.name, f"{who} is being collected, wait until its collector is done"):
                    pass
            held.enter_context(locked(store, mine, f"run {run.id} is being collected"))
        yield
