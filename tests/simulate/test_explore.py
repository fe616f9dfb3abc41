"""Transitions drawn from sweeps: what they say is what the texts say, and they are a dataset like any other."""

from dataclasses import replace

import numpy as np
import pytest

from lede.replay.errors import DatasetError
from lede.replay.inspect import inspect_dataset
from lede.replay.integrity import verify
from lede.replay.reader import open_dataset
from lede.replay.schema import DRAFT, EXIT, WALK
from lede.replay.split import episode_splits
from lede.simulate.explore import DRAFT_CHANCE, explored, write_transitions
from lede.simulate.texts import LOOKUPS, SWEPT, read_texts
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
def test_explored_rounds_follow_the_texts(texts, limit):
    swept, astray = texts[1], 0
    text, rows = explored(swept, 4, limit, seed=1)
    ends = np.append(np.flatnonzero(np.diff(rows["round"]) | np.diff(text)) + 1, len(text))
    drafts = (rows["phase"] == DRAFT) | (rows["action"] == EXIT)
    position = [0] * len(swept.lengths)
    for start, stop in zip(np.append(0, ends[:-1]), ends, strict=True):
        n, here = int(text[start]), slice(start, stop)
        at, good = position[n], 0
        while not swept.found[n, at].any() or at == swept.lengths[n] - 1:
            at += 1  # a plain token, which no decision precedes
        assert (rows["step"][here] == np.arange(stop - start)).all()
        for row in range(start, stop):
            layer, index = int(rows["layer"][row]), int(rows["draft_index"][row])
            c, place = swept.layers.index(layer), at + index - 1
            token, state = swept.drafts[n, place, c], dict(zip(SWEPT, swept.states[n, place, c], strict=True))
            if layer == 0 and good < index - 1:  # behind a wrong copy
                copied = swept.copies.number[n, at + good], index - good - 2
                token = swept.copies.tokens[copied]
                state |= dict(zip(SWEPT[LOOKUPS], swept.copies.states[copied], strict=True))
                astray += 1
            assert rows["draft_token"][row] == token and rows["target_token"][row] == swept.targets[n, place]
            assert rows["position"][row] == swept.prompt_lengths[n] + place
            for name in ("entropy", "margin", "top1_logp", "lookup_length", "lookup_agreement"):
                assert rows[name][row] == state[name]
            right = bool(swept.right[n, place, c]) and good == index - 1
            assert rows["accepted"][row] == right
            good += bool(drafts[row] and right)
            forced, exits = bool(rows["forced"][row]), rows["action"][row] == EXIT
            if rows["phase"][row] == DRAFT:
                chance = 1.0 if forced else DRAFT_CHANCE if exits else 1 - DRAFT_CHANCE
                assert rows["propensity"][row] == pytest.approx(chance)
        longest = min(limit, int(swept.lengths[n]) - at - 1)
        made = drafts[here].sum()
        assert made <= longest
        assert rows["truncated"][stop - 1] == (made == longest < limit) != rows["terminal"][stop - 1]
        assert not (rows["truncated"] | rows["terminal"])[start : stop - 1].any()
        position[n] = at + good + 1
    assert astray > 2
    walk = rows["phase"] == WALK
    assert (rows["action"][walk & rows["forced"]] == EXIT).all() and rows["action"][walk].mean() not in (0, 1)


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
