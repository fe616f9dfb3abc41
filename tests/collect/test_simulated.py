"""Transitions drawn from sweeps: what they say is what the texts say, and they are a dataset like any other."""

from dataclasses import replace

import numpy as np
import pytest

from lede.collect.explore import DRAFT_CHANCE
from lede.collect.simulated import write_transitions
from lede.replay.errors import DatasetError
from lede.replay.inspect import inspect_dataset
from lede.replay.integrity import verify
from lede.replay.reader import open_dataset
from lede.replay.schema import WALK
from lede.replay.split import episode_splits
from lede.simulate.texts import read_texts
from tests.collect.small import CONFIG, collected

EVERY = ("states", "found", "right", "drafts")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """The same episodes, collected with layer 0 among the candidates and without."""
    folder = tmp_path_factory.mktemp("explore")
    collected(folder / "with", CONFIG)
    collected(folder / "without", replace(CONFIG, layers=(1, 2)))
    return {name: open_dataset(folder / name) for name in ("with", "without")}


@pytest.fixture(scope="module")
def texts(paths):
    episodes = {name: episode_splits(dataset).numbers for name, dataset in paths.items()}
    return read_texts(paths["without"], episodes["without"], (0, 1, 2)), read_texts(paths["with"], episodes["with"])


def test_layer_0_is_told_from_the_tokens_alone(texts):
    ours, swept = texts
    assert ours.layers == swept.layers == (0, 1, 2)
    there = np.arange(ours.targets.shape[1]) < ours.lengths[:, None]
    np.testing.assert_array_equal(ours.lengths, swept.lengths)
    np.testing.assert_array_equal(ours.found[there], swept.found[there])
    assert 0.2 < ours.found[there][:, 0].mean() < 1 and ours.right[there][:, 0].any()
    found = there[:, :, None] & swept.found
    for name in EVERY:
        np.testing.assert_array_equal(getattr(ours, name)[found], getattr(swept, name)[found], err_msg=name)


def test_a_layer_that_was_not_swept_is_refused_by_name(paths):
    with pytest.raises(DatasetError, match="nothing of layer 3: its candidates are 1, 2"):
        read_texts(paths["without"], np.array([0]), (1, 3))


@pytest.mark.parametrize("limit", [5, 31])
def test_explored_rounds_follow_the_texts(paths, texts, tmp_path, limit):
    swept = texts[1]
    write_transitions(paths["with"], tmp_path / "out", None, limit, seed=1)
    frame = open_dataset(tmp_path / "out").transitions.sort("episode", "round", "chain", "step").collect()
    assert 2 < frame["draft_index"].max() <= limit
    wrong = set()  # rounds with a wrong draft so far
    for row in frame.iter_rows(named=True):
        n, place, c = row["episode"], row["position"] - swept.prompt_lengths[row["episode"]], row["layer"]
        assert row["target_token"] == swept.targets[n, place]
        right = bool(swept.right[n, place, swept.layers.index(c)])
        drafts = row["phase"] != WALK or row["action"] == 1
        if (n, row["round"]) not in wrong:
            assert row["draft_token"] == swept.drafts[n, place, swept.layers.index(c)] and row["accepted"] == right
        assert row["accepted"] <= ((n, row["round"]) not in wrong)
        if drafts and not right:
            wrong.add((n, row["round"]))
        if row["phase"] != WALK:
            chance = 1.0 if row["forced"] else DRAFT_CHANCE if row["action"] else 1 - DRAFT_CHANCE
            assert row["propensity"] == pytest.approx(chance)
    assert wrong


def test_they_are_written_as_a_dataset_like_any_other(paths, tmp_path):
    out = tmp_path / "simulated"
    count = write_transitions(paths["without"], out, (0, 1, 2), seed=3)
    dataset = open_dataset(out)
    assert not list(verify(out)) and dataset.layers == (0, 1, 2)
    assert [run["simulated"] for run in dataset.runs] == [True]
    columns = dataset.columns(horizon="round", features="extended")
    assert len(columns.actions) == count and inspect_dataset(out)["counts"]["decisions"] == count
    episodes, before = (d.episodes.sort("prompt_id").collect() for d in (dataset, paths["without"]))
    for name in ("prompt_id", "prompt_tokens", "output_tokens", "split", "group"):
        kept = before.filter(before["prompt_id"].is_in(episodes["prompt_id"].to_list()))
        assert episodes[name].to_list() == kept[name].to_list()
    assert write_transitions(paths["without"], out, (0, 1, 2), seed=3) == count  # again: nothing is added
    assert len(open_dataset(out).columns(horizon="round").actions) == count


def test_without_sweeps_there_is_nothing_to_draw_from(tmp_path):
    collected(tmp_path / "d", replace(CONFIG, layers=(1, 2), sweep=False))
    with pytest.raises(DatasetError, match="no sweeps to draw transitions from"):
        write_transitions(open_dataset(tmp_path / "d"), tmp_path / "out")
