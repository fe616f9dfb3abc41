"""What a rule sees, against the paper's formulae written out."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lede.decode.generate import generate
from lede.decode.lookup import Lookup
from lede.decode.rules import LayerSkip
from lede.decode.sampling import Settings
from lede.decode.state import AcceptTrace, ConfidenceTrace, Statistics, rounded, statistics
from tests.models import FIXED, ours, variant
from tests.rules import RandomRule

ROUNDED = 2.0**-11 + 2e-5  # half a unit in the last of 11 bits, and what fp32 is off


def literal(logits: list[float]) -> Statistics:
    """C_k, H and the rest (paper §3.1.1), one probability after the other."""
    largest = max(logits)
    total = math.fsum(math.exp(z - largest) for z in logits)
    logp = [z - largest - math.log(total) for z in logits]
    best = sorted(logp, reverse=True)
    k = min(5, len(best))
    entropy = -math.fsum(math.exp(p) * p for p in logp)
    confidence = -math.fsum(best[:k]) / k
    return Statistics(logp.index(best[0]), confidence, entropy, math.exp(best[0]) - math.exp(best[1]), best[0])


@st.composite
def rows(draw, vocabulary: int):
    """Logits (rows, vocabulary): flat or peaked, distinct or with ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = rng.normal(size=(draw(st.integers(1, 4)), vocabulary)) * draw(st.sampled_from([0.01, 1.0, 5.0, 40.0]))
    if draw(st.booleans()):
        logits = np.round(logits)
    return torch.tensor(logits + draw(st.sampled_from([0.0, -50.0, 300.0])), dtype=torch.float32)


def assert_close(found: list[Statistics], logits: torch.Tensor, ties: bool = True) -> None:
    for seen, row in zip(found, logits.tolist(), strict=True):
        wanted = literal(row)
        np.testing.assert_allclose(seen[1:], wanted[1:], rtol=ROUNDED, atol=3e-4)
        assert row[seen.token] == max(row)
        if ties:
            assert seen.token == wanted.token  # the first of equals, as argmax has it


@settings(FIXED, max_examples=80)
@given(rows(61))
def test_statistics_are_the_paper_s_formulae(logits):
    assert_close(statistics(logits), logits, ties=False)  # topk may name any of equals


@pytest.mark.parametrize("name", ["grouped", "one-key-head, tied"])
def test_native_statistics_are_the_same(name):
    model = ours(name)
    assert model.native

    @settings(FIXED, max_examples=80)
    @given(rows(model.vocabulary))
    def check(logits):
        assert_close(model.statistics(logits), logits)
        padded = torch.full((len(logits), model.vocabulary + 5), 1e9)  # as the head leaves it, rows end in padding
        padded[:, : model.vocabulary] = logits
        assert model.statistics(padded[:, : model.vocabulary]) == model.statistics(logits)

    check()


def test_a_vocabulary_smaller_than_k_is_no_problem():
    assert_close(statistics(torch.tensor([[0.5, 2.0, -1.0]])), torch.tensor([[0.5, 2.0, -1.0]]))


@settings(FIXED, max_examples=300)
@given(st.floats(-(2.0**15), 2.0**15))
def test_states_are_rounded_as_half_precision_is_and_twice_is_once(x):
    if abs(x) > 2.0**-14:  # below, half precision has fewer bits
        assert rounded(x) == float(np.float16(x))
    assert rounded(rounded(x)) == rounded(x) == np.float32(rounded(x))
    assert rounded(torch.tensor([x], dtype=torch.float64)).item() == rounded(x)


@settings(FIXED, max_examples=60)
@given(st.lists(st.lists(st.floats(-9, 0), max_size=9), max_size=9))
def test_the_confidence_trace_is_a_mean_over_the_last_twenty(blocks):
    trace, seen = ConfidenceTrace(), []
    for block in blocks:
        trace.add(block)
        seen += block
        window = seen[-20:]
        assert trace.value == pytest.approx(-sum(window) / len(window) if window else 0.0, rel=ROUNDED)


@settings(FIXED, max_examples=60)
@given(st.lists(st.integers(1, 12).flatmap(lambda d: st.tuples(st.integers(0, d), st.just(d))), max_size=9))
def test_the_accept_trace_is_a_decayed_mean_over_drafts(rounds):
    trace, fared = AcceptTrace(), [0.5]
    for accepted, drafts in rounds:
        trace.add(accepted, drafts)
        fared += [1.0] * accepted + [0.0] * (drafts - accepted)
    weights = [0.85**age for age in range(len(fared))][::-1]
    assert trace.value == pytest.approx(np.average(fared, weights=weights), rel=ROUNDED)


def test_states_in_decoding_are_what_the_library_s_hidden_states_give():
    """Every decision of a generation, from one pass of `transformers` over its finished text."""
    prompt = [5, 9, 2, 9, 2, 30, 7, 1]
    rule = RandomRule((0, 1, 2), seed=3)
    rule.needs_state = rule.needs_lookup = True
    done = generate(ours("grouped"), prompt, rule, Settings(30))
    library = variant("grouped")
    assert sum(len(round_.decisions) for round_ in done.rounds) > 20
    written = [*prompt, *done.token_ids]
    confidence, fared = ConfidenceTrace(), AcceptTrace()
    with torch.no_grad():
        full = library(torch.tensor([written])).logits[0]
    for round_ in done.rounds:
        text = written[: round_.position + 1]
        drafted = 0.0
        for state, *_ in round_.decisions:
            prefix = [*text, *round_.drafts[: state.draft_index - 1]]
            guess = Lookup(prefix).guess()
            lookup = (guess.length, guess.agreement) if guess else (0, 0)
            assert (state.lookup_length, state.lookup_agreement) == lookup
            assert state.lookup_match == (guess is not None and guess.token == state.token)
            traces = confidence.value, fared.value
            assert (state.conf_trace, state.accept_trace) == pytest.approx(traces, abs=1e-4, rel=ROUNDED)
            assert state.draft_logp == pytest.approx(drafted, abs=1e-3, rel=ROUNDED)
            if state.layer == 0:
                assert state[4:9] == (0.0, 0.0, state.conf_trace, 0.0, 0.0)
                assert state.token == guess.token
            else:
                with torch.no_grad():
                    hidden = library.model(torch.tensor([prefix]), output_hidden_states=True).hidden_states[state.layer]
                    wanted = literal(library.lm_head(library.model.norm(hidden[0, -1])).tolist())
                found = (state.token, state.conf_topk, state.entropy, state.margin, state.top1_logp)
                assert found == pytest.approx(wanted, abs=1e-3, rel=ROUNDED)
                if state.layer == round_.exit_layer:
                    drafted += state.top1_logp
        fared.add(round_.accepted, len(round_.drafts))
        last = round_.position + len(round_.committed)
        confidence.add([literal(row.tolist()).top1_logp for row in full[round_.position : last]])


def test_rules_that_need_no_state_are_shown_none():
    done = generate(ours("grouped"), [1, 2, 3], LayerSkip(1, 3), Settings(10))
    assert all(round_.decisions == () for round_ in done.rounds)
