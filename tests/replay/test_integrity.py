"""Damage is found and named."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from lede import replay
from lede.replay.parquet import encode
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


def misnamed(path: Path) -> Path:
    """Bits of the footer, which pages' checksums do not cover, name another part."""
    file = first(path, "transitions")
    content = file.read_bytes()
    assert b'"part-0-00000"' in content
    file.write_bytes(content.replace(b'"part-0-00000"', b'"part-0-00001"'))
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


def noisy(path: Path) -> Path:
    """Noise in greedy text."""
    file = first(path, "sweeps")
    column = pq.read_schema(file).get_field_index("noise")
    edit(file, lambda rows: rows.set_column(column, "noise", pc.add(rows["noise"], pa.scalar(1.0, pa.float32()))))
    return file


def set_episodes(name: str, value: object) -> Callable[[Path], Path]:
    def setting(path: Path) -> Path:
        file = first(path, "episodes")
        column = pq.read_schema(file).get_field_index(name)
        kind = pq.read_schema(file).field(column).type
        edit(file, lambda rows: rows.set_column(column, name, pa.repeat(pa.scalar(value, kind), rows.num_rows)))
        return file

    setting.__name__ = f"{name} {value}"
    return setting


def no_episodes(path: Path) -> Path:
    first(path, "episodes").unlink()
    return first(path, "transitions")


def no_description(path: Path) -> Path:
    file = next((path / "runs").glob("*.json"))
    file.unlink()
    return file


def changed_arguments(path: Path) -> Path:
    file = next((path / "runs").glob("*.json"))
    file.write_text(file.read_text().replace('"seed": 0', '"seed": 1'))
    return file


DAMAGE = [
    (tear, "torn", "not a readable Parquet file"),
    (empty, "torn", "not a readable Parquet file"),
    (flip, "torn", "not a readable Parquet file"),
    (misnamed, "torn", None),
    (someone_elses, "schema", "has no column episode"),
    (retyped, "schema", "has episode as int64 instead of uint32"),
    (strange_run, "foreign", "not a run of this library"),
    (notes, "foreign", None),
    (copied, "duplicate", "hold the same rows"),
    (same_episode_elsewhere, "duplicate", "twice or out of order"),
    (shuffled, "unsorted", "twice or out of order"),
    (impossible, "values", None),
    (noisy, "values", None),
    (set_episodes("temperature", -1.0), "values", None),
    (set_episodes("temperature", 0.5), "values", None),  # of greedy texts
    (set_episodes("top_p", 0.0), "values", None),
    (set_episodes("options", "min_p=0.1"), "values", None),
    (no_episodes, "missing", None),
    (no_description, "missing", None),
    (changed_arguments, "values", None),
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
