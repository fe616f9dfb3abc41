"""Who collects which share of a run's plan: never two the same, on one machine or, by a shared file system, on many."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from lede.replay.errors import DatasetError
from lede.replay.files import hold, run_lock, visible
from lede.replay.writer import Run, starting

Shard = tuple[int, int]  # share i of n, counted from 0; (0, 1) is all of it


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
