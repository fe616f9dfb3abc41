"""Conversations: every turn is an episode behind the model's own answers, however often collecting is stopped."""

from dataclasses import replace

import pytest

from lede import replay
from lede.bench.job import spoken
from lede.collect.collector import CollectConfig
from lede.collect.prompts import Prompt
from lede.decode.errors import ModelError
from lede.decode.generate import encode, generate
from lede.decode.sampling import Settings
from tests.collect.small import collected, same, tables, tiny_model

TEMPLATE = "{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}a:"
TOKENS = 8


def said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


PROMPTS = [
    Prompt("talk", "chat", "Hi", messages=(said("Hi"),), turns=("And?", "So?")),
    Prompt("plain", "text", "x = [1, "),
    Prompt("short", "chat", "Why", messages=({"role": "system", "content": "Be kind"}, said("Why")), turns=("How",)),
]
CONFIG = CollectConfig(episodes=8, layers=(0, 1), max_drafts=6, max_new_tokens=TOKENS, sweep=True, seed=3)


@pytest.fixture(scope="module")
def model():
    model = tiny_model()
    model.tokenizer.chat_template = TEMPLATE
    return model


@pytest.fixture(scope="module")
def dataset(model, tmp_path_factory):
    out = tmp_path_factory.mktemp("collect") / "data"
    assert collected(out, CONFIG, model, PROMPTS).episodes == 8
    return out


def test_a_turn_goes_on_from_all_that_was_said(dataset, model):
    assert replay.verify(dataset) == []
    episodes = tables(dataset)["episodes"].rows(named=True)
    names = ["talk", "talk/2", "talk/3", "plain", "short", "short/2", "talk", "talk/2"]
    assert [e["prompt_id"] for e in episodes] == names
    answers = [model.tokenizer.decode(e["output_tokens"], skip_special_tokens=True) for e in episodes]
    third = f"u:Hi\na:{answers[0]}\nu:And?\na:{answers[1]}\nu:So?\na:"
    assert model.tokenizer.decode(episodes[2]["prompt_tokens"]) == third
    assert model.tokenizer.decode(episodes[5]["prompt_tokens"]) == f"s:Be kind\nu:Why\na:{answers[4]}\nu:How\na:"
    assert len({(e["group"], e["split"]) for e in episodes}) == len(PROMPTS)


@pytest.mark.parametrize("first", [1, 2, 5])
def test_going_on_inside_a_conversation_gives_the_same_rows(dataset, model, tmp_path, first):
    collected(tmp_path / "data", replace(CONFIG, episodes=first), model, PROMPTS)
    more = collected(tmp_path / "data", CONFIG, model, PROMPTS)
    assert (more.resumed, more.episodes, more.skipped) == (first, 8 - first, 0)
    assert same(tables(tmp_path / "data"), tables(dataset))


def test_a_bench_speaks_each_turn_behind_plain_decoding(model):
    turns = spoken(model, PROMPTS, Settings(TOKENS))
    assert [p.id for p in turns] == ["talk", "talk/2", "talk/3", "plain", "short", "short/2"]
    answer = generate(model, encode(model, PROMPTS[0].content), settings=Settings(TOKENS)).text
    assert turns[1].messages == (said("Hi"), {"role": "assistant", "content": answer}, said("And?"))
    long = Prompt("long", "chat", "x", messages=(said("x" * (model.context - 10)),), turns=("y", "z"))
    assert [p.id for p in spoken(model, [long], Settings(TOKENS))] == [
        "long",
        "long/2",
    ]  # which has no room and is left out


def test_without_a_template_a_conversation_is_refused():
    with pytest.raises(ModelError, match="the model tiny has no chat template"):
        encode(tiny_model(), PROMPTS[0].content)
