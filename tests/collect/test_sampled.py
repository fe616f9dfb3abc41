"""Sampled texts are collected like greedy ones: a seed's text whatever is explored, its settings beside it, swept."""

from dataclasses import replace

import polars as pl
import pytest
import torch

from lede import replay
from lede.collect.prompts import Prompt, Sampling
from lede.collect.workers import Workers
from lede.decode.noise import gumbel
from lede.serve.generate import generate
from tests.collect.small import CONFIG, PROMPTS, collected, same, tables, tiny_model

SAMPLED = replace(CONFIG, temperature=0.9, top_k=30, top_p=0.95)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    out = tmp_path_factory.mktemp("sampled") / "data"
    collected(out, SAMPLED)
    return out


@pytest.fixture(scope="module")
def rows(dataset):
    return tables(dataset)


def test_texts_are_those_that_generate_writes_with_their_seeds(dataset, rows):
    model = tiny_model()
    assert replay.verify(dataset) == []
    for row in rows["episodes"].iter_rows(named=True):
        assert (row["temperature"], row["top_k"], row["top_p"], row["options"]) == (0.9, 30, 0.95, "")
        options = {"temperature": 0.9, "top_k": 30, "top_p": 0.95, "max_new_tokens": 40}
        done = generate(model, row["prompt_tokens"], None, seed=row["seed"], **options)
        assert list(done.token_ids) == row["output_tokens"]
    assert rows["episodes"]["output_tokens"].n_unique() == 7  # one prompt, several seeds


def test_every_decision_has_its_draft_s_noise(rows):
    seeds = dict(rows["episodes"].select("episode", "seed").iter_rows())
    decisions = rows["transitions"]
    assert decisions["temperature"].unique().to_list() == pytest.approx([0.9])
    seed = torch.tensor([seeds[episode] for episode in decisions["episode"]], dtype=torch.uint64).view(torch.int64)
    position, token = (torch.tensor(decisions[name].cast(pl.Int64).to_list()) for name in ("position", "draft_token"))
    assert decisions["noise"].to_list() == pytest.approx(gumbel(seed, position, token).tolist(), rel=1e-3)
    real = decisions.filter(pl.col("layer") > 0)
    assert real["token_logp"].max() <= 0 < real["noise_margin"].min()


def test_sweeps_say_what_was_drafted_and_accepted(rows):
    keys = ["episode", "position", "layer"]
    first = rows["transitions"].filter(draft_index=1)
    both = first.join(rows["sweeps"], on=keys, suffix="_swept")
    assert len(both) == len(first) > 100
    for name in ("draft_token", "target_token", "noise", "noise_margin", "token_logp", "conf_topk", "lookup_match"):
        assert both[name].equals(both[f"{name}_swept"], check_names=False), name
    # a walk's draft is right exactly where it is the token that was written
    assert both["accepted"].to_list() == (both["draft_token"] == both["target_token"]).to_list()


def test_exploring_otherwise_writes_the_same_texts(rows, tmp_path):
    collected(tmp_path / "noisy", replace(SAMPLED, explore="noisy", layers=(1, 3)))
    texts = tables(tmp_path / "noisy")["episodes"]["output_tokens"]
    assert texts.to_list() == rows["episodes"]["output_tokens"].to_list()


@pytest.mark.slow
def test_workers_write_the_same_rows(rows, tmp_path):
    with Workers([tiny_model] * 2) as workers:
        collected(tmp_path / "two", SAMPLED, workers)
    assert same(tables(tmp_path / "two"), rows)


def test_greedy_and_sampled_runs_share_a_dataset(tmp_path):
    collected(tmp_path / "data", CONFIG)
    collected(tmp_path / "data", SAMPLED, new_run=True)
    found = tables(tmp_path / "data")
    assert found["episodes"]["temperature"].value_counts().sort("temperature").rows() == [(0.0, 7), (0.9, 7)]
    greedy = found["sweeps"].filter(temperature=0.0)
    assert len(greedy) and greedy.select("noise", "noise_margin", "token_logp").sum().row(0) == (0, 0, 0)
    assert replay.verify(tmp_path / "data") == []


def test_prompts_that_were_served_come_with_their_settings(tmp_path):
    options = {"temperature": 1.1, "top_k": 9, "top_p": 1.0, "repetition_penalty": 1.3}
    prompts = [replace(PROMPTS[0], sampling=Sampling(2**64 - 7, options)), Prompt("greedy", "test", "abab")]
    collected(tmp_path / "data", replace(CONFIG, episodes=2, temperature=None), prompts=prompts)
    sampled, greedy = tables(tmp_path / "data")["episodes"].iter_rows(named=True)
    assert (sampled["seed"], sampled["temperature"], sampled["top_k"]) == (2**64 - 7, 1.1, 9)
    assert sampled["options"] == '{"repetition_penalty": 1.3}'
    done = generate(tiny_model(), PROMPTS[0].text, None, seed=-7, max_new_tokens=40, **options)
    assert sampled["output_tokens"] == list(done.token_ids)
    assert greedy["temperature"] == 0 and greedy["options"] == ""
