"""Sweeps as arrays: from a dataset's files and from sweeps just made they are the same."""

import dataclasses

import numpy as np
import pytest
import torch

from lede.collect.sweep import sweep
from lede.decode.generate import generate
from lede.decode.noise import gumbel
from lede.decode.sampling import Settings
from lede.decode.state import rounded
from lede.replay.errors import DatasetError
from lede.replay.reader import open_dataset
from lede.simulate.texts import SWEPT, read_texts, texts_of
from tests.models import ours
from tests.replay.synthetic import write_dataset

LAYERS = (0, 1, 3)
PROMPTS = [[3], [5, 9, 2, 30, 7, 1], [4, 4, 4, 4]]


@pytest.fixture(scope="module")
def made():
    """Finished greedy texts of several lengths, and their sweeps."""
    model, done, sweeps = ours("grouped"), [], []
    for i, prompt in enumerate(PROMPTS):
        done.append(generate(model, prompt, None, Settings(20 + 5 * i)))
        sweeps.append(sweep(model, LAYERS, i, done[-1].prompt_ids, done[-1].token_ids))
    return done, sweeps


def test_arrays_hold_what_the_sweeps_say(made):
    done, sweeps = made
    texts = texts_of(sweeps, PROMPTS, LAYERS)
    assert texts.lengths.tolist() == [20, 25, 30]
    assert texts.limits.tolist() == [20, 25, 30]
    assert texts.states.shape == (3, 30, 3, len(SWEPT))
    seen = 0
    for n, (finished, rows) in enumerate(zip(done, sweeps, strict=True)):
        assert tuple(texts.targets[n, : texts.lengths[n]]) == finished.token_ids
        for i, layer in enumerate(rows["layer"]):
            t, c = rows["position"][i] - len(PROMPTS[n]), LAYERS.index(layer)
            assert texts.found[n, t, c]
            assert texts.drafts[n, t, c] == rows["draft_token"][i]
            assert texts.right[n, t, c] == (rows["draft_token"][i] == finished.token_ids[t])
            expected = [rows[name][i] for name in SWEPT]
            assert texts.states[n, t, c].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-7)
            seen += 1
    assert texts.found.sum() == seen  # and nothing else is marked as found
    assert (texts.drafts[~texts.found] == -1).all()
    assert not texts.right[~texts.found].any()


def test_the_noise_of_copies_follows_from_seed_position_and_token():
    """Of guesses as a sweep has them, of guesses made from the tokens alone, and of copies behind a wrong one."""
    model, seeds = ours("grouped"), [2**64 - 3, 0, 77]
    heat = [Settings(40, temperature=0.5, top_k=9, seed=seed) for seed in seeds[:2]] + [Settings(40, seed=77)]
    done = [generate(model, prompt, None, one) for prompt, one in zip(PROMPTS, heat, strict=True)]
    swept, without = (
        [sweep(model, layers, i, d.prompt_ids, d.token_ids, heat[i]) for i, d in enumerate(done)]
        for layers in (LAYERS, LAYERS[1:])
    )
    texts, made = (texts_of(sweeps, PROMPTS, LAYERS, seeds=seeds) for sweeps in (swept, without))
    assert np.array_equal(texts.found, made.found)
    assert np.array_equal(texts.states[texts.found], made.states[made.found])
    assert np.array_equal(texts.copies.states, made.copies.states)
    assert texts.temperatures.tolist() == [0.5, 0.5, 0.0]

    def noise(text, position, token):
        return float(rounded(gumbel(seeds[text], len(PROMPTS[text]) + position, torch.tensor(int(token)))))

    at, column = np.argwhere(texts.found[..., 0]), SWEPT.index("noise")
    assert len({*at[:, 0].tolist()}) == 3
    for n, t in at.tolist():
        wanted = noise(n, t, texts.drafts[n, t, 0]) if n < 2 else 0.0
        assert texts.states[n, t, 0, column] == pytest.approx(wanted, rel=1e-6)
    wrong = np.argwhere(texts.copies.number >= 0)
    assert len(wrong)
    for n, t in wrong.tolist():
        here = texts.copies.number[n, t]
        for k, token in enumerate(texts.copies.tokens[here]):
            wanted = noise(n, t + 1 + k, token) if n < 2 and token >= 0 else 0.0
            seen = texts.copies.seen(np.array(n), np.array(t), np.array(k + 1))
            assert seen[4] == pytest.approx(wanted, rel=1e-6) and seen[3] == 0


def test_limits_and_stops_are_kept(made):
    _, sweeps = made
    texts = texts_of(sweeps, PROMPTS, LAYERS, limits=[40, 40, 30], stops=frozenset({7}))
    assert texts.limits.tolist() == [40, 40, 30]
    assert texts.stops == {7}


def test_a_dataset_gives_the_same_as_its_sweeps(tmp_path):
    write_dataset(tmp_path / "d", episodes=5, seed=3, layers=(0, 4, 6), with_sweeps=True)
    dataset = open_dataset(tmp_path / "d")
    everything = dataset.columns().episodes
    read = read_texts(dataset, everything)
    frame = dataset.sweeps.sort("episode", "position", "layer").collect()
    groups = frame.partition_by("episode", maintain_order=True)
    prompts = dataset.episodes.sort("episode").collect()["prompt_tokens"].to_list()
    seeds = dataset.episodes.sort("episode").collect()["seed"].to_list()
    made = texts_of([group.to_dict(as_series=False) for group in groups], prompts, (0, 4, 6), seeds=seeds)
    assert read.numbers.tolist() == np.unique(everything).tolist()
    read = dataclasses.replace(read, numbers=made.numbers)
    for field in dataclasses.fields(read):
        mine, theirs = getattr(read, field.name), getattr(made, field.name)
        if field.name == "copies":
            assert all(np.array_equal(mine.__dict__[name], value) for name, value in theirs.__dict__.items())
        else:
            assert np.array_equal(mine, theirs) if isinstance(mine, np.ndarray) else mine == theirs, field.name
    some = read_texts(dataset, everything[:1])
    assert len(some.lengths) == 1
    # an episode without a sweep is left out, the others are there
    assert read_texts(dataset, np.append(everything, 10**12)).numbers.tolist() == np.unique(everything).tolist()
    assert not len(read_texts(dataset, np.array([10**12])).lengths)
    for lost in (tmp_path / "d" / "episodes").rglob("*.parquet"):
        lost.unlink()
    with pytest.raises(DatasetError, match="lost the prompts of 5 episodes"):
        read_texts(open_dataset(tmp_path / "d"), everything)
