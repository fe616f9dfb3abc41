"""Where texts part, and by how much: on a real decoder, with a method that is wrong on purpose."""

from dataclasses import replace

import pytest
import torch

from lede.bench.differences import differences, next_logits
from lede.bench.measure import Method, measure, prompt_seed, rule_method
from lede.decode.generate import generate
from lede.decode.noise import gumbel
from lede.decode.rules import Autoregressive, LayerSkip
from lede.decode.sampling import Settings
from tests.models import ours, variant

SETTINGS = Settings(16)
PROMPTS = [("a", "t", [3, 1, 4]), ("b", "t", [5, 9, 2, 30, 7, 1])]


def wrong(model, position: int, token: int) -> Method:
    """Plain decoding with one token exchanged, and what the model writes after it."""

    def run(ids, seed):
        done = generate(model, ids, None, SETTINGS)
        text = (*done.token_ids[:position], token)
        rest = generate(model, [*ids, *text], None, Settings(SETTINGS.max_new_tokens - len(text)))
        return replace(done, token_ids=text + rest.token_ids)

    return Method("wrong", run)


def test_a_wrong_token_is_found_and_its_margin_is_that_of_the_logits():
    model, theirs = ours("grouped"), variant("grouped")
    plain = rule_method(model, Autoregressive(), SETTINGS)
    methods = [plain, rule_method(model, LayerSkip(2, 3), SETTINGS), wrong(model, 5, 60)]
    samples = list(measure(model, methods, PROMPTS))
    found = differences(model, samples, {p: ids for p, _, ids in PROMPTS})
    assert [(d.method, d.prompt, d.position, d.other) for d in found] == [("wrong", p, 5, 60) for p in "ab"]
    for d, (_, _, ids) in zip(found, PROMPTS, strict=True):
        plain = next(s for s in samples if (s.method, s.prompt_id) == ("autoregressive", d.prompt)).token_ids
        logits = theirs(torch.tensor([[*ids, *plain[:5]]])).logits[0, -1]
        assert d.token == plain[5] == int(logits.argmax())
        assert d.margin == pytest.approx(float(logits[d.token] - logits[60]), abs=1e-3)
        assert d.margin > 0


@pytest.mark.parametrize("name", ["grouped", "odd"])  # tokens chosen natively, and by the library's code
def test_the_margin_of_a_sampled_text_is_that_of_log_p_and_noise(name):
    model, theirs, (prompt_id, _, ids) = ours(name), variant(name), PROMPTS[1]
    settings = replace(SETTINGS, temperature=0.8, top_k=12, seed=5)
    (sample,) = measure(model, [rule_method(model, Autoregressive(), settings)], PROMPTS[1:], settings.seed)
    seed, plain = prompt_seed(settings.seed, ids), sample.token_ids
    logp = torch.log_softmax(theirs(torch.tensor([[*ids, *plain[:6]]])).logits[0, -1] / 0.8, -1)
    kept = logp.topk(12).indices
    total = logp.double() + gumbel(seed, len(ids) + 6, torch.arange(len(logp)))
    second, third = kept[total[kept].argsort(descending=True)[1:3]].tolist()
    cut = int(logp.argmin())
    for other, margin in (
        *((token, float(total[plain[6]] - total[token])) for token in (second, third)),
        (cut, float(logp[kept].min() - logp[cut])),
    ):
        wrong = replace(sample, method="wrong", token_ids=(*plain[:6], other, *plain[7:]))
        (found,) = differences(model, [sample, wrong], {prompt_id: ids}, settings)
        assert (found.position, found.token, found.other) == (6, plain[6], other)
        assert found.margin == pytest.approx(margin, abs=1e-3) and found.margin > 0


def test_a_text_that_ended_has_a_position_and_no_margin():
    model = ours("grouped")
    (sample,) = measure(model, [rule_method(model, Autoregressive(), SETTINGS)], PROMPTS[:1])
    short = replace(sample, method="short", token_ids=sample.token_ids[:7])
    other = replace(sample, method="other prompt", prompt_id="x", token_ids=())
    (found,) = differences(model, [sample, short, other], {"a": PROMPTS[0][2]})
    assert (found.method, found.position, found.token) == ("short", 7, sample.token_ids[7])
    assert (found.other, found.margin) == (None, None)


def test_logits_of_one_token_and_of_a_text_longer_than_a_block():
    model, theirs = ours("grouped"), variant("grouped")
    for length in (1, 2, 100):
        ids = [(7 * i) % 61 for i in range(length)]
        assert torch.allclose(next_logits(model, ids), theirs(torch.tensor([ids])).logits[0, -1], atol=1e-3)
