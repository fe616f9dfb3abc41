"""Decisions of what is served become a dataset to learn from, and no answer waits for it or differs by it."""

import contextlib
import json

import httpx
import polars as pl
import pytest
from typer.testing import CliRunner

import lede.collect.collector
import lede.replay.folder
from lede import replay
from lede.cli import app
from lede.collect.collector import CollectConfig
from lede.collect.errors import PromptError
from lede.collect.prompts import load_prompts
from lede.collect.served import Recorder
from lede.policy import load_policy
from lede.replay.split import episode_splits
from tests.collect.small import COSTS, collected, tables, tiny_model
from tests.serve.serving import serving, wait_for
from tests.serve.test_generate import random_policy

PROMPTS = [f"def f{i}(x): return x + {i}" for i in range(24)]


@pytest.fixture(scope="module")
def model():
    return tiny_model(eos_token_id=None)


@pytest.fixture
def policy(model, tmp_path):
    random_policy(model).save(tmp_path / "policy")
    return tmp_path / "policy"


@contextlib.contextmanager
def recording(model, policy, out, monkeypatch, **options):
    """A server that records, without the time to measure costs."""
    monkeypatch.setattr(lede.collect.collector, "measure", lambda model: COSTS)
    recorder = Recorder(model, load_policy(policy), out, **options)
    try:
        with serving(model, {"lede": policy}, recorded=recorder, steer=recorder.rule) as served:
            yield served
    finally:
        recorder.close()


def texts(served, prompts=PROMPTS, **options):
    answers = [served.post(prompt=prompt, max_tokens=16, **options) for prompt in prompts]
    return [answer.json()["choices"][0]["text"] for answer in answers]


def test_a_policy_is_learned_from_what_was_served_without_its_text(model, policy, tmp_path, monkeypatch):
    with serving(model) as plain:
        expected = texts(plain)
    with recording(model, policy, tmp_path / "served", monkeypatch, epsilon=0.3) as served:
        assert texts(served) == expected
        texts(served, PROMPTS[:1], lede={"policy": None})  # no decisions: not recorded
    dataset = replay.open_dataset(tmp_path / "served")
    episodes, rows = dataset.episodes.collect(), dataset.transitions.collect()
    assert len(episodes) == len(PROMPTS)
    assert episodes["task"].unique().to_list() == ["served"]
    assert episodes["prompt_tokens"].list.len().sum() + episodes["output_tokens"].list.len().sum() == 0
    assert rows["draft_token"].unique().to_list() == rows["target_token"].unique().to_list() == [-1]
    assert rows["propensity"].min() < 1 and rows["conf_trace"].max() > 0 and rows["lookup_length"].max() > 0
    assert replay.verify(tmp_path / "served") == []
    assert set(episode_splits(dataset).split) == {"train", "validation", "test"}
    out = tmp_path / "next"
    arguments = ["--dataset", tmp_path / "served", "--out", out, "--updates", 20, "--json"]
    done = CliRunner().invoke(app, ["learn", *map(str, arguments)])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["updates"] == 20
    with serving(model, {"lede": policy}) as served:
        assert served.post("/admin/policy", folder=str(out)).status_code == 200
        assert texts(served, PROMPTS[:3]) == expected[:3]


def test_with_its_text_and_over_restarts(model, policy, tmp_path, monkeypatch):
    out = tmp_path / "served"
    for _ in range(2):
        with recording(model, policy, out, monkeypatch, with_text=True) as served:
            answer = served.post(prompt=PROMPTS[0], max_tokens=16, stop=" never")
            with pytest.raises(replay.DatasetError, match=r"writer 0 of run .* is at work"):
                Recorder(model, load_policy(policy), out, with_text=True)
    dataset = replay.open_dataset(out)
    episodes = dataset.episodes.collect().sort("episode")
    assert episodes["episode"].to_list() == [0, 1]
    assert model.tokenizer.decode(episodes["prompt_tokens"][0].to_list()) == PROMPTS[0]
    assert model.tokenizer.decode(episodes["output_tokens"][0].to_list()) == answer.json()["choices"][0]["text"]
    assert dataset.transitions.filter(pl.col("propensity") < 1).collect().is_empty()
    assert replay.verify(out) == []
    (prompt,) = load_prompts(out)
    assert prompt.tokens == tuple(episodes["prompt_tokens"][0]) and prompt.group == episodes["group"][0]


def test_sampled_answers_are_collected_again_exactly(model, policy, tmp_path, monkeypatch):
    out, again = tmp_path / "served", tmp_path / "again"
    with recording(model, policy, out, monkeypatch, with_text=True) as served:
        told = [served.post(prompt=PROMPTS[0], max_tokens=16, temperature=1.3, seed=seed) for seed in (5, -3, None)]
        told.append(served.post(prompt=PROMPTS[0], max_tokens=16, top_p=0.8, temperature=0.9, top_k=7, seed=5))
        told.append(served.post(prompt=PROMPTS[0], max_tokens=16))
    prompts = load_prompts(out)
    assert len(prompts) == 5
    collected(again, CollectConfig(5, (0, 1, 2), max_new_tokens=16, temperature=None), model, prompts)
    texts = [row["output_tokens"] for row in tables(again)["episodes"].iter_rows(named=True)]
    assert [model.tokenizer.decode(ids) for ids in texts] == [a.json()["choices"][0]["text"] for a in told]
    assert replay.verify(out) == replay.verify(again) == []


def test_sampled_text_is_recorded_with_the_seed_that_it_was_drawn_with(model, policy, tmp_path, monkeypatch):
    def sample(served, **seed):
        (text,) = texts(served, PROMPTS[:1], temperature=1.5, **seed)
        return text

    with recording(model, policy, tmp_path / "served", monkeypatch) as served:
        first = [sample(served), sample(served, seed=0), sample(served, seed=7)]
    seeds = replay.open_dataset(tmp_path / "served").episodes.collect().sort("episode")["seed"].to_list()
    assert seeds[0] > 0 and seeds[1:] == [0, 7]
    with serving(model, {"lede": policy}) as served:
        assert [sample(served, seed=seed) for seed in seeds] == first


def test_without_its_text_there_are_no_prompts_to_collect_again_from(model, policy, tmp_path, monkeypatch):
    with recording(model, policy, tmp_path / "served", monkeypatch) as served:
        texts(served, PROMPTS[:2])
    with pytest.raises(PromptError, match="recorded without their tokens"):
        load_prompts(tmp_path / "served")


def test_turns_of_a_conversation_stay_together(model, policy, tmp_path, monkeypatch):
    monkeypatch.setattr(model.tokenizer, "chat_template", "{% for m in messages %}{{ m.content }}{% endfor %}")
    turns = [{"role": role, "content": f"{role} {i}"} for i in range(3) for role in ("user", "assistant")]
    with recording(model, policy, tmp_path / "served", monkeypatch) as served:
        for messages in (turns[:1], turns[:3], turns[2:3]):
            assert served.post("/v1/chat/completions", messages=messages, max_tokens=16).status_code == 200
    groups = replay.open_dataset(tmp_path / "served").episodes.collect().sort("episode")["group"].to_list()
    assert groups[0] == groups[1] != groups[2]


def test_a_disk_that_cannot_be_written_fails_no_answer(model, policy, tmp_path, monkeypatch, caplog):
    def full(*given):
        raise OSError(28, "No space left on device", "somewhere")

    with recording(model, policy, tmp_path / "served", monkeypatch) as served:
        with monkeypatch.context() as broken:
            broken.setattr(lede.replay.folder, "stage", full)
            broken.setattr(served.worker._recorded._writer, "_wait", 0.0)
            texts(served, PROMPTS[:4])
            wait_for(lambda: caplog.text.count("wait to be written") == 4)
        assert httpx.get(f"{served.url}/health").status_code == 200
        texts(served, PROMPTS[4:6])
    assert "No space left on device" in caplog.text
    assert replay.open_dataset(tmp_path / "served").episodes.collect()["episode"].to_list() == [0, 1, 2]
