"""Damaged data: whatever is wrong with a file, every command names it in a line, and `inspect` shows its report."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from lede import replay
from lede.cli import app
from tests.replay.synthetic import write_dataset


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("template") / "data"
    write_dataset(path, 6, seed=0, layers=(0, 4, 5, 8), with_sweeps=True, flush_rows=60)
    return path


def invoke(*arguments: object, code: int) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "400"})
    assert done.exit_code == code, done.output
    return done.output


def first(path: Path, table: str) -> Path:
    return min((path / table).rglob("*.parquet"))


def with_value(column: str, value: float) -> Callable[[Path], None]:
    def damage(file: Path) -> None:
        rows = pq.read_table(file)
        values = rows[column].to_numpy().copy()
        values[len(values) // 2] = value
        index = rows.schema.get_field_index(column)
        rows = rows.set_column(index, rows.schema.field(index), pa.array(values))
        pq.write_table(rows, file)

    return damage


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


def empty(file: Path) -> None:
    file.write_bytes(b"")


def foreign(file: Path) -> None:
    pl.DataFrame({"x": [1]}).write_parquet(file)


def retyped(file: Path) -> None:
    pl.read_parquet(file).with_columns(pl.col("episode").cast(pl.Int64)).write_parquet(file)


DAMAGE = {
    "NaN": (with_value("entropy", np.nan), "entropy"),
    "infinite": (with_value("conf_trace", -np.inf), "conf_trace"),
    "torn": (cut, "not a readable Parquet file"),
    "empty": (empty, "not a readable Parquet file"),
    "foreign": (foreign, "has no column"),
    "retyped": (retyped, "has episode as int64 instead of uint32"),
}


@pytest.mark.parametrize("table", ["transitions", "sweeps"])
@pytest.mark.parametrize("kind", DAMAGE)
def test_every_command_names_the_file_and_what_is_wrong(kind, table, template, tmp_path):
    path = tmp_path / "data"
    shutil.copytree(template, path)
    if table == "transitions":  # a learner that has sweeps does not look at the log's states
        shutil.rmtree(path / "sweeps")
    damage, words = DAMAGE[kind]
    damage(file := first(path, table))
    shown = invoke("inspect", path, code=0)
    assert any(str(file) in line and words in line for line in shown.splitlines())
    assert "every file is whole" not in shown
    commands = [["learn", "--out", tmp_path / "policy"]]
    if kind not in ("NaN", "infinite"):  # without a policy that looks at it, a state is not read
        commands += [["evaluate"]]
    for command in commands:
        message = invoke(*command, "--dataset", path, code=2)
        assert message.count("\n") == 1
        assert str(file) in message and words in message


def test_rows_with_nan_are_collected_again_once_their_file_is_away(template, tmp_path):
    """What the message says to do works: the other episodes stay, and the lost ones are planned again."""
    path = tmp_path / "data"
    shutil.copytree(template, path)
    damage, _ = DAMAGE["NaN"]
    damage(file := first(path, "transitions"))
    with pytest.raises(replay.DatasetError, match=r"entropy: lede repair sets it aside, then collect again"):
        replay.open_dataset(path).columns()
    lost = set(pl.read_parquet(file)["episode"])
    file.unlink()
    run = write_dataset(path, 0, seed=0, layers=(0, 4, 5, 8))
    assert run.committed() == set(range(6)) - lost
    assert replay.open_dataset(path).columns()


@pytest.mark.parametrize("name", ["dataset.json", "runs/*.json"])
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", json.dumps({"format": 1}).encode()])
def test_json_files_that_are_damaged_are_named(name, content, template, tmp_path):
    path = tmp_path / "data"
    shutil.copytree(template, path)
    file = next(path.glob(name))
    file.write_bytes(content)
    message = invoke("inspect", path, code=2)
    assert str(file) in message and message.count("\n") == 1
