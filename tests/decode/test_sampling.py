"""Sampled text: its distribution is the model's (by chi-squared against enumeration), and a seed names one text."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

import lede.decode.sampling as sampling
from lede.decode.backends.choose import Compiled
from lede.decode.choice import Greedy
from lede.decode.errors import ModelError
from lede.decode.generate import generate
from lede.decode.load import from_transformers
from lede.decode.noise import gumbel
from lede.decode.rules import Autoregressive, Del, LayerSkip, Lite
from lede.decode.sampling import USUAL_TOP_K, ByLibrary, Settings, chooser, processors
from tests.models import FIXED, llama, ours
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
    warpers = LogitsProcessorList()
    if (penalty := settings.options.get("repetition_penalty")) is not None:
        warpers.append(RepetitionPenaltyLogitsProcessor(penalty))
    warpers.append(TemperatureLogitsWarper(settings.temperature))
    if settings.top_k:
        warpers.append(TopKLogitsWarper(settings.top_k))
    if settings.top_p < 1:
        warpers.append(TopPLogitsWarper(settings.top_p))
    if (min_p := settings.options.get("min_p")) is not None:
        warpers.append(MinPLogitsWarper(min_p))
    joint = torch.ones(len(texts), dtype=torch.float64)
    for i in range(len(PROMPT), texts.shape[1]):
        p = torch.softmax(warpers(texts[:, :i], logits[:, i - 1].clone()), -1)
        joint *= p.gather(1, texts[:, i : i + 1])[:, 0]
    return joint.view((VOCABULARY,) * LENGTH)


def observed(rule, settings: Settings, samples: int) -> torch.Tensor:
    """(8, 8, 8): how often every three tokens were written."""
    counts = torch.zeros((VOCABULARY,) * LENGTH, dtype=torch.float64)
    drawn = settings.temperature, settings.top_k, settings.top_p
    for seed in range(samples):
        options = Settings(LENGTH, *drawn, seed, stop_tokens=frozenset(), options=settings.options)
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
    """Drops the token at which it stops; which one that is depends on the token itself, and on its noise."""

    keeps_last, needs_state = False, True

    def draft_on(self, state):
        return state.token % 2 == 0 or state.noise_margin > 0.7


CASES = {
    "plain": (Autoregressive(), Settings(temperature=1.0)),
    "lookup": (LayerSkip(0, 2), Settings(temperature=1.0)),
    "poor drafts": (LayerSkip(1, 4), Settings(temperature=0.9)),
    "top-k": (RandomRule((0, 1, 2), seed=3), Settings(temperature=1.3, top_k=4)),
    "drops the last": (Drops((1, 2), seed=5), Settings(temperature=1.0)),
    "bypass": (RandomRule((0, 1, 3), seed=6, exit_chance=0.4), Settings(temperature=1.0)),
    "top-p": (LayerSkip(2, 2), Settings(temperature=1.1, top_p=0.8)),
    "min-p, top-k": (LayerSkip(1, 2), Settings(temperature=1.2, top_k=6, options={"min_p": 0.1})),
    "penalty": (LayerSkip(0, 2), Settings(temperature=1.0, top_p=0.9, options={"repetition_penalty": 1.4})),
}


@pytest.mark.parametrize(("case", "compiled"), [*((case, True) for case in CASES), ("top-p", False)])
def test_texts_have_the_distribution_of_the_model(case, compiled, monkeypatch):
    if not compiled:
        monkeypatch.setattr(sampling, "compiles", lambda model: False)
    rule, options = CASES[case]
    assert isinstance(chooser(options, MODEL, PROMPT), Compiled if compiled else ByLibrary)
    assert agreement(rule, options, samples=1200 if compiled else 400) > DOUBTFUL


def test_the_comparison_sees_noise_that_is_not_the_position_s(monkeypatch):
    """Wrong: one noise for every position."""
    monkeypatch.setattr(sampling, "compiles", lambda model: False)
    monkeypatch.setattr(sampling, "gumbel", lambda seed, position, token: gumbel(seed, 0, token))
    assert agreement(*CASES["plain"], samples=400) < DOUBTFUL / 100


def adversaries(layer_count: int) -> list:
    every = tuple(range(layer_count))
    drops = Drops(every, seed=5)
    return [
        *(LayerSkip(layer, drafts) for layer, drafts in ((0, 12), (1, 40), (layer_count - 1, 2))),
        RandomRule(every, seed=1),
        RandomRule((*every, layer_count), seed=2, exit_chance=0.3, draft_chance=0.9),
        drops,
        Lite(dict.fromkeys(every[1:], 0.4), 6, layer_count),
        Del(every[1:], layer_count),
    ]


SAMPLED = st.builds(
    lambda heat, top_k, top_p, min_p, penalty, seed: Settings(
        60,
        heat,
        top_k,
        top_p,
        seed,
        stop_tokens=frozenset(),
        options={name: x for name, x in (("min_p", min_p), ("repetition_penalty", penalty)) if x is not None},
    ),
    st.sampled_from([0.3, 0.8, 1.0, 1.7]),
    st.sampled_from([0, 1, 3, 50]),
    st.sampled_from([1.0, 0.9, 0.3]),
    st.sampled_from([None, 0.05]),
    st.sampled_from([None, 1.3]),
    st.integers(-(2**64), 2**64),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@settings(FIXED, max_examples=30)
@given(options=SAMPLED, number=st.integers(0, 7))
def test_a_seed_s_text_is_plain_decoding_s_whoever_drafts(dtype, options, number):
    model = ours("grouped", dtype)
    plain = generate(model, [5, 9, 2, 30, 7, 1], None, options)
    done = generate(model, [5, 9, 2, 30, 7, 1], adversaries(model.layer_count)[number], options)
    assert done.token_ids == plain.token_ids


@pytest.mark.parametrize("kind", ["native", "eager", "float64"])
def test_compiled_choice_and_the_library_s_processors_write_the_same_text(kind, monkeypatch):
    model = ours("grouped", torch.float64 if kind == "float64" else torch.float32, native=kind != "eager")
    wanted = Settings(60, 0.9, 12, 0.95, seed=11, options={"repetition_penalty": 1.2, "suppress_tokens": [3, 9, 999]})
    text = generate(model, [4, 4, 7, 4], LayerSkip(1, 4), wanted).token_ids
    assert len(set(text)) > 10 and not {3, 9} & {*text}
    monkeypatch.setattr(sampling, "compiles", lambda model: False)
    assert generate(model, [4, 4, 7, 4], LayerSkip(2, 3), wanted).token_ids == text


@pytest.mark.parametrize("native", [True, False])
def test_a_draft_vocabulary_changes_no_sampled_text(native, monkeypatch):
    monkeypatch.setattr(sampling, "compiles", lambda model: native)
    some = [*range(0, 61, 2)]
    few = from_transformers(llama(seed=4), torch.float32, draft_vocabulary=some)
    options = Settings(60, temperature=1.0, seed=4, options={"repetition_penalty": 1.1})
    done = generate(few, PROMPT, LayerSkip(2, 4), options)
    assert done.token_ids == generate(from_transformers(llama(seed=4), torch.float32), PROMPT, None, options).token_ids
    assert {draft for round_ in done.rounds for draft in round_.drafts} <= {*some}
    assert done.sums.accepted


def test_the_noise_of_a_draft_is_the_noise_of_its_position():
    options = Settings(40, temperature=1.0, seed=9, stop_tokens=frozenset())
    for layers in ((0,), (1, 2)):
        rule = RandomRule(layers, seed=2)
        rule.needs_state = rule.needs_lookup = True
        done = generate(MODEL, PROMPT, rule, options)
        states = [(round_.position + d.state.draft_index, d.state) for round_ in done.rounds for d in round_.decisions]
        assert states
        for position, state in states:
            noise = float(gumbel(9, position, torch.tensor(state.token)))
            assert state.noise == pytest.approx(noise, rel=1e-3) and state.temperature == 1.0
            assert (state.token_logp < 0 < state.noise_margin) == (state.layer > 0)


def test_noise_is_gumbel_s_and_that_of_neighbours_has_nothing_to_do_with_it():
    from scipy import stats

    noise = gumbel(2**64 - 3, torch.arange(100)[:, None], torch.arange(2000)[None]).numpy()
    assert stats.kstest(noise.ravel(), "gumbel_r").pvalue > DOUBTFUL
    others = noise[1:], gumbel(2**64 - 2, torch.arange(100)[:, None], torch.arange(2000)[None]).numpy()[:-1]
    for other in (*others, noise[:-1, ::-1]):
        assert abs(stats.pearsonr(noise[:-1].ravel(), other.ravel()).statistic) < 0.01


def test_a_seed_names_a_text_and_without_one_torch_s_generator_does():
    def text(seed, rule=None):
        return generate(MODEL, PROMPT, rule or LayerSkip(1, 4), Settings(40, temperature=1.5, seed=seed)).token_ids

    assert text(7) == text(7) == text(7 + 2**64) == text(7, LayerSkip(0, 3)) != text(8)
    torch.manual_seed(1)
    drawn = [text(None), text(None)]
    assert drawn[0] != drawn[1]
    torch.manual_seed(1)
    assert [text(None), text(None)] == drawn
    done = generate(MODEL, PROMPT, None, Settings(40, temperature=1.5))
    assert text(done.seed) == done.token_ids
    assert generate(MODEL, PROMPT, None, Settings(4)).seed is None


def test_temperature_zero_is_greedy_and_top_k_of_one_too():
    assert isinstance(chooser(Settings(), MODEL, PROMPT), Greedy)
    greedy = generate(MODEL, PROMPT, None, Settings(30))
    assert (
        generate(MODEL, PROMPT, LayerSkip(1, 4), Settings(30, temperature=1.0, top_k=1)).token_ids == greedy.token_ids
    )


def test_where_nobody_says_top_k_it_is_the_library_s():
    assert GenerationConfig()._get_default_generation_params()["top_k"] == USUAL_TOP_K


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


@pytest.mark.parametrize(
    "options",
    [{"min_p": 1.5}, {"min_p": "x"}, {"repetition_penalty": 0.0}, {"suppress_tokens": ["a"]}],
)
def test_options_that_cannot_be_are_refused_by_name(options):
    with pytest.raises(ModelError, match=next(iter(options))):
        generate(MODEL, PROMPT, None, Settings(4, temperature=1.0, options=options))


@pytest.mark.parametrize("compiled", [True, False])
def test_logits_that_are_not_numbers_are_said(compiled, monkeypatch):
    monkeypatch.setattr(sampling, "compiles", lambda model: compiled)
    choose = chooser(Settings(temperature=1.0, seed=1), MODEL, PROMPT)
    logits = torch.zeros(2, VOCABULARY)
    logits[1, 3] = torch.nan
    with pytest.raises(ModelError, match="NaN"):
        choose.targets(logits, PROMPT, [3])


def test_no_token_left_is_said():
    choose = chooser(Settings(temperature=1.0, options={"suppress_tokens": [*range(VOCABULARY)]}), MODEL, PROMPT)
    with pytest.raises(ModelError, match="no token"):
        choose.targets(torch.zeros(1, VOCABULARY), PROMPT, [])


@settings(FIXED, max_examples=60)
@given(
    st.integers(0, 2**32),
    st.sampled_from([1, 7, 31, 64, 300]),
    st.sampled_from([0, 1, 5, 40]),
    st.sampled_from([1.0, 0.9, 0.5]),
    st.sampled_from([0.0, 0.02]),
    st.sampled_from([0.5, 3.0]),
)
def test_rows_of_any_size_are_cut_as_the_library_cuts_them(seed, tokens, top_k, top_p, min_p, spread):
    """The compiled choice among what the library's warpers leave, in rows with ties as well; but for those at the edge
    of top-p, of which the library's sorting leaves any.
    """
    logits = torch.randn(4, tokens, generator=torch.Generator().manual_seed(seed)) * spread
    if top_p == 1:
        logits = (logits * 4).round() / 4
    cut = [TemperatureLogitsWarper(0.7)]
    cut += [TopKLogitsWarper(top_k)] if top_k else []
    cut += [TopPLogitsWarper(top_p)] if top_p < 1 else []
    cut += [MinPLogitsWarper(min_p)] if min_p else []
    left = LogitsProcessorList(cut)(None, logits.clone())
    kept = Compiled(tokens, None, temperature=0.7, top_k=top_k, top_p=top_p, min_p=min_p, seed=seed)
    for row, choice in enumerate(kept.drafts(logits, [0] * 9, [0, 0, 0])):
        logp = torch.log_softmax(left[row].double(), -1)
        assert choice.token == int((logp + gumbel(seed, 9 + row, torch.arange(tokens))).argmax())
        assert choice.logp == pytest.approx(float(logp[choice.token]), rel=1e-3, abs=1e-6)


class Transfers(TorchDispatchMode):
    """Counts single numbers that are fetched from the device, each of which waits for it."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **kwargs or {})


def test_judging_drafts_fetches_as_many_numbers_for_eight_as_for_one():
    counts = set()
    for drafts in (1, 8):
        made = processors(Settings(temperature=1.0), MODEL, PROMPT, True)
        choose = ByLibrary(made, MODEL, 1.0, 0)
        with Transfers() as transfers:
            choose.targets(torch.zeros(drafts + 1, VOCABULARY), PROMPT, [3] * drafts)
        counts.add(transfers.count)
    assert len(counts) == 1
