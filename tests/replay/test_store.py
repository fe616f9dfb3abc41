"""What goes in comes out: whatever the flushes, merges, runs and compactions in between."""

import errno
import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lede import replay
from lede.process import EXIT, WALK
from lede.replay.reward import paper_reward
from lede.replay.schema import EXTENDED, FEW, STATE, TRANSITIONS
from lede.simulate.costs import dataset_costs
from tests.replay.synthetic import COSTS, facts, header, make_episode, start, write_dataset

LAYERS = [(4, 5, 6, 8), (0, 4, 5, 6, 8), (3,)]
KEYS = ("episode", "round", "chain", "step")


def expected_rows(numbers: list[int], seed: int, layers: tuple[int, ...] = (4, 5, 6, 8)) -> list[dict[str, Any]]:
    """Every transition as a dict, with the derived columns filled in literally."""
    rows = []
    for number in sorted(numbers):
        columns = make_episode(number, seed, layers)[1]
        mine = [{name: columns[name][i].item() for name in columns} for i in range(len(columns["episode"]))]
        for index, row in enumerate(mine):
            last = row["terminal"] or row["truncated"]
            row |= {f"next_{name}": 0.0 if last else mine[index + 1][name] for name in STATE}
            saved = (16 - row["layer"]) / 16
            reward = ((1 if row["accepted"] else -2) + saved) if row["action"] == EXIT else -0.01
            row["reward"] = np.float32(reward).item()
        rows += mine
    return rows


def stored_rows(path: Path) -> list[dict[str, Any]]:
    frame = replay.open_dataset(path).transitions.sort("run", *KEYS).drop("run").collect()
    assert frame.columns == TRANSITIONS.names
    return [{**row, "propensity": pytest.approx(row["propensity"])} for row in frame.to_dicts()]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    numbers=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=12, unique=True),
    layers=st.sampled_from(LAYERS),
    flush_rows=st.sampled_from([1, 7, 60, 100_000]),
    workers=st.integers(1, 3),
    compacted=st.booleans(),
)
def test_round_trip(
    tmp_path: Path,
    seed: int,
    numbers: list[int],
    layers: tuple[int, ...],
    flush_rows: int,
    workers: int,
    compacted: bool,
) -> None:
    path = tmp_path / "data"
    shutil.rmtree(path, ignore_errors=True)
    run = start(path, seed, layers)
    for worker in range(workers):
        with replay.EpisodeWriter(run, worker, flush_rows) as writer:
            for number in numbers[worker::workers]:
                writer.add(*make_episode(number, seed, layers, with_sweeps=True))
    if compacted:
        replay.compact_dataset(path)

    assert run.committed() == set(numbers)
    expected = expected_rows(numbers, seed, layers)
    assert stored_rows(path) == expected
    assert replay.verify(path) == []
    dataset = replay.open_dataset(path)
    for number, row in zip(sorted(numbers), dataset.episodes.sort("episode").collect().to_dicts(), strict=True):
        episode, _, sweep = make_episode(number, seed, layers, with_sweeps=True)
        assert row == {**episode, "run": run.id}
        rows = dataset.sweeps.filter(pl.col("episode") == number).sort("position", "layer").collect()
        assert sweep is not None
        for name, values in sweep.items():
            assert rows[name].to_list() == pytest.approx(values.tolist()), name


def test_files_are_as_documented(tmp_path: Path) -> None:
    run = write_dataset(tmp_path / "data", 20, seed=0, with_sweeps=True, flush_rows=100)
    files = sorted((tmp_path / "data" / "transitions").rglob("*"))
    assert [f.name for f in files[:3]] == [f"run={run.id}", "part-0-00000.parquet", "part-0-00001.parquet"]
    group = pq.ParquetFile(files[1]).metadata
    assert group.num_row_groups == 1
    for index in range(group.num_columns):
        column = group.row_group(0).column(index)
        assert column.compression == "ZSTD"
        split = column.physical_type == "FLOAT" and column.path_in_schema not in FEW
        assert ("BYTE_STREAM_SPLIT" in column.encodings) == split
        assert ("RLE_DICTIONARY" in column.encodings) != split or column.physical_type == "BOOLEAN"
    assert not list((tmp_path / "data" / ".staging").iterdir())


def test_flushes_after_a_while(tmp_path: Path) -> None:
    run = start(tmp_path / "data")
    with replay.EpisodeWriter(run, flush_seconds=0.0) as writer:
        writer.add(*make_episode(0))
        assert run.committed() == {0}
    with replay.EpisodeWriter(run, worker=1, flush_seconds=1e9) as writer:
        writer.add(*make_episode(1))
        assert run.committed() == {0}
    assert run.committed() == {0, 1}


def test_merging_is_copying(tmp_path: Path) -> None:
    one, two = write_dataset(tmp_path / "a", 6, seed=1), write_dataset(tmp_path / "b", 5, seed=2)
    shutil.copytree(tmp_path / "b", tmp_path / "a", dirs_exist_ok=True)
    both = {run: expected_rows(list(range(n)), seed) for run, n, seed in ((one.id, 6, 1), (two.id, 5, 2))}
    assert stored_rows(tmp_path / "a") == both[min(both)] + both[max(both)]
    assert replay.verify(tmp_path / "a") == []
    merged, alone = (replay.open_dataset(tmp_path / name).columns("round") for name in "ab")
    assert set(alone.episodes) <= set(merged.episodes)
    assert len(np.unique(merged.episodes)) == len(
        {(r["run"], r["episode"]) for r in episodes_with_rows(tmp_path / "a")}
    )


def episodes_with_rows(path: Path) -> list[dict[str, Any]]:
    return replay.open_dataset(path).transitions.select("run", "episode").unique().collect().to_dicts()


def test_runs(tmp_path: Path) -> None:
    path = tmp_path / "data"
    replay.open_for_writing(path, header())
    first = replay.start_run(path, {"seed": 1, "explore": {"stop": 0.3}}, facts())
    assert replay.start_run(path, {"explore": {"stop": 0.3}, "seed": 1}, facts()) == first  # resumed
    with pytest.raises(replay.DatasetError, match=r"explore\.stop is 0\.3 there, 0\.5 here.*--new-run"):
        replay.start_run(path, {"seed": 1, "explore": {"stop": 0.5}}, facts())
    second = replay.start_run(path, {"seed": 1, "explore": {"stop": 0.5}}, facts(), new_run=True)
    for run in (first, second):
        with replay.EpisodeWriter(run) as writer:
            writer.add(*make_episode(0))
    assert first.committed() == second.committed() == {0}
    dataset = replay.open_dataset(path)
    assert {run["id"] for run in dataset.runs} == {first.id, second.id}
    assert dataset.runs[0]["reward"] == "paper"
    assert dataset_costs(dataset)[0] == COSTS
    assert dataset.layers == (4, 5, 6, 8)
    assert dataset.model_layers == 16


def test_a_dataset_takes_only_what_fits(tmp_path: Path) -> None:
    path = tmp_path / "data"
    replay.open_for_writing(path, header())
    replay.open_for_writing(path, header())
    with pytest.raises(replay.DatasetError, match=r"layers is \[4, 5, 6, 8\] there, \[4, 8\] here; model\.layers"):
        replay.open_for_writing(path, header((4, 8), model_layers=12))
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(replay.DatasetError, match="neither empty nor a dataset"):
        replay.open_for_writing(tmp_path / "other", header())
    with pytest.raises(replay.DatasetError, match="does not exist"):
        replay.open_dataset(tmp_path / "nothing")
    with pytest.raises(replay.DatasetError, match="no transitions yet"):
        replay.open_dataset(path).columns()
    assert replay.open_dataset(path).transitions.collect().height == 0
    (path / "dataset.json").write_text('{"format": 2}')
    with pytest.raises(replay.DatasetError, match="update lede"):
        replay.open_dataset(path)


def test_a_dataset_of_an_older_version_that_says_less_of_its_model_takes_more(tmp_path: Path) -> None:
    older, newer = header(), header()
    newer["model"]["weights_hash"] = "1" * 16
    replay.open_for_writing(tmp_path / "older", older)
    replay.open_for_writing(tmp_path / "older", newer)
    replay.open_for_writing(tmp_path / "newer", newer)
    newer["model"]["weights_hash"] = "2" * 16
    with pytest.raises(replay.DatasetError, match=r"model\.weights_hash is"):
        replay.open_for_writing(tmp_path / "newer", newer)
    newer["model"]["layers"] += 1
    with pytest.raises(replay.DatasetError, match=r"model\.layers is"):
        replay.open_for_writing(tmp_path / "older", newer)


def test_what_drafts_belongs_to_a_dataset(tmp_path: Path) -> None:
    """A dataset without exit heads is not one of an older version that merely does not tell them."""
    plain, heads, vocabulary = header(), header(), header()
    heads["model"]["exits"] = "1" * 16
    vocabulary["model"]["draft_vocabulary"] = {"size": 3, "hash": "2" * 16}
    replay.open_for_writing(tmp_path / "plain", plain)
    replay.open_for_writing(tmp_path / "heads", heads)
    replay.open_for_writing(tmp_path / "vocabulary", vocabulary, [1, 5, 7])
    replay.open_for_writing(tmp_path / "vocabulary", vocabulary, [1, 5, 7])
    for name, other in (("plain", heads), ("heads", plain), ("plain", vocabulary), ("vocabulary", plain)):
        with pytest.raises(replay.DatasetError, match=r"model\.(exits|draft_vocabulary) is .* or the same --exits"):
            replay.open_for_writing(tmp_path / name, other)
    assert replay.open_dataset(tmp_path / "vocabulary").draft_vocabulary == (1, 5, 7)
    assert replay.open_dataset(tmp_path / "heads").draft_vocabulary is None


def test_one_writer_a_number(tmp_path: Path) -> None:
    run = start(tmp_path / "data")
    with replay.EpisodeWriter(run, 1) as writer, replay.EpisodeWriter(run, 11):
        with pytest.raises(replay.DatasetError, match=r"writer 1 of run .* is at work"):
            replay.EpisodeWriter(run, 1)
        writer.add(*make_episode(0))
        writer.flush()
        with pytest.raises(replay.DatasetError, match="is being written"):
            replay.compact_dataset(tmp_path / "data")
    with replay.EpisodeWriter(run, 1):
        pass


@pytest.mark.parametrize("at_once", [False, True])
def test_where_there_are_no_locks_the_first_commit_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool
) -> None:
    """The second sees that somebody has committed as it, or that the file which it wants to create is there."""

    def unlocked(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unlocked)
    run = start(tmp_path / "data")
    with replay.EpisodeWriter(run) as first:
        with pytest.raises(replay.DatasetError, match="another writer 0 of run"), replay.EpisodeWriter(run) as second:
            first.add(*make_episode(0))
            first.flush()
            if at_once:
                monkeypatch.setattr(second, "_look_for_rivals", lambda: None)
            second.add(*make_episode(1))
        first.add(*make_episode(1))
    assert stored_rows(tmp_path / "data") == expected_rows([0, 1], 0)
    assert replay.verify(tmp_path / "data") == []


@pytest.mark.parametrize(
    ("column", "value", "complaint"),
    [
        ("layer", 256, "layer must be uint8"),
        ("step", -1, "step must be uint16"),
        ("round", 4_000_000, "not sorted"),
        ("episode", 1, "rows of other episodes"),
    ],
)
def test_bad_rows_are_refused(tmp_path: Path, column: str, value: Any, complaint: str) -> None:
    with replay.EpisodeWriter(start(tmp_path / "data")) as writer:
        episode, rows, _ = make_episode(0, max_new_tokens=400)
        rows[column] = rows[column].astype(np.int64)
        rows[column][0] = value
        with pytest.raises(ValueError, match=complaint):
            writer.add(episode, rows)
        del rows["phase"]
        with pytest.raises(ValueError, match="phase"):
            writer.add(episode, rows)


def slow_columns(rows: list[dict[str, Any]], horizon: str, layers: tuple[int, ...]) -> list[Any]:
    """Chains of (state, action, reward, terminal) and whether they were truncated, said as plainly as possible."""
    arrays = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    rewards = paper_reward(arrays["action"], arrays["accepted"], arrays["layer"], 16)
    chains: dict[Any, list[Any]] = {}
    for row, reward in zip(rows, rewards, strict=True):
        if horizon == "walk" and row["phase"] != WALK:
            continue
        state = [row[name] for name in EXTENDED] + [float(row["layer"] == x) for x in layers]
        terminal = row["action"] == EXIT if horizon == "walk" else row["terminal"]
        chains.setdefault((row["episode"], row["round"]), []).append((state, row["action"], reward, terminal))
    return list(chains.values())


@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("horizon", ["walk", "round"])
def test_columns(tmp_path: Path, layers: tuple[int, ...], horizon: Any) -> None:
    write_dataset(tmp_path / "data", 12, seed=5, layers=layers, flush_rows=50)
    chains = slow_columns(expected_rows(list(range(12)), 5, layers), horizon, layers)
    dataset = replay.open_dataset(tmp_path / "data")
    columns = dataset.columns(horizon, "extended")

    assert columns.feature_names == (*EXTENDED, *(f"layer={layer}" for layer in layers))
    assert columns.observations.dtype == columns.rewards.dtype == np.float32
    assert columns.observations.flags["C_CONTIGUOUS"]
    assert len(columns.chain_starts) == len(chains) + 1
    for chain, start_, end, cut in zip(
        chains, columns.chain_starts, columns.chain_starts[1:], columns.truncated, strict=False
    ):
        states, actions, rewards, terminals = zip(*chain, strict=True)
        np.testing.assert_array_equal(columns.observations[start_:end], np.array(states, np.float32))
        np.testing.assert_array_equal(columns.actions[start_:end], actions)
        np.testing.assert_array_equal(columns.rewards[start_:end], rewards)
        np.testing.assert_array_equal(columns.terminals[start_:end], terminals)
        assert not any(terminals[:-1])
        assert cut == (not terminals[-1])
    assert columns.chain_starts[-1] == len(columns.observations) == len(columns.raw["round"])
    assert horizon == "round" or not columns.truncated.any()

    paper = dataset.columns(horizon)
    assert paper.feature_names == ("conf_topk", "entropy", "conf_trace")
    np.testing.assert_array_equal(paper.observations, columns.observations[:, :3])


def test_columns_do_not_depend_on_files(tmp_path: Path) -> None:
    """Any number of workers and flushes, compacted or not: the same arrays."""
    write_dataset(tmp_path / "one", 30, seed=3, flush_rows=100_000)
    run = start(tmp_path / "many", seed=3)
    for worker in range(4):
        with replay.EpisodeWriter(run, worker, flush_rows=30) as writer:
            for number in reversed(range(worker, 30, 4)):
                writer.add(*make_episode(number, seed=3))
    versions = [replay.open_dataset(tmp_path / name).columns("round") for name in ("one", "many")]
    replay.compact_dataset(tmp_path / "many", max_rows=200)
    versions.append(replay.open_dataset(tmp_path / "many").columns("round"))
    for other in versions[1:]:
        for name in ("observations", "actions", "rewards", "terminals", "chain_starts", "truncated", "episodes"):
            np.testing.assert_array_equal(getattr(versions[0], name), getattr(other, name))


def test_later_versions_may_add_columns(tmp_path: Path) -> None:
    run = write_dataset(tmp_path / "data", 8, seed=1, flush_rows=50)
    before = stored_rows(tmp_path / "data")
    last = sorted((tmp_path / "data" / "transitions" / f"run={run.id}").iterdir())[-1]
    table = pq.read_table(last)
    pq.write_table(table.append_column("novelty", pa.array(np.ones(table.num_rows))), last)
    assert stored_rows(tmp_path / "data") == before
    assert replay.verify(tmp_path / "data") == []
    with pytest.raises(replay.DatasetError, match="novelty"):
        replay.compact_dataset(tmp_path / "data")


def test_writing_needs_no_polars(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; sys.modules['polars'] = None\n"
        "from lede import replay; assert 'pyarrow' not in sys.modules\n"
        "from tests.replay.synthetic import write_dataset\n"
        f"path = pathlib.Path({str(tmp_path / 'data')!r}); write_dataset(path, 2, 0)\n"
        "assert len(replay.open_dataset(path).columns().actions)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_reading_needs_no_writer(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", 2, seed=0)
    program = (
        "import sys; from lede import replay\n"
        f"path = {str(tmp_path / 'data')!r}; replay.inspect_dataset(path); replay.verify(path)\n"
        "replay.compact_dataset(path); replay.repair_dataset(path)\n"
        "assert 'lede.replay.writer' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[2])


def test_some_tasks_runs_and_layers_of_a_dataset(tmp_path: Path) -> None:
    first = write_dataset(tmp_path, 12, seed=1, with_sweeps=True)
    write_dataset(tmp_path, 9, seed=2)
    whole = replay.open_dataset(tmp_path)
    some = whole.where(tasks=["prose"], runs=[first.id], layers=(5, 6))
    assert some.layers == (5, 6)
    wanted = whole.episodes.filter(pl.col("run") == first.id, pl.col("task") == "prose").collect()
    assert some.episodes.collect().equals(wanted)
    keys, both = wanted.select("run", "episode").lazy(), ["run", "episode"]
    for table in ("transitions", "sweeps"):
        within = getattr(whole, table).filter(pl.col("layer").is_in([5, 6]))
        expected = within.join(keys, on=both, how="semi", maintain_order="left").collect()
        assert getattr(some, table).collect().equals(expected) and expected.height
    columns = some.columns("round", "extended")
    assert {*columns.raw["layer"].tolist()} == {5, 6} and "layer=4" not in columns.feature_names
    assert {*columns.episodes.tolist()} <= {(int(first.id[1:], 16) << 32) + n for n in wanted["episode"].to_list()}
    sides = [len(some.samples(side)) for side in ("train", "validation", "test")]
    assert sum(sides) == len(some.samples()) > max(sides)
    for wrong in ({"tasks": ["poems"]}, {"runs": ["r0000000"]}, {"layers": (9, 12)}):
        with pytest.raises(replay.DatasetError, match=r"no run|no episodes of|none is within"):
            whole.where(**wrong)
