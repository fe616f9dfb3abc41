"""Serving: a policy changes how a text is written, never what it says; text is handed on as it is written."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import LogitsProcessorList, RepetitionPenaltyLogitsProcessor

from lede.decode.errors import ModelError
from lede.decode.facts import model_facts
from lede.decode.load import from_transformers
from lede.policy import Policy, PolicyError
from lede.serve.generate import _tell, generate, policy_rule
from tests.models import byte_llama, byte_tokenizer, library_text

PROMPT = "def mean(values):"
FEATURES = ("conf_topk", "margin", "lookup_length", "draft_index", "layer=0", "layer=1", "layer=2")


@pytest.fixture(scope="module")
def model():
    return from_transformers(byte_llama(), torch.float32, tokenizer=byte_tokenizer(), name="tiny")


def random_policy(model, seed: int = 0) -> Policy:
    rng = np.random.default_rng(seed)
    sizes = (len(FEATURES), 8, 2)
    weights = tuple((rng.normal(size=(o, i)).astype("f4"), rng.normal(size=o).astype("f4")) for i, o in pairwise(sizes))
    zeros, ones = np.zeros(sizes[0], "f4"), np.ones(sizes[0], "f4")
    return Policy(FEATURES, (0, 1, 2), weights, zeros, ones, {"model": model_facts(model)})


def test_any_policy_writes_the_library_s_text(model):
    ids = tuple(model.tokenizer(PROMPT)["input_ids"])
    expected = library_text(byte_llama(), ids, max_new_tokens=40)
    ways = set()
    for policy in (None, *(random_policy(model, seed) for seed in range(6))):
        done = generate(model, PROMPT, policy, max_new_tokens=40)
        assert done.token_ids == expected
        assert done.text == model.tokenizer.decode(expected, skip_special_tokens=True)
        assert done.prompt_ids == ids
        ways.add(tuple(len(round_.drafts) for round_ in done.rounds))
    assert len(ways) > 3
    assert generate(model, list(ids), None, max_new_tokens=40).token_ids == expected


GREEDY, WARM, BOTH = (
    {"training": {"temperatures": {"min": low, "max": high, "sampled": share}}}
    for low, high, share in ((0.0, 0.0, 0.0), (0.6, 0.8, 1.0), (0.0, 0.8, 0.5))
)


@pytest.mark.parametrize(
    ("info", "temperature", "told"),
    [
        (GREEDY, 0.0, None),
        (GREEDY, 0.7, "learned from greedy texts, and this one is sampled at 0.7"),
        ({}, 0.7, None),
        (WARM, 0.0, "learned from texts sampled at temperatures from 0.6 to 0.8, and this one is greedy"),
        (WARM, 0.3, None),
        (WARM, 1.1, None),
        (WARM, 1.2, "learned from texts sampled at temperatures from 0.6 to 0.8, and this one is sampled at 1.2"),
        (BOTH, 0.0, None),
        (BOTH, 0.4, None),
        (BOTH, 1.5, "sampled at 1.5"),
    ],
)
def test_texts_unlike_those_learned_from_are_warned_of_once(model, caplog, info, temperature, told):
    _tell.cache_clear()
    policy = replace(random_policy(model), info={"model": model_facts(model)} | info)
    texts = [generate(model, PROMPT, policy, max_new_tokens=4, temperature=temperature, seed=1) for _ in range(2)]
    warned = [record for record in caplog.records if record.name == "lede"]
    assert len(warned) == (told is not None)
    assert told is None or (warned[0].levelname == "WARNING" and told in warned[0].getMessage())
    plain = generate(model, PROMPT, None, max_new_tokens=4, temperature=temperature, seed=1)
    assert {done.token_ids for done in texts} == {plain.token_ids}


def test_a_policy_s_decisions_are_greedy_in_its_values(model):
    policy = random_policy(model, 1)
    rule = policy_rule(model, policy)
    done = generate(model, PROMPT, policy, max_new_tokens=40)
    decisions = [d for round_ in done.rounds for d in round_.decisions if not d.forced]
    assert decisions
    for state, action, *_ in decisions:
        columns = state._asdict() | {f"layer={layer}": float(state.layer == layer) for layer in (0, 1, 2)}
        go_on, exit_ = policy.values(np.array([columns[name] for name in FEATURES], "f4"))
        assert action == (exit_ > go_on)
    assert rule.name == "lede"
    assert policy_rule(model, None).layers == ()


def test_a_policy_may_be_named_by_its_folder(model, tmp_path):
    random_policy(model).save(tmp_path / "policy")
    by_folder = generate(model, PROMPT, tmp_path / "policy", max_new_tokens=30)
    by_value = generate(model, PROMPT, random_policy(model), max_new_tokens=30)
    assert [round_.drafts for round_ in by_folder.rounds] == [round_.drafts for round_ in by_value.rounds]


def test_a_policy_of_another_model_is_refused(model):
    other = from_transformers(byte_llama(num_hidden_layers=5), torch.float32, name="other")
    with pytest.raises(PolicyError, match=r"is for other with another number of layers \(5\) than tiny has \(4\)"):
        generate(model, PROMPT, random_policy(other))


def test_options_reach_the_decoder(model):
    plain = generate(model, PROMPT, max_new_tokens=20)
    assert len(plain.token_ids) == 20
    assert generate(model, PROMPT, max_new_tokens=20, temperature=1.0, top_k=1).token_ids == plain.token_ids
    warm = [generate(model, PROMPT, max_new_tokens=20, temperature=2.0, seed=seed).token_ids for seed in (1, 1, 2)]
    assert warm[0] == warm[1] != warm[2]
    narrow = generate(model, PROMPT, max_new_tokens=20, temperature=2.0, top_p=1e-6, seed=1)
    assert narrow.token_ids == plain.token_ids
    penalty = LogitsProcessorList([RepetitionPenaltyLogitsProcessor(1.5)])
    assert generate(model, PROMPT, max_new_tokens=20, logits_processor=penalty).token_ids != plain.token_ids
    characters = (model.tokenizer.decode([token]) for token in plain.token_ids)
    end = next(c for c in characters if c.isascii() and c.isprintable())
    assert generate(model, PROMPT, max_new_tokens=20, stop_strings=(end,)).finish == "stop_string"
    with pytest.raises(ModelError):
        generate(model, PROMPT, max_new_tokens=0)


def test_rounds_are_handed_on_as_they_are_committed(model):
    seen = []
    done = generate(model, PROMPT, random_policy(model), max_new_tokens=30, on_round=seen.append)
    assert tuple(seen) == done.rounds
