"""A calibration is used only for what it was measured on."""

import json
from dataclasses import replace

import pytest

from lede.replay.errors import DatasetError
from lede.simulate.calibration import Calibration, load_calibration, save_calibration
from tests.replay.synthetic import COSTS

MODEL = {"name": "m", "revision": None, "config_hash": "1" * 16, "weights_hash": "2" * 16, "layers": 16, "vocab": 100}
MADE = Calibration(
    costs=COSTS,
    model=MODEL,
    dtype="bfloat16",
    device={"type": "cpu", "name": "any", "threads": 2},
    versions={"lede": "0"},
    measured="2026-01-01T00:00:00+00:00",
)


def test_what_is_saved_is_loaded_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "new" / "calibration.json"
    save_calibration(path, MADE)
    assert load_calibration(path, MODEL) == MADE
    later = replace(MADE, measured="2026-01-02T00:00:00+00:00")
    save_calibration(path, later)
    assert load_calibration(path, MODEL) == later
    assert [entry.name for entry in path.parent.iterdir()] == ["calibration.json"]


def test_of_another_model(tmp_path):
    path = tmp_path / "c.json"
    save_calibration(path, MADE)
    load_calibration(path, MODEL | {"name": "the same in another folder", "revision": "main"})
    for name, value in (("config_hash", "3" * 16), ("weights_hash", "3" * 16), ("layers", 8), ("vocab", 99)):
        with pytest.raises(DatasetError, match=f"of the model m, not of m .{name} differ"):
            load_calibration(path, MODEL | {name: value})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": 2}, "not a calibration of format 1"),
        ({"costs": None}, "has no costs"),
        ({"costs": {"layers": 16}}, "costs lack layer"),
        ({"model": []}, "has no model"),
        ({"dtype": 1}, "has no dtype"),
    ],
)
def test_what_is_no_calibration_is_named(tmp_path, change, message):
    path = tmp_path / "c.json"
    path.write_text(json.dumps(MADE.to_json() | change))
    with pytest.raises(DatasetError, match=message) as error:
        load_calibration(path, MODEL)
    assert str(path) in str(error.value)


def test_no_file_and_no_json(tmp_path):
    with pytest.raises(DatasetError, match="does not exist: measure with `lede calibrate`"):
        load_calibration(tmp_path / "none.json", MODEL)
    path = tmp_path / "torn.json"
    path.write_text('{"format": 1,')
    with pytest.raises(DatasetError, match="is not JSON"):
        load_calibration(path, MODEL)
