"""A writer that is killed loses nothing it committed, doubles nothing, and never lets a reader see half a file."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import IO

import polars as pl
import pytest

from lede import replay
from tests.replay.synthetic import start
from tests.replay.test_store import expected_rows, stored_rows

EPISODES = 400

#: Commits one episode after the other, and prints the number of each when it is committed.
WRITER = """
import sys
from pathlib import Path
from lede.replay import EpisodeWriter
from tests.replay.synthetic import make_episode, start

run = start(Path(sys.argv[1]))
done = run.committed()
with EpisodeWriter(run, worker=int(sys.argv[2])) as writer:
    for number in range(int(sys.argv[3])):
        if number not in done:
            writer.add(*make_episode(number, with_sweeps=True))
            writer.flush()
            print(number, flush=True)
"""

#: Forks children that kill themselves before the n-th step of a flush, for n = 0, 1, … until one survives.
DYING_WRITER = """
import os, signal, sys
from pathlib import Path
from lede import replay
import lede.replay.folder, lede.replay.writer
from tests.replay.synthetic import make_episode, start

run = start(Path(sys.argv[1]))

def mortal(function, life):
    def step(*args, **more):
        if life.pop() is None:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **more)
    return step

for number in range(50):
    if (child := os.fork()) == 0:
        life = [None] + [True] * number
        for name in ("stage", "publish", "sync_folder"):
            setattr(replay.folder, name, mortal(getattr(replay.folder, name), life))
        with replay.writer.EpisodeWriter(run, worker=number) as writer:
            writer.add(*make_episode(number, with_sweeps=True))
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(code)
    if code == 0:
        break
"""


def run_python(program: str, *args: object, stdout: int | IO[str] = subprocess.PIPE) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, args)]
    return subprocess.Popen(command, stdout=stdout, text=True, cwd=Path(__file__).parents[2])


def check(path: Path, acknowledged: set[int]) -> None:
    """Everything that was acknowledged is there, once; a plain scan and the library agree."""
    committed = start(path).committed()
    assert acknowledged <= committed
    expected = expected_rows(sorted(committed), 0)
    assert stored_rows(path) == expected
    assert pl.scan_parquet(path / "transitions/**/*.parquet").collect().height == len(expected)
    dataset = replay.open_dataset(path)
    assert sorted(dataset.episodes.collect()["episode"]) == sorted(committed)
    assert set(dataset.sweeps.collect()["episode"]) <= committed
    assert [finding for finding in replay.verify(path) if not finding.harmless] == []


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path: Path) -> None:
    path, rng, acknowledged = tmp_path / "data", random.Random(0), set[int]()
    for _ in range(6):
        with run_python(WRITER, path, 0, EPISODES) as process:
            assert process.stdout
            for _, line in zip(range(rng.randrange(1, 25)), process.stdout, strict=False):
                acknowledged.add(int(line))
            time.sleep(rng.random() * 0.02)
            process.kill()
            acknowledged |= {int(line) for line in process.stdout if line.endswith("\n")}
        assert process.returncode == -signal.SIGKILL
        check(path, acknowledged)
    assert len(acknowledged) >= 6
    assert replay.verify(path) == []  # starting the run again, as `check` does, has cleaned up


@pytest.mark.slow
def test_killed_before_every_step(tmp_path: Path) -> None:
    """A flush of three tables is 3 x stage, then 3 x (publish, sync of the folder); new folders add syncs."""
    path = tmp_path / "data"
    with run_python(DYING_WRITER, path) as process:
        assert process.stdout
        codes = [int(line) for line in process.stdout]
    survivor = len(codes) - 1
    assert survivor >= 9
    assert codes == [-signal.SIGKILL] * survivor + [0]
    committed = {survivor - 1, survivor}  # before the last sync of a folder, the rename has happened
    findings = replay.verify(path)
    assert {finding.kind for finding in findings} == {"orphan", "leftover"}
    assert set(replay.open_dataset(path).episodes.collect()["episode"]) == committed
    check(path, committed)  # starts the run again
    assert start(path).committed() == committed
    assert replay.verify(path) == []
    assert pl.scan_parquet(path / "episodes/**/*.parquet").collect().height == 2


def test_plain_scans_while_two_write(tmp_path: Path) -> None:
    """A glob and a bare folder are both safe to scan at any moment, and rows never disappear."""
    path = tmp_path / "data"
    start(path)
    heights: list[int] = []
    for wanted in (3, 6):
        deadline = time.monotonic() + 60
        writers = [run_python(WRITER, path, worker, 10_000) for worker in range(2)]
        while len(set(heights)) < wanted and time.monotonic() < deadline:
            for source in ("transitions/**/*.parquet", "transitions"):
                if any((path / "transitions").rglob("*.parquet")):
                    heights.append(pl.scan_parquet(path / source).collect().height)
        for writer in writers:
            writer.kill()
            writer.communicate()
    assert heights == sorted(heights)
    assert len(set(heights)) >= 6
