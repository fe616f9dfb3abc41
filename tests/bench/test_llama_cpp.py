"""llama.cpp over the model's own weights, where it is installed."""

import json

import pytest
import torch
import typer

from lede.bench.errors import BenchError
from lede.decode.generate import generate
from lede.decode.load import load_model
from lede.decode.rules import Autoregressive
from lede.decode.sampling import Settings
from tests.models import llama

pytest.importorskip("gguf")
pytest.importorskip("xllamacpp")
from lede.bench import llama_cpp
from lede.bench.job import Job
from lede.bench.llama_cpp import LlamaCpp
from lede.bench.names import LLAMA_CPPS
from lede.bench.run import bench
from lede.collect.prompts import Prompt
from lede.commands import bench as command

PROMPT = [3, 11, 12, 13, 11, 12, 13, 40, 7]


def saved(folder, **changes):
    """A random Llama whose weights bf16 holds exactly, on disk and as ours in fp32."""
    llama(**changes).to(torch.bfloat16).save_pretrained(folder)
    return load_model(folder, "float32", "cpu"), str(folder)


@pytest.mark.parametrize(
    "sizes", [{}, {"tie_word_embeddings": True, "num_key_value_heads": 4}], ids=["grouped", "tied"]
)
def test_it_writes_our_text_from_the_same_weights(tmp_path, sizes):
    model, path = saved(tmp_path, **sizes)
    plain = generate(model, PROMPT, Autoregressive(), Settings(40)).token_ids
    theirs = LlamaCpp(model, path, "bf16", Settings(40), len(PROMPT))
    assert theirs.write(PROMPT) == plain
    assert theirs.write(PROMPT, match=3, drafts=4) == plain
    assert theirs.write(PROMPT, most=5) == plain[:5]
    assert theirs.method("llama-cpp-bf16").run(PROMPT, 1).token_ids == plain


def test_it_ends_where_ours_ends(tmp_path):
    model, _ = saved(tmp_path)
    stop = generate(model, PROMPT, Autoregressive(), Settings(40)).token_ids[20]
    model, path = saved(tmp_path, eos_token_id=stop)
    ended = generate(model, PROMPT, Autoregressive(), Settings(40))
    assert ended.finish == "stop"
    assert LlamaCpp(model, path, "bf16", Settings(40), len(PROMPT)).write(PROMPT) == ended.token_ids


def test_in_q8_0_most_of_a_text_s_first_tokens_are_the_same(tmp_path):
    model, path = saved(tmp_path)
    plain = generate(model, PROMPT, Autoregressive(), Settings(40)).token_ids
    text = LlamaCpp(model, path, "q8_0", Settings(40), len(PROMPT)).write(PROMPT)
    assert len(text) == 40
    assert text[:4] == plain[:4]


def test_speculation_is_tuned(tmp_path, monkeypatch):
    monkeypatch.setattr(llama_cpp, "SPECULATION", llama_cpp.SPECULATION[:2])
    model, path = saved(tmp_path)
    seen = []
    tuned = LlamaCpp(model, path, "bf16", Settings(8), 9).tune([PROMPT, PROMPT[:4]], lambda *done: seen.append(done))
    assert tuned["parameters"] in llama_cpp.SPECULATION
    assert tuned["measured"] > 0
    assert seen[-1] == (4, 4)


def test_what_it_is_not_given_is_named(tmp_path):
    model, path = saved(tmp_path, rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0})
    with pytest.raises(BenchError, match="'linear' rotary embeddings"):
        LlamaCpp(model, path, "bf16", Settings(8), 9)
    with pytest.raises(BenchError, match="greedy texts only"):
        LlamaCpp(model, path, "bf16", Settings(8, temperature=0.5), 9)


def test_it_is_a_row_of_the_bench(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(llama_cpp, "SPECULATION", llama_cpp.SPECULATION[:1])
    prompts = [Prompt("p0", "toy", "def mean("), Prompt("t0", "toy", "class Tree:")]
    job = Job("toy", prompts[:1], prompts[1:], Settings(6), LLAMA_CPPS, check=True)
    report = bench(load_model(checkpoint, "float32", "cpu"), str(checkpoint), job, tmp_path)
    rows = json.loads(json.dumps(report.to_json()))["rows"]
    assert [row["method"] for row in rows] == ["autoregressive", *LLAMA_CPPS]
    assert all(row["tokens_per_s"] > 0 and row["verify_share"] is None for row in rows[1:])
    assert [row["parameters"] for row in rows] == [None] * 3 + llama_cpp.SPECULATION * 2


def test_one_name_is_all_of_them_and_what_is_missing_is_said(monkeypatch):
    assert command.plan(None, ["autoregressive", "llama-cpp"], {})[0] == ["autoregressive", *LLAMA_CPPS]
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(typer.BadParameter, match="pip install xllamacpp gguf"):
        command.plan(None, ["llama-cpp-q8_0"], {})
