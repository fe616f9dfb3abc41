"""Candidates that a dataset was not collected with, from its sweeps and tokens."""

from dataclasses import replace

import numpy as np
import pytest

from lede.learn.config import preset
from lede.learn.data import Source
from lede.learn.errors import LearnError
from lede.learn.rate import reach_probability
from lede.learn.train import learn
from lede.replay.reader import open_dataset
from lede.replay.schema import CONTINUE, DRAFT, EXIT, MAX_DRAFTS, WALK
from lede.simulate.relive import DRAFT_CHANCE, explored, texts_at
from lede.simulate.texts import LOOKUPS, SWEPT, read_texts
from tests.collect.small import CONFIG, collected

QUICK = {"updates": 40, "score_every": 20, "batch_size": 16, "hidden": (8,)}
EVERY = ("states", "found", "right", "drafts")


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """The same episodes, collected with layer 0 among the candidates and without."""
    folder = tmp_path_factory.mktemp("relive")
    collected(folder / "with", CONFIG)
    collected(folder / "without", replace(CONFIG, layers=(1, 2)))
    return {name: open_dataset(folder / name) for name in ("with", "without")}


@pytest.fixture(scope="module")
def texts(paths):
    episodes = {name: np.unique(dataset.columns().episodes) for name, dataset in paths.items()}
    return texts_at(paths["without"], episodes["without"], (0, 1, 2)), read_texts(paths["with"], episodes["with"])


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
    with pytest.raises(LearnError, match="nothing of layer 3: its candidates are 1, 2"):
        texts_at(paths["without"], np.array([0]), (1, 3))


def test_explored_rounds_follow_the_texts(texts):
    swept = texts[1]
    numbers = np.arange(len(swept.lengths)) + 5
    columns = explored(swept, numbers, seed=1)
    names = columns.feature_names
    drafts = (columns.raw["phase"] == DRAFT) | (columns.actions == EXIT)
    position, astray = {int(number): 0 for number in numbers}, 0
    for start, stop, cut in zip(columns.chain_starts, columns.chain_starts[1:], columns.truncated, strict=False):
        n = int(columns.episodes[start]) - 5
        at, rows = position[n + 5], range(start, stop)
        good = 0
        while not swept.found[n, at].any() or at == swept.lengths[n] - 1:
            at += 1  # a plain token, which no decision precedes
        for row in rows:
            layer, index = int(columns.raw["layer"][row]), int(columns.raw["draft_index"][row])
            c, here = swept.layers.index(layer), at + index - 1
            token, state = swept.drafts[n, here, c], dict(zip(SWEPT, swept.states[n, here, c], strict=True))
            if layer == 0 and good < index - 1:  # behind a wrong copy
                copied = swept.copies.number[n, at + good], index - good - 2
                token = swept.copies.tokens[copied]
                state |= dict(zip(SWEPT[LOOKUPS], swept.copies.states[copied], strict=True))
                astray += 1
            assert columns.raw["draft_token"][row] == token
            assert columns.raw["target_token"][row] == swept.targets[n, here]
            for name in ("entropy", "margin", "top1_logp", "lookup_length", "lookup_agreement"):
                assert columns.observations[row, names.index(name)] == state[name]
            assert columns.observations[row, names.index("conf_trace")] == swept.states[n, at, c, 2]
            good += bool(drafts[row] and columns.raw["accepted"][row])
            forced, exits = bool(columns.raw["forced"][row]), columns.actions[row] == EXIT
            if columns.raw["phase"][row] == DRAFT:
                expected = 1.0 if forced else DRAFT_CHANCE if exits else 1 - DRAFT_CHANCE
                assert columns.propensities[row] == pytest.approx(expected)
        longest = min(MAX_DRAFTS, int(swept.lengths[n]) - at - 1)
        assert drafts[start:stop].sum() <= longest
        assert cut == (drafts[start:stop].sum() == longest < MAX_DRAFTS)
        position[n + 5] = at + good + 1
    assert astray > 5
    walk = columns.raw["phase"] == WALK
    assert (columns.actions[walk & columns.raw["forced"]] == EXIT).all()
    reach = reach_probability(columns)
    assert reach[walk].min() > 0.05 and columns.actions[walk].mean() not in (0, 1)
    again = explored(swept, numbers, seed=1)
    np.testing.assert_array_equal(again.observations, columns.observations)
    assert (columns.actions == CONTINUE).any() and not columns.rewards.any()


@pytest.mark.parametrize("options", [{}, {"bypass": True}, {"reward": "accepted"}, {"algorithm": "double_dqn"}])
def test_layer_0_can_be_learned_where_it_was_not_collected(paths, tmp_path, options):
    result = learn(paths["without"].path, tmp_path / "policy", preset(**QUICK, candidates=(0, 1, 2), **options))
    assert result.policy.layers == ((0, 1, 2, 4) if options.get("bypass") else (0, 1, 2))
    assert result.exact and np.isfinite(result.score.rate)


def test_without_sweeps_layer_0_cannot_be_added(tmp_path):
    collected(tmp_path, replace(CONFIG, layers=(1, 2), sweep=False))
    source = Source(open_dataset(tmp_path))
    with pytest.raises(LearnError, match="not every episode was swept"):
        source.view(preset(candidates=(0, 1)))
    assert source.view(preset(candidates=(2,))).train.layers == (2,)
