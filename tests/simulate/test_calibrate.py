"""`lede calibrate`, from the model to the file and the picture."""

import json

from typer.testing import CliRunner

from lede.cli import app
from lede.decode.facts import model_facts
from lede.decode.load import load_model
from lede.simulate.calibration import calibrate, load_calibration
from tests.collect.small import tiny_model


def test_a_calibration_says_what_it_is_of():
    model = tiny_model()
    found = calibrate(model, 0.0)
    assert found.model == model_facts(model)
    assert (found.dtype, found.device["type"], found.costs.layers) == ("float32", "cpu", 4)
    assert {"lede", "torch"} <= found.versions.keys()


def test_the_command_writes_and_prints(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["calibrate", "--model", str(checkpoint), "--seconds", "0", "--threads", "1", "--dtype", "float32"]
    shown = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    default = tmp_path / "data" / f"{checkpoint.name}.calibration.json"
    assert "a token of plain decoding" in shown.output
    assert default.name in shown.output
    model = model_facts(load_model(str(checkpoint), "float32", "cpu"))
    assert load_calibration(default, model).costs.plain() > 0
    out = tmp_path / "own.json"
    printed = CliRunner().invoke(app, [*arguments, "--json", "--out", str(out)])
    assert json.loads(printed.stdout) == json.loads(out.read_text())


def test_a_folder_is_no_file(tmp_path):
    refused = CliRunner().invoke(app, ["calibrate", "--out", str(tmp_path)])
    assert refused.exit_code == 2
    assert "is a folder" in refused.output
