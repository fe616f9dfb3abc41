"""The numbers and the picture of `lede inspect`, and the examples of the format's description."""

import json
import re
import shutil
from io import StringIO
from pathlib import Path

import polars as pl
import pytest
from rich.console import Console

from lede import replay
from lede.tables import dataset_tables
from tests.replay.synthetic import start, write_dataset

LAYERS = (0, 4, 5, 8)


def test_numbers(tmp_path: Path) -> None:
    path = tmp_path / "data"
    write_dataset(path, 30, seed=0, layers=LAYERS)
    report = json.loads(json.dumps(replay.inspect_dataset(path)))
    rows = pl.read_parquet(path / "transitions")
    episodes = pl.read_parquet(path / "episodes")
    counts = report["counts"]
    assert counts["episodes"] == 30
    assert counts["decisions"] == rows.height == sum(report["rewards"]["counts"])
    assert counts["rounds"] == episodes["rounds"].sum() == sum(report["draft_lengths"])
    assert counts["tokens"] == episodes["output_tokens"].list.len().sum()
    assert counts["drafted"] == sum(layer["drafted"] for layer in report["layers"]) == episodes["drafted"].sum()
    assert counts["accepted"] == sum(layer["accepted"] for layer in report["layers"]) == episodes["accepted"].sum()
    assert report["tasks"] == {"code": 15, "prose": 15}
    assert report["integrity"] == []
    for layer in report["layers"]:
        walk = rows.filter(pl.col("phase") == 0, pl.col("layer") == layer["layer"])
        assert layer["visits"] == walk.height
        assert layer["agreement"] == pytest.approx(walk["accepted"].mean())
        assert layer["exit_share"] == pytest.approx(walk["action"].mean())
    assert report["features"]["entropy"]["mean"] == pytest.approx(
        rows.filter(pl.col("layer") > 0)["entropy"].cast(pl.Float64).mean(), rel=1e-5
    )


def test_large_datasets_are_counted_by_footers_and_sampled(tmp_path: Path) -> None:
    path = tmp_path / "data"
    write_dataset(path, 30, seed=0, layers=LAYERS, flush_rows=40)
    full = replay.inspect_dataset(path, most=None)
    assert full == replay.inspect_dataset(path) and full["sampled"] is None
    rows = full["counts"]["decisions"]
    quick = replay.inspect_dataset(path, most=rows // 3)
    for name in ("counts", "tasks", "splits", "runs"):
        assert quick[name] == full[name]
    assert quick["integrity"] is None
    assert rows / 6 < quick["sampled"] == sum(quick["rewards"]["counts"]) < rows / 2
    assert sum(quick["draft_lengths"]) < sum(full["draft_lengths"])
    told = Console(file=StringIO(), width=200)
    for table in dataset_tables(quick):
        told.print(table)
    said = told.file.getvalue()
    assert "lede verify" in said and f"of {quick['sampled']:,} decisions" in said


def test_picture(tmp_path: Path) -> None:
    write_dataset(tmp_path / "data", 5, seed=0, layers=LAYERS)
    picture = replay.plot_dataset(replay.inspect_dataset(tmp_path / "data"), tmp_path / "data.png")
    assert picture.read_bytes().startswith(b"\x89PNG")
    write_dataset(tmp_path / "few", 1, seed=1, layers=(0, 16), max_new_tokens=5)
    replay.plot_dataset(replay.inspect_dataset(tmp_path / "few"), tmp_path / "few.svg")
    with pytest.raises(replay.DatasetError, match=r"must end in one of .*\.png"):
        replay.plot_dataset(replay.inspect_dataset(tmp_path / "few"), tmp_path / "few.bmp2")
    start(tmp_path / "none")
    with pytest.raises(replay.DatasetError, match="no transitions yet"):
        replay.inspect_dataset(tmp_path / "none")


def test_examples_of_the_readme(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    readme = Path(__file__).parents[2] / "data" / "README.md"
    monkeypatch.chdir(tmp_path)
    write_dataset(Path("data/lede-tiny"), 10, seed=0, layers=LAYERS)
    write_dataset(Path("data/more"), 10, seed=1, layers=LAYERS)
    shutil.copytree("data/more", "data/lede-tiny", dirs_exist_ok=True)
    examples = re.findall(r"```python\n(.*?)```", readme.read_text(), re.DOTALL)
    assert len(examples) >= 5
    exec("\n".join(examples), {})
