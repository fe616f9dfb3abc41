"""The GPU's command on a CPU, at a tiny size."""

import json
import subprocess
import sys

import pytest
import torch

from lede.collect import collector
from lede.decode.generate import generate
from lede.decode.load import load_model
from lede.decode.rules import LayerSkip
from lede.decode.sampling import Settings
from lede.paths import default_model_path
from tests.bench import gpu
from tests.collect.small import COSTS


def test_the_command_writes_what_it_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(collector, "measure", lambda model: COSTS)  # or this would take long
    for name, value in {"COPIED": 2**20, "PROMPTS": 1, "TOKENS": 6}.items():
        monkeypatch.setattr(gpu, name, value)
    file = gpu.main(["--models", "small", "--device", "cpu", "--out", str(tmp_path / "results")])
    found = json.loads(file.read_text())
    assert file.parent == tmp_path / "results"
    assert found["device"]["type"] == "cpu" and found["device"]["name"]
    names = ["small, float32", "small, bfloat16"]
    assert list(found["models"]) == names
    for name in names:
        of_model = found["models"][name]
        assert of_model["share_of_copy"] > 0 and of_model["collected_decisions_per_s"] > 0
        rules = of_model["rules"]
        assert {"autoregressive", "layerskip", "kangaroo", "del", "cascade", "ucb", "tapout"} < rules.keys()
        assert all(row["differing_texts"] == row["differing_tokens"] == 0 for row in rules.values())
        assert all(row["waits_per_round"] is None for row in rules.values())


def test_the_embedded_model_has_its_policy():
    rules = gpu.rules_of(load_model(default_model_path(), "float32", "cpu"))
    assert [rules[0].name, rules[-1].name] == ["autoregressive", "lede"]


def test_early_exits_of_random_weights_mostly_agree():
    model = gpu.made("small", torch.float32, torch.device("cpu"))
    text = generate(model, list(range(20)), LayerSkip(2, 4), Settings(60))
    assert 0.6 < text.acceptance < 1
    assert len(set(text.token_ids)) > 20  # and the text is no constant


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--models", "gpt-2"], "invalid choice: 'gpt-2'"),
        (["--device", "cuda:99"], "the device 'cuda:99' is not there"),
        (["--device", "gpu"], "gpu"),
    ],
)
def test_what_there_is_not_is_refused(arguments, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        gpu.main(arguments)
    assert said in capsys.readouterr().err


def test_it_needs_no_learning_library():
    check = "import sys, tests.bench.gpu; print({'d3rlpy', 'polars'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True).stdout == "set()\n"
