"""Speculative sampling keeps the model's distribution of texts: compared with enumeration, by chi-squared."""

import itertools

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

import lede.decode.source
from lede.decode.errors import ModelError
from lede.decode.generate import generate
from lede.decode.load import from_transformers
from lede.decode.rules import Autoregressive, LayerSkip
from lede.decode.sampling import Greedy, Sampler, Settings, chooser, processors
from tests.models import llama
from tests.rules import RandomRule

VOCABULARY, LENGTH = 8, 3
PROMPT = [1, 2, 5, 1]  # its last token occurred before: the lookup has a guess from the start
LIBRARY = llama(seed=4, vocab_size=VOCABULARY, num_hidden_layers=3)
MODEL = from_transformers(LIBRARY, torch.float32)
DOUBTFUL = 1e-4  # p-values under this are failures; seeds are fixed, so a pass stays a pass


def exact(settings: Settings) -> torch.Tensor:
    """(8, 8, 8): the probability of every three tokens after PROMPT, from the library's logits and warpers."""
    texts = torch.tensor([[*PROMPT, *new] for new in itertools.product(range(VOCABULARY), repeat=LENGTH)])
    with torch.no_grad():
        logits = LIBRARY(texts).logits.double()
    warpers = LogitsProcessorList([TemperatureLogitsWarper(settings.temperature)])
    if settings.top_k:
        warpers.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))
    joint = torch.ones(len(texts), dtype=torch.float64)
    for i in range(len(PROMPT), texts.shape[1]):
        p = torch.softmax(warpers(texts[:, :i], logits[:, i - 1].clone()), -1)
        joint *= p.gather(1, texts[:, i : i + 1])[:, 0]
    return joint.view((VOCABULARY,) * LENGTH)


def observed(rule, settings: Settings, samples: int) -> torch.Tensor:
    """(8, 8, 8): how often every three tokens were written."""
    counts = torch.zeros((VOCABULARY,) * LENGTH, dtype=torch.float64)
    for seed in range(samples):
        options = Settings(LENGTH, settings.temperature, settings.top_k, settings.top_p, seed, stop_tokens=frozenset())
        counts[generate(MODEL, PROMPT, rule, options).token_ids] += 1
    return counts


def p_value(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    """Of the chi-squared test; cells expected less than five times are put together."""
    expected = probabilities * counts.sum() / probabilities.sum()
    if counts[probabilities == 0].any():
        return 0.0
    rare = expected < 5
    seen = torch.cat([counts[~rare], counts[rare].sum()[None]])
    wanted = torch.cat([expected[~rare], expected[rare].sum()[None]])
    seen, wanted = seen[wanted > 0], wanted[wanted > 0]
    statistic = ((seen - wanted) ** 2 / wanted).sum()
    return float(torch.special.gammaincc(torch.tensor((len(seen) - 1) / 2, dtype=torch.float64), statistic / 2))


def agreement(rule, settings: Settings, samples: int) -> float:
    """The smallest p-value over the joint distributions of tokens 1 and 2, of 2 and 3, and of all three."""
    probabilities, counts = exact(settings), observed(rule, settings, samples)
    return min(p_value(counts.sum(axis), probabilities.sum(axis)) for axis in ((0,), (2,), ()))


class Drops(RandomRule):
    """Drops the token at which it stops; which one that is depends on what the layer thinks of it."""

    keeps_last, needs_state = False, True

    def draft_on(self, state):
        return state.token % 2 == 0 or state.top1_logp > -0.7


CASES = {
    "plain": (Autoregressive(), Settings(temperature=1.0)),
    "lookup": (LayerSkip(0, 2), Settings(temperature=1.0)),
    "poor drafts": (LayerSkip(1, 4), Settings(temperature=0.9)),
    "top-k": (RandomRule((0, 1, 2), seed=3), Settings(temperature=1.3, top_k=4)),
    "drops the last": (Drops((1, 2), seed=5), Settings(temperature=1.0)),
    "bypass": (RandomRule((0, 1, 3), seed=6, exit_chance=0.4), Settings(temperature=1.0)),
    "top-p": (LayerSkip(2, 2), Settings(temperature=1.1, top_p=0.8)),
}


@pytest.mark.parametrize("case", CASES)
def test_texts_have_the_distribution_of_the_model(case):
    assert agreement(*CASES[case], samples=1200) > DOUBTFUL


class KeepsEveryDraft(Sampler):
    """Wrong: believes the early layer."""

    def verify(self, logits, prefix, drafts, distributions):
        return len(drafts), [*drafts, super().verify(logits[-1:], prefix + drafts, [], [])[1][0]]


class DraftsTheMostLikely(Sampler):
    """Wrong: judges drafts as if they had been drawn."""

    def draft(self, logits, prefix, drafts):
        _, q = super().draft(logits, prefix, drafts)
        return int(q.argmax()), q


class ReplacesFromTheWholeDistribution(Sampler):
    """Wrong: after a rejection it draws from p, not from what p has and q has not."""

    def verify(self, logits, prefix, drafts, distributions):
        accepted, targets = super().verify(logits, prefix, drafts, distributions)
        if accepted < len(drafts):
            rows = super().verify(logits[accepted : accepted + 1], prefix + drafts[:accepted], [], [])
            targets[accepted] = rows[1][0]
        return accepted, targets


@pytest.mark.parametrize("wrong", [KeepsEveryDraft, DraftsTheMostLikely, ReplacesFromTheWholeDistribution])
def test_the_comparison_sees_a_wrong_correction(wrong, monkeypatch):

    def chooser(settings, model, prompt):
        return wrong(processors(settings, model, prompt, True), settings.seed, model.device)

    monkeypatch.setattr(lede.decode.source, "chooser", chooser)
    assert agreement(*CASES["poor drafts"], samples=1200) < DOUBTFUL / 100


def test_a_seed_names_a_text_and_none_draws_anew():
    def text(seed, rule):
        return generate(MODEL, PROMPT, rule, Settings(40, temperature=1.5, seed=seed)).token_ids

    assert text(7, LayerSkip(1, 4)) == text(7, LayerSkip(1, 4)) != text(8, LayerSkip(1, 4))
    assert text(None, LayerSkip(1, 4)) != text(None, LayerSkip(1, 4))


def test_temperature_zero_is_greedy_and_top_k_of_one_too():
    assert isinstance(chooser(Settings(), MODEL, PROMPT), Greedy)
    greedy = generate(MODEL, PROMPT, None, Settings(30))
    assert (
        generate(MODEL, PROMPT, LayerSkip(1, 4), Settings(30, temperature=1.0, top_k=1)).token_ids == greedy.token_ids
    )


def test_where_p_and_q_differ_by_rounding_alone_a_rejection_draws_from_p():
    sampler = Sampler(LogitsProcessorList(), 0, torch.device("cpu"))
    logits = torch.zeros(2, 4)
    q = torch.full((4,), 0.25)
    q[0] *= 2  # far more than rounding, so that it is met soon
    accepted = [sampler.verify(logits, [0], [0], [q])[0] for _ in range(40)]
    assert set(accepted) == {0, 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.1}, "top_p"),
    ],
)
def test_settings_that_cannot_be_are_refused_by_name(options, message):
    with pytest.raises(ModelError, match=message):
        Settings(**options)


class Transfers(TorchDispatchMode):
    """Counts single numbers that are fetched from the device, each of which waits for it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_judging_drafts_fetches_as_many_numbers_for_eight_as_for_one():
    counts = set()
    for drafts in (1, 8):
        sampler = Sampler(LogitsProcessorList(), 0, torch.device("cpu"))
        logits = torch.zeros(drafts + 1, VOCABULARY)
        certain = torch.nn.functional.one_hot(torch.tensor(3), VOCABULARY).float()
        logits[:, 3] = 50.0  # all are kept
        with Transfers() as transfers:
            assert sampler.verify(logits, PROMPT, [3] * drafts, [certain, None] * (drafts // 2) or [None])[0] == drafts
        counts.add(transfers.count)
    assert len(counts) == 1
