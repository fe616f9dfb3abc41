"""Damage is found and named; a full disk leaves nothing visible and loses nothing."""

import errno
import os
import resource
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lede import replay
from lede.replay.files import encode
from tests.replay.synthetic import make_episode, start, write_dataset


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_dataset(tmp_path / "data", 12, seed=0, with_sweeps=True, flush_rows=100)
    return tmp_path / "data"


def first(path: Path, table: str) -> Path:
    return min((path / table).rglob("*.parquet"))


def edit(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Rewrite a file as other software would, without checksums."""
    pq.write_table(change(pq.read_table(file, partitioning=None)), file)


def tear(path: Path) -> Path:
    file = first(path, "transitions")
    os.truncate(file, file.stat().st_size // 2)
    return file


def empty(path: Path) -> Path:
    file = first(path, "transitions")
    os.truncate(file, 0)
    return file


def flip(path: Path) -> Path:
    file = first(path, "transitions")
    group = pq.ParquetFile(file).metadata.row_group(0)
    entropy = next(c for c in map(group.column, range(group.num_columns)) if c.path_in_schema == "entropy")
    data = bytearray(file.read_bytes())
    data[entropy.data_page_offset + entropy.total_compressed_size - 1] ^= 1
    file.write_bytes(data)
    return file


def someone_elses(path: Path) -> Path:
    file = first(path, "transitions").with_name("iris.parquet")
    pq.write_table(pa.table({"petal": [1.0]}), file)
    return file


def retyped(path: Path) -> Path:
    file = first(path, "transitions")
    edit(file, lambda rows: rows.set_column(0, "episode", rows["episode"].cast(pa.int64())))
    return file


def notes(path: Path) -> Path:
    file = first(path, "transitions").with_name("notes.txt")
    file.write_text("hello")
    return file


def strange_run(path: Path) -> Path:
    folder = path / "transitions" / "run=best"
    folder.mkdir()
    return folder


def copied(path: Path) -> Path:
    file = first(path, "transitions")
    shutil.copy(file, file.with_name("zzz.parquet"))
    return file.with_name("zzz.parquet")


def same_episode_elsewhere(path: Path) -> Path:
    file = first(path, "transitions")
    for table in ("transitions", "episodes"):
        rows = pq.read_table(first(path, table), partitioning=None)
        copy = first(path, table).with_name("part-7-00000.parquet")
        copy.write_bytes(encode(rows, table, ["part-7-00000"]))
    return file.with_name("part-7-00000.parquet")


def shuffled(path: Path) -> Path:
    file = first(path, "transitions")
    edit(file, lambda rows: rows.take(list(reversed(range(rows.num_rows)))))
    return file


def impossible(path: Path) -> Path:
    file = first(path, "transitions")
    column = pq.read_schema(file).get_field_index("propensity")
    edit(
        file,
        lambda rows: rows.set_column(
            column, "propensity", pc.multiply(rows["propensity"], pa.scalar(2.0, pa.float32()))
        ),
    )
    return file


def no_episodes(path: Path) -> Path:
    first(path, "episodes").unlink()
    return first(path, "transitions")


def no_description(path: Path) -> Path:
    file = next((path / "runs").glob("*.json"))
    file.unlink()
    return file


DAMAGE = [
    (tear, "torn", "not a readable Parquet file"),
    (empty, "torn", "not a readable Parquet file"),
    (flip, "torn", "not a readable Parquet file"),
    (someone_elses, "schema", "has no column episode"),
    (retyped, "schema", "has episode as int64 instead of uint32"),
    (strange_run, "foreign", "not a run of this library"),
    (notes, "foreign", None),
    (copied, "duplicate", "hold the same rows"),
    (same_episode_elsewhere, "duplicate", "twice or out of order"),
    (shuffled, "unsorted", "twice or out of order"),
    (impossible, "values", None),
    (no_episodes, "missing", None),
    (no_description, "missing", None),
]


@pytest.mark.parametrize(("damage", "kind", "complaint"), DAMAGE, ids=[case[0].__name__ for case in DAMAGE])
def test_damage_is_named(path: Path, damage: Callable[[Path], Path], kind: str, complaint: str | None) -> None:
    assert replay.verify(path) == []
    file = damage(path)
    findings = replay.verify(path)
    assert (file, kind) in [(finding.path, finding.kind) for finding in findings]
    assert not all(finding.harmless for finding in findings)
    report = replay.inspect_dataset(path)
    assert {"path": str(file), "kind": kind} in [{k: f[k] for k in ("path", "kind")} for f in report["integrity"]]
    if complaint is None:
        assert len(replay.open_dataset(path).columns().actions)
        return
    with pytest.raises(replay.DatasetError, match=complaint) as caught:
        replay.open_dataset(path).columns()
    assert str(file) in str(caught.value) or "episode" in str(caught.value)
    assert complaint in report["unreadable"]


def test_orphans_and_leftovers(path: Path) -> None:
    """What a writer leaves that dies before the commit is ignored, and gone when the run is resumed."""
    transitions = max((path / "transitions").rglob("*.parquet"))
    lost = set(pq.read_table(transitions, partitioning=None)["episode"].to_pylist())
    transitions.unlink()
    leftover = path / ".staging" / f"{transitions.parent.name.removeprefix('run=')}.part-0-00009.episodes.tmp"
    leftover.write_bytes(b"PAR1")

    findings = replay.verify(path)
    assert sorted(finding.kind for finding in findings) == ["leftover", "orphan", "orphan"]
    assert all(finding.harmless for finding in findings)
    dataset = replay.open_dataset(path)
    kept = set(dataset.episodes.collect()["episode"])
    assert lost.isdisjoint(kept)
    assert set(dataset.sweeps.collect()["episode"]) <= kept

    run = start(path)
    assert run.committed() == kept
    assert replay.verify(path) == []
    with replay.EpisodeWriter(run) as writer:
        for number in sorted(set(range(12)) - kept):
            writer.add(*make_episode(number, with_sweeps=True))
    assert replay.verify(path) == []
    assert pl.scan_parquet(path / "episodes/**/*.parquet").collect().height == 12


@contextmanager
def small_disk(folder: Path) -> Iterator[Callable[[], object]]:
    """A real limit on what can be written under `folder`; calling what it yields lifts it."""
    folder.mkdir()
    mounted = (
        os.geteuid() == 0
        and not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=False, capture_output=True
        ).returncode
    )
    if mounted:
        try:
            yield lambda: subprocess.check_call(["mount", "-o", "remount,size=64m", folder])
        finally:
            subprocess.run(["umount", "-l", folder], check=True)
        return
    limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16 * 1024, limits[1]))
    try:
        yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.parametrize("as_user", [False, True], ids=["tmpfs if root", "file size limit"])
def test_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, as_user: bool) -> None:
    """Nothing of a failed flush stays; the rows do, and go out when there is room."""
    if as_user:
        monkeypatch.setattr(os, "geteuid", lambda: 1)
    with small_disk(tmp_path / "disk") as lift:
        path = tmp_path / "disk" / "data"
        run = start(path)
        with replay.EpisodeWriter(run) as writer:
            writer.add(*make_episode(0, with_sweeps=True))
            writer.flush()
            for number in range(1, 40):
                writer.add(*make_episode(number, with_sweeps=True, max_new_tokens=400))
            for _ in range(2):
                with pytest.raises(OSError, match=r"part-0-00001") as caught:
                    writer.flush()
                assert caught.value.errno in (errno.ENOSPC, errno.EFBIG)
                assert caught.value.filename
                assert len(list(path.rglob("*.parquet"))) == 3
                assert replay.verify(path) == []
                assert run.committed() == {0}
            lift()
            writer.add(*make_episode(40))
        assert run.committed() == set(range(41))
        assert replay.verify(path) == []


@pytest.mark.parametrize("table", ["episodes", "sweeps", "transitions"])
def test_folder_that_cannot_be_written(tmp_path: Path, table: str) -> None:
    """Failing at any of the three renames undoes the ones before."""
    path = tmp_path / "data"
    run = start(path)
    (path / table).write_text("in the way")
    writer = replay.EpisodeWriter(run)
    writer.add(*make_episode(0, with_sweeps=True))
    with pytest.raises(OSError, match=f"{table}/run={run.id}"):
        writer.flush()
    assert list(path.rglob("*.parquet")) == list((path / ".staging").iterdir()) == []
    (path / table).unlink()
    writer.close()
    assert run.committed() == {0}
    assert replay.verify(path) == []


def test_a_failed_flush_does_not_hide_the_cause(tmp_path: Path) -> None:
    path = tmp_path / "data"
    run = start(path)
    with pytest.raises(RuntimeError, match="the model broke"), replay.EpisodeWriter(run) as writer:
        writer.add(*make_episode(0))
        (path / "transitions").write_text("in the way")
        raise RuntimeError("the model broke")
    with pytest.raises(OSError, match="transitions"), replay.EpisodeWriter(run) as writer:
        writer.add(*make_episode(0))
