"""The store under kills, flipped bits, truncation, rivals and disks that cannot be written: nothing lost or doubled."""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from lede import replay
from lede.cli import app
from lede.collect import collector
from lede.replay.runs import Run, Shard
from lede.replay.schema import TABLES
from tests.collect.small import collected, same, tables
from tests.replay import torture
from tests.replay.synthetic import make_episode, start, write_dataset
from tests.replay.test_crash import check, run_python

KILLS = 15
#: Two writers that commit one episode after the other and print its number; one of them is killed again and again.
KILLED_WRITERS = """
import os, random, signal, sys, time
from pathlib import Path
from lede.replay import EpisodeWriter
from tests.replay.synthetic import make_episode, start

path, kills, chance = Path(sys.argv[1]), int(sys.argv[2]), random.Random(0)

def write(worker):
    if child := os.fork():
        return child
    run = start(path)
    with EpisodeWriter(run, worker) as writer:
        done = run.committed()
        for number in range(worker, 100_000, 2):
            if number not in done:
                writer.add(*make_episode(number, with_sweeps=True))
                writer.flush()
                os.write(1, b"%d\\n" % number)

def parts():
    return len(list(path.glob("transitions/*/*.parquet")))

children, end = [write(0), write(1)], time.monotonic() + 60
for kill in range(kills):
    wanted = parts() + chance.randrange(4)
    while parts() < wanted and time.monotonic() < end:
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.03))
    victim = chance.randrange(2)
    os.kill(children[victim], signal.SIGKILL)
    assert os.waitpid(children[victim], 0)[1] == signal.SIGKILL
    children[victim] = write(victim)
for child in children:
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
"""


@pytest.mark.slow
def test_two_writers_killed_again_and_again_while_a_reader_scans(tmp_path: Path) -> None:
    path = tmp_path / "data"
    start(path)
    (path / "transitions").mkdir()
    heights, output = [0], tmp_path / "committed"
    counted = pl.len(), pl.struct("episode", "round", "step").n_unique().alias("distinct")
    with output.open("w") as told, run_python(KILLED_WRITERS, path, KILLS, stdout=told) as process:
        while process.poll() is None:
            if any((path / "transitions").rglob("*.parquet")):
                rows, distinct = pl.scan_parquet(path / "transitions").select(counted).collect().row(0)
                assert rows == distinct
                heights.append(rows)
                heights.append(replay.open_dataset(path).transitions.collect().height)
            time.sleep(0.03)
    assert process.returncode == 0
    assert heights == sorted(heights) and len(set(heights)) > 5
    acknowledged = [int(line) for line in output.read_text().splitlines()]
    assert len(acknowledged) == len(set(acknowledged)) > KILLS / 2
    check(path, set(acknowledged))

    planned, run = set(range(max(acknowledged) + 4)), start(path)
    with replay.EpisodeWriter(run) as writer:
        for number in sorted(planned - run.committed()):
            writer.add(*make_episode(number, with_sweeps=True))
    assert run.committed() == planned
    check(path, planned)
    assert replay.verify(path) == []


@pytest.mark.parametrize("table", ["episodes", "sweeps", "transitions"])
def test_a_flipped_bit_or_a_missing_end_is_found_wherever_it_is(tmp_path: Path, table: str) -> None:
    """In pages, in their headers, in statistics, schema and key-value pairs of the footer, and in the seal."""
    path, chance = tmp_path / "data", random.Random(0)
    write_dataset(path, 3, seed=0, with_sweeps=True, flush_rows=10_000)
    (file,) = (path / table).rglob("*.parquet")
    content = file.read_bytes()
    footer = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    places = [*range(footer - 8, footer), *range(len(content) - 8, len(content)), 0, 3, 4]
    places += chance.sample(range(4, footer), 30) + chance.sample(range(footer, len(content)), 60)
    for place in places:
        damaged = bytearray(content)
        damaged[place] ^= 1 << chance.randrange(8)
        file.write_bytes(damaged)
        assert file in {finding.path for finding in replay.verify(path) if not finding.harmless}, place
        with suppress(replay.DatasetError):  # or no harm: nothing else is raised
            replay.open_dataset(path).read(table, TABLES[table].names[1:])
    for length in [0, 1, 8, len(content) - 1, *chance.sample(range(len(content)), 10)]:
        file.write_bytes(content[:length])
        assert file in {finding.path for finding in replay.verify(path) if not finding.harmless}, length
    file.write_bytes(content)
    assert replay.verify(path) == []


def test_a_second_run_with_the_same_arguments_is_refused_or_goes_on_where_the_first_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    collected(tmp_path / "one")
    out, claim = tmp_path / "two", collector.claim

    def late(run: Run, shard: Shard) -> AbstractContextManager[None]:
        """The other run ends between this one's start and its claim."""
        monkeypatch.setattr(collector, "claim", claim)
        with claim(run, shard), pytest.raises(replay.DatasetError, match=r"run .* is being collected"):
            collected(out)
        collected(out)
        return claim(run, shard)

    monkeypatch.setattr(collector, "claim", late)
    done = collected(out)
    assert (done.resumed, done.episodes) == (7, 0)
    assert replay.verify(out) == []
    assert same(tables(out), tables(tmp_path / "one"))


@pytest.fixture
def read_only(tmp_path: Path) -> Iterator[Path]:
    """A whole dataset that nobody can write to, root included."""
    write_dataset(tmp_path / "data", 10, seed=0, with_sweeps=True, flush_rows=100)
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() == 0:
        done = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=False, capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"root may not mount here: {done.stderr}")
        try:
            shutil.copytree(tmp_path / "data", folder / "data")
            subprocess.run(["mount", "-o", "remount,ro", folder], check=True)
            yield folder / "data"
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        return
    shutil.copytree(tmp_path / "data", folder / "data")
    places = [folder / "data", *(folder / "data").rglob("*")]
    for place in places:
        place.chmod(0o555 if place.is_dir() else 0o444)
    yield folder / "data"
    for place in places:
        place.chmod(0o755)


def test_a_folder_that_cannot_be_written_is_read_and_said_to_be_so(read_only: Path) -> None:
    def invoke(*arguments: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, [*map(str, arguments)])
        return done.exit_code, done.output

    assert replay.verify(read_only) == []
    assert replay.open_dataset(read_only).episodes.collect().height == 10
    assert invoke("inspect", read_only)[0] == 0
    code, said = invoke("compact", read_only)
    assert code == 2 and said.count("\n") == 1 and ("ead-only" in said or "denied" in said)
    with pytest.raises(OSError, match=r"ead-only|denied"), replay.EpisodeWriter(start(read_only)):
        pass
    assert replay.verify(read_only) == []


def has_full_disks() -> bool:
    """Whether a small disk may be mounted."""
    try:
        return subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], check=False).returncode == 0
    except FileNotFoundError:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("case", torture.CASES)
def test_torture_in_short(case: str) -> None:
    if case == "full" and not has_full_disks():
        pytest.skip("unshare -rm and mount are not permitted here")
    command = [sys.executable, "-m", "tests.replay.torture", "--case", case, "--kills", "10", "--trials", "3", "--json"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
