"""What commands say to do next can be done: what they name is there. Nothing is exported nowhere."""

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from lede import replay
from lede.cli import app
from lede.commands.learn import _next
from tests.replay.synthetic import facts, header, make_episode


def invoke(*arguments: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "1000"})
    assert done.exit_code == code, done.output
    return done.output


def dataset(path: Path, *prompts: int, cut: bool = False) -> Path:
    """One with the episodes of these prompts; cut: each of one round, cut at its first decision."""
    replay.open_for_writing(path, header())
    run = replay.start_run(path, {"seed": 0}, facts())
    with replay.EpisodeWriter(run) as writer:
        for number in prompts:
            episode, transitions, _ = make_episode(number)
            if cut:
                first = {name: values[:1] for name, values in transitions.items()}
                transitions = first | {"truncated": np.array([True]), "terminal": np.array([False])}
                episode = episode | {"rounds": 1, "drafted": 0, "accepted": 0}
            writer.add(episode, transitions)
    return path


@pytest.mark.parametrize("form", ["csv", "hf", "d3rlpy", "minari"])
def test_nothing_is_exported_as_a_line_and_no_folder(tmp_path, form):
    out = tmp_path / "out"
    said = invoke("export", out, "--to", form, "--dataset", dataset(tmp_path / "d"), code=2)
    assert "has no transitions yet: collect some first" in said
    assert not out.exists()


def test_an_export_names_files_that_are_there(tmp_path):
    path = dataset(tmp_path / "d", *range(30))
    sides = replay.open_dataset(path).episodes.select("split").collect()["split"].unique().to_list()
    assert len(sides) > 1
    alone = dataset(tmp_path / "test", 4)  # prompt 4 is a test prompt: there is no train.h5
    for form, data in (("csv", path), ("d3rlpy", path), ("d3rlpy", alone)):
        said = invoke("export", tmp_path / f"{data.name}-{form}", "--to", form, "--dataset", data)
        (file,) = re.findall(r'"(/[^"]+)"', said)
        assert Path(file).is_file()


@pytest.mark.parametrize("form", ["d3rlpy", "minari"])
def test_decisions_whose_outcome_is_not_known_are_no_episodes(tmp_path, form):
    path, out = dataset(tmp_path / "d", 0, 1, 2, cut=True), tmp_path / "out"
    assert "no decision with a known outcome" in invoke("export", out, "--to", form, "--dataset", path, code=2)
    assert not out.exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("lede-tiny", "lede generate --policy 'a b/p' --prompt"),
        ("SmolLM2", "lede bench --model MODEL --policy 'a b/p' (MODEL: the folder or name of SmolLM2)"),
    ],
)
def test_what_follows_learning_names_the_policy_and_its_model(tmp_path, name, words):
    described = header()
    described["model"]["name"] = name
    replay.open_for_writing(tmp_path / "d", described)
    assert words in _next(replay.open_dataset(tmp_path / "d"), Path("a b/p"))
