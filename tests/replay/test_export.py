"""A dataset in other forms is read back by the library that each is for."""

import json
import os
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

from lede import replay
from lede.cli import app
from lede.replay.columns import Columns
from lede.replay.reader import Dataset
from lede.replay.schema import SORT_KEYS
from lede.replay.split import SPLITS, episode_splits
from tests.replay.synthetic import start, write_dataset

EPISODES = 15


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    path = tmp_path_factory.mktemp("data") / "my data"
    for seed in (0, 1):
        write_dataset(path, EPISODES, seed=seed, with_sweeps=seed == 0, flush_rows=100)
    return replay.open_dataset(path)


def export(dataset: Dataset, form: str, out: Path, code: int = 0) -> str:
    done = CliRunner().invoke(app, ["export", str(out), "--to", form, "--dataset", str(dataset.path)])
    assert done.exit_code == code, done.output
    assert not list(out.parent.glob(".*"))
    return done.output


def ordered(frame: pl.DataFrame, table: str) -> pl.DataFrame:
    return frame.sort("run", *SORT_KEYS[table])


def chains(dataset: Dataset, side: str) -> tuple[Columns, list[tuple[int, int]]]:
    """All rounds, and where those of one side are."""
    columns, splits = dataset.columns("round", "extended"), episode_splits(dataset)
    here = set(splits.numbers[splits.split == side].tolist())
    bounds = zip(columns.chain_starts[:-1].tolist(), columns.chain_starts[1:].tolist(), strict=True)
    return columns, [(a, b) for a, b in bounds if columns.episodes[a] in here]


def test_csv(dataset, tmp_path):
    assert "read_csv" in export(dataset, "csv", tmp_path / "out")
    for table in ("transitions", "episodes", "sweeps"):
        wanted = getattr(dataset, table).collect()
        schema = {name: kind if not kind.is_nested() else pl.String for name, kind in wanted.schema.items()}
        read = pl.read_csv(tmp_path / "out" / f"{table}.csv", schema_overrides=schema)
        assert set(read["split"]) == set(SPLITS)
        if table == "episodes":
            tokens = [
                pl.col(name).str.split(" ").cast(pl.List(pl.Int32)) for name in ("prompt_tokens", "output_tokens")
            ]
            read = read.with_columns(*tokens)
        read, wanted = read.drop("split"), wanted.drop("split", strict=False)
        assert ordered(read.select(wanted.columns), table).equals(ordered(wanted, table))


def test_hf(dataset, tmp_path):
    datasets = pytest.importorskip("datasets")
    assert "load_dataset" in export(dataset, "hf", tmp_path / "out")
    for table in ("transitions", "episodes", "sweeps"):
        read = datasets.load_dataset(str(tmp_path / "out"), table, cache_dir=str(tmp_path / "cache"))
        assert set(read) == set(SPLITS)
        wanted = getattr(dataset, table).collect().drop("split", strict=False)
        frames = {side: pl.DataFrame(pl.from_arrow(read[side].data.table)) for side in SPLITS}
        assert all(set(frame["split"]) == {side} for side, frame in frames.items())
        rows = pl.concat(frames.values()).select(wanted.columns).cast(dict(wanted.schema))
        assert ordered(rows, table).equals(ordered(wanted, table))
    default = datasets.load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))
    assert "propensity" in default["train"].column_names
    assert "synthetic" in (tmp_path / "out" / "README.md").read_text()


def test_d3rlpy(dataset, tmp_path):
    from lede.learn.library import d3rlpy

    assert "ReplayBuffer.load" in export(dataset, "d3rlpy", tmp_path / "out")
    for side in SPLITS:
        columns, bounds = chains(dataset, side)
        bounds = [
            (a, b) for a, b in bounds if b - a > 1 or columns.terminals[a]
        ]  # without a transition, d3rlpy drops it
        with (tmp_path / "out" / f"{side}.h5").open("rb") as file:
            buffer = d3rlpy.dataset.ReplayBuffer.load(file, d3rlpy.dataset.InfiniteBuffer())
        assert buffer.size() == len(bounds) > 0
        assert buffer.dataset_info.action_size == 2
        for episode, (a, b) in zip(buffer.episodes, bounds, strict=True):
            np.testing.assert_array_equal(episode.observations, columns.observations[a:b])
            np.testing.assert_array_equal(episode.actions[:, 0], columns.actions[a:b])
            np.testing.assert_array_equal(episode.rewards[:, 0], columns.rewards[a:b])
            assert episode.terminated == columns.terminals[b - 1]
    assert json.loads((tmp_path / "out" / "features.json").read_text()) == list(columns.feature_names)


def test_minari(dataset, tmp_path, monkeypatch):
    minari = pytest.importorskip("minari")
    export(dataset, "minari", tmp_path / "out")
    assert "MINARI_DATASETS_PATH" not in os.environ
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "out"))
    assert set(minari.list_local_datasets()) == {f"my-data/{side}-v0" for side in SPLITS}
    for side in SPLITS:
        columns, bounds = chains(dataset, side)
        cut = {b: not columns.terminals[b - 1] for _, b in bounds}
        bounds = [(a, b) for a, b in bounds if not (cut[b] and b - a == 1)]
        read = minari.load_dataset(f"my-data/{side}-v0")
        assert read.total_episodes == len(bounds)
        for episode, (a, b) in zip(read.iterate_episodes(), bounds, strict=True):
            last = b - cut[b]
            np.testing.assert_array_equal(episode.actions, columns.actions[a:last])
            np.testing.assert_array_equal(episode.rewards, columns.rewards[a:last])
            np.testing.assert_array_equal(episode.observations[: b - a], columns.observations[a:b])
            assert len(episode.observations) == len(episode.actions) + 1
            assert (episode.terminations[-1], episode.truncations[-1]) == (not cut[b], cut[b])


def test_what_cannot_be_exported_is_said_plainly(dataset, tmp_path):
    assert "csv, hf, d3rlpy or minari" in export(dataset, "xlsx", tmp_path / "out", code=2)
    assert "--dataset is for csv, " in export(dataset, "transformers", tmp_path / "out", code=2)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    for form in ("csv", "d3rlpy", "hf", "minari"):
        assert "is there already" in export(dataset, form, tmp_path / "out", code=2)
    start(tmp_path / "none")
    for form in ("csv", "d3rlpy", "hf"):
        assert "no transitions yet" in export(replay.open_dataset(tmp_path / "none"), form, tmp_path / "new", code=2)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["notes.txt"]
