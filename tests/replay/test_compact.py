"""Compaction changes nothing but the number of files, whoever is watching, whenever it is interrupted."""

import shutil
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import lede.replay.folder
from lede import replay
from tests.replay.synthetic import make_episode, write_dataset
from tests.replay.test_store import expected_rows, stored_rows


@pytest.mark.slow
def test_compaction_in_front_of_readers(tmp_path: Path) -> None:
    """Scans during compaction see every row once, or fail because a file is gone; they never see fewer or more."""
    template = tmp_path / "template"
    write_dataset(template, 40, seed=1, flush_rows=40)
    heights = {
        table: pl.read_parquet(template / table / "**/*.parquet").height for table in ("transitions", "episodes")
    }
    observations = replay.open_dataset(template).columns("round").observations
    seen: list[tuple[str, Any]] = []

    def read(path: Path, done: threading.Event) -> None:
        while not done.is_set():
            for table, height in heights.items():
                with suppress(FileNotFoundError):
                    rows = pl.scan_parquet(path / table / "**/*.parquet").collect().height
                    seen.append(("scan", rows == height or (table, rows)))
            try:
                dataset = replay.open_dataset(path)
                same = np.array_equal(dataset.columns("round").observations, observations)
                seen.append(("columns", same and sum(map(len, dataset.files("episodes").values())) > 0))
            except replay.DatasetError as error:
                seen.append(("columns", "vanished" in str(error) or error))

    for repetition in range(6):
        path, done = tmp_path / str(repetition), threading.Event()
        shutil.copytree(template, path)
        reader = threading.Thread(target=read, args=(path, done))
        reader.start()
        files = replay.compact_dataset(path)
        done.set()
        reader.join()
        assert files["transitions"][1] == files["episodes"][1] == 1
    assert {result for _, result in seen} == {True}
    assert {kind for kind, _ in seen} == {"scan", "columns"}


@pytest.mark.parametrize("step", [1, 2, 3])
def test_compaction_interrupted_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    path = tmp_path / "data"
    write_dataset(path, 20, seed=1, flush_rows=40, with_sweeps=True)
    before, exchange, calls = stored_rows(path), lede.replay.folder.exchange, 0

    def fail_at(one: Path, other: Path) -> None:
        nonlocal calls
        calls += 1
        if calls == step:
            raise KeyboardInterrupt
        exchange(one, other)

    monkeypatch.setattr(lede.replay.folder, "exchange", fail_at)
    with pytest.raises(KeyboardInterrupt):
        replay.compact_dataset(path)
    assert stored_rows(path) == before
    assert replay.verify(path) == []
    assert replay.open_dataset(path).episodes.collect().height == 20
    monkeypatch.undo()
    assert set(after for _, after in replay.compact_dataset(path).values()) == {1}
    assert stored_rows(path) == before


def test_writing_after_compaction(tmp_path: Path) -> None:
    """Part numbers that were merged away are never given out again."""
    run = write_dataset(tmp_path / "data", 10, seed=0, flush_rows=40)
    replay.compact_dataset(tmp_path / "data")
    with replay.EpisodeWriter(run, flush_rows=40) as writer:
        for number in range(10, 20):
            writer.add(*make_episode(number))
    replay.compact_dataset(tmp_path / "data")
    assert run.committed() == set(range(20))
    assert stored_rows(tmp_path / "data") == expected_rows(list(range(20)), 0)
    assert replay.verify(tmp_path / "data") == []
