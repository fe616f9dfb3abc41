"""The fit finds the costs that made-up rounds were timed with, in spite of noise that only ever slows."""

import random
from dataclasses import replace

import numpy as np
import pytest

from lede.simulate.costs import MAX_ROWS, Costs
from lede.simulate.fit import Sample, fit, least_absolute

LAYERS, CONTEXT = 16, 250
# cheap rows up to the third, dearer ones behind it, as where the weights' way to the processor is the limit at first
TRUE = Costs(
    layers=LAYERS,
    layer=(0.04, *(0.05 + 0.009 * max(rows - 3, 0) for rows in range(2, MAX_ROWS + 1))),
    head=(0.06, *(0.08 + 0.015 * rows for rows in range(2, MAX_ROWS + 1))),
    features=0.02,
    decision=0.025,
    lookup=0.012,
    round=0.03,
    context=CONTEXT,
    cache=6e-5,
    attention=7e-6,
    prefill=0.15,
    autoregressive=LAYERS * 0.048 + 0.06,
    index=0.02,
    trace=0.08,
)
HEADS = replace(TRUE, speak=0.025)  # drafts by exit heads over a small vocabulary
KINDS = {"bare": (False, False), "copies": (False, True), "sees": (True, False), "thinks": (True, True)}


def rounds(noise: float = 0.0, seed: int = 0, true: Costs = TRUE) -> tuple[list[Sample], list[tuple[int, float]]]:
    """Rounds that take what `true` says; with `noise`, a third up to so much longer, a tenth far longer."""
    rng = random.Random(seed)

    def slowed(milliseconds: float) -> float:
        worst = 1 + noise * rng.random() * (rng.random() < 0.33)
        return milliseconds * (worst if rng.random() > 0.1 else 1 + 20 * noise)

    made = []
    for kind, (states, lookup) in KINDS.items():
        for exit_layer in (0,) if kind == "copies" else (0, 2, 4, 6) if kind == "thinks" else (2, 3, 4, 6, 9, 12):
            for drafts in (1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 19, 24, 31):
                for _ in range(2):
                    made.append(one(exit_layer, drafts, rng.randrange(60, 440), states, lookup, slowed, true))
    for _ in range(100):
        position = rng.randrange(60, 440)
        made.append(Sample(0, 0, position, False, False, 0, 0.0, slowed(TRUE.plain(position)), 0.0))
    rng.shuffle(made)
    return made, [(n, slowed(TRUE.read(n))) for n in (64, 320) * 30]


def one(exit_layer: int, drafts: int, at: int, states: bool, lookup: bool, slowed, true: Costs) -> Sample:
    decisions = max(drafts - 2, 0) if states and lookup else 0
    draft = decisions * TRUE.decision + drafts * TRUE.lookup * lookup + 0.04 * (decisions > 0)
    if exit_layer:
        draft += exit_layer * (TRUE.first(at) + drafts * TRUE.again(at)) + drafts * true.speak
        draft += 0.02 + drafts * TRUE.features * states  # a part of the round's fixed cost is in its drafting
    verify = (LAYERS - exit_layer) * (TRUE.layer[drafts] + TRUE.further(drafts + 1, at)) + TRUE.head[drafts]
    rest = 0.01 + (TRUE.index if lookup else 0) + (TRUE.trace - 0.04 if states and lookup else 0)
    return Sample(
        exit_layer,
        drafts,
        at,
        states,
        lookup,
        decisions,
        slowed(draft),
        slowed(verify),
        slowed(rest),
        spoken=true is HEADS,
    )


def compare(found: Costs, tolerance: float, true: Costs = TRUE) -> None:
    """Whole rounds first: their parts may trade a little between them."""
    for at in (100, CONTEXT, 400):
        assert found.plain(at) == pytest.approx(TRUE.plain(at), rel=tolerance)
        for exit_layer in (0, 2, 4, 6, 12):
            for drafts in (1, 2, 3, 5, 8, 12, 19):
                assert found.fixed(exit_layer, drafts, at) == pytest.approx(
                    true.fixed(exit_layer, drafts, at), rel=tolerance
                )
                assert thinking(found, exit_layer, drafts, at) == pytest.approx(
                    thinking(true, exit_layer, drafts, at), rel=tolerance
                )
    assert found.read(300) == pytest.approx(TRUE.read(300), rel=tolerance)


def thinking(costs: Costs, exit_layer: int, drafts: int, at: int) -> float:
    """A round of a policy that exits at its first candidate."""
    walk = costs.step(0, exit_layer, at)
    return walk + (drafts - 1) * costs.draft(exit_layer, at) + costs.finish(exit_layer, drafts, at)


@pytest.mark.parametrize("true", [TRUE, HEADS], ids=["the model's head", "exit heads"])
def test_what_was_timed_without_noise_is_found_again(true):
    samples, prompts = rounds(true=true)
    found = fit(samples, prompts, LAYERS)
    compare(found, 1e-3, true)
    assert (found.speak, found.head[0]) == pytest.approx((true.speak, true.head[0]), rel=0.01)
    for exit_layer in (0, 2, 6):
        assert found.draft(exit_layer) == pytest.approx(true.draft(exit_layer, found.context), rel=1e-3)
    assert found.cache == pytest.approx(TRUE.cache, rel=0.01)
    assert found.attention == pytest.approx(TRUE.attention, rel=0.01)
    assert found.first() == pytest.approx(TRUE.first(found.context), rel=0.01)
    assert found.again() == pytest.approx(TRUE.again(found.context), rel=0.01)
    assert (found.layer[0], found.layer[12]) == pytest.approx(
        (TRUE.again(found.context), layer_at(found, 13)), rel=0.01
    )


def layer_at(found: Costs, rows: int) -> float:
    return TRUE.layer[rows - 1] + TRUE.further(rows, found.context)


@pytest.mark.parametrize("seed", range(3))
def test_a_busy_machine_moves_the_costs_little(seed):
    """A third of the times up to 30 % too long, a tenth seven times: means would be half as high again."""
    samples, prompts = rounds(noise=0.3, seed=seed)
    compare(fit(samples, prompts, LAYERS), 0.1)


@pytest.mark.parametrize("seed", range(3))
def test_averages_are_of_all_that_the_machine_did(seed):
    samples, prompts = rounds(noise=0.1, seed=seed)
    found = fit(samples, prompts, LAYERS, average=True)
    slower = 1 + 0.9 * 0.33 * 0.05 + 0.1 * 2  # see `rounds`
    plain = [s for s in samples if not s.drafts]
    assert sum(found.plain(s.position) for s in plain) == pytest.approx(sum(s.whole for s in plain), rel=0.08)
    copied = [s for s in samples if s.drafts and s.exit_layer == 0 and not s.states]
    told = sum(found.fixed(0, s.drafts, s.position) for s in copied)
    assert told == pytest.approx(slower * sum(TRUE.fixed(0, s.drafts, s.position) for s in copied), rel=0.1)
    assert found.read(300) == pytest.approx(slower * TRUE.read(300), rel=0.1)


def test_plain_decoding_is_what_its_own_rounds_take():
    """Were its layers cheaper than those of a walk, a fit of all rounds would tell the one by the other."""
    samples, prompts = rounds()
    samples = [replace(s, verify=0.8 * s.verify) if not s.drafts else s for s in samples]
    found = fit(samples, prompts, LAYERS)
    assert found.plain(CONTEXT) == pytest.approx(0.8 * TRUE.plain(CONTEXT), rel=0.01)
    assert found.fixed(4, 5, CONTEXT) == pytest.approx(TRUE.fixed(4, 5, CONTEXT), rel=0.05)


def test_interrupted_rounds_are_left_out_and_told():
    """Six in ten rounds lose their core for long: the typical round is one of them."""
    samples, prompts = rounds()
    shown = [
        replace(s, draft=4 * s.draft, verify=s.verify + 5, interrupted=True) if i % 10 < 6 else s
        for i, s in enumerate(samples)
    ]
    found = fit(shown, prompts, LAYERS)
    compare(found, 0.02)
    assert found.interrupted == pytest.approx(0.6, abs=0.01)
    assert found.moved > 0.15  # a plain token, which is short, loses most
    assert "other work, which interrupted 60% of the rounds, changed speedups by" in found.doubt
    assert fit(samples, prompts, LAYERS).doubt is None


def test_interruptions_that_take_no_time_are_no_reason_to_doubt():
    """Half of the rounds of a model that takes 20 ms a token meet a timer or a kernel's thread; one in fifty waits."""
    samples, prompts = rounds(noise=0.02)
    shown = [
        replace(s, interrupted=i % 2 == 0, verify=s.verify * (1.5 if i % 50 == 0 else 1)) for i, s in enumerate(samples)
    ]
    found = fit(shown, prompts, LAYERS)
    assert found.interrupted == pytest.approx(0.5, abs=0.01)
    assert found.moved < 0.05
    assert found.doubt is None


def test_costs_that_do_not_predict_other_rounds_are_told():
    samples, prompts = rounds(noise=0.1)
    assert fit(samples, prompts, LAYERS).error < 0.05
    # whatever the fit is made from, the other half's passes of many rows take twice as long
    slow = [replace(s, verify=2 * s.verify) if i % 2 and s.drafts > 3 else s for i, s in enumerate(samples)]
    found = fit(slow, prompts, LAYERS)
    assert found.error > 0.15
    assert "for rounds held out of their fit" in found.doubt


def test_sums_are_met_where_plain_decoding_suffers_most():
    """Two spinning threads on two cores with other work: a plain token loses more than a round of many drafts."""
    samples, prompts = rounds()
    shown = [
        replace(s, verify=s.verify * (20 if s.drafts == 0 and i % 3 == 0 else 2 if i % 3 == 0 else 1))
        for i, s in enumerate(samples)
    ]
    found = fit(shown, prompts, LAYERS, average=True)
    plain = [s for s in shown if not s.drafts]
    assert sum(found.plain(s.position) for s in plain) == pytest.approx(sum(s.whole for s in plain), rel=0.01)
    bare = [s for s in shown if s.drafts and not s.states]
    told = sum(found.fixed(s.exit_layer, s.drafts, s.position) for s in bare)
    assert told == pytest.approx(sum(s.whole for s in bare), rel=0.05)


def test_rows_that_were_not_tried_lie_between_those_that_were():
    samples, prompts = rounds()
    found = fit([s for s in samples if s.drafts in (0, 1, 4, 12)], prompts, LAYERS)
    assert (np.diff(found.layer[1:]) >= -1e-12).all()
    assert (np.diff(found.head[1:]) >= -1e-12).all()
    assert found.layer[2] == pytest.approx((2 * found.layer[1] + found.layer[4]) / 3)
    assert found.layer[19] > found.layer[12]


def test_least_absolute_deviations_are_those_of_the_typical_equation():
    """Two in five values are far off, and the second factor would be negative."""
    equations = np.array([[1.0, 0.0], [1.0, 1.0], [2.0, 1.0], [1.0, 0.0], [3.0, 1.0]])
    factors = least_absolute(equations, np.array([2.0, 2.0, 4.0, 9.0, 40.0]))
    assert factors == pytest.approx([2.0, 0.0], abs=0.01)
