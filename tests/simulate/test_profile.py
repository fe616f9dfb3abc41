"""Measured costs are numbers that a reward can be made of, from rounds that went as planned."""

from dataclasses import replace

import numpy as np
import pytest

import lede.collect.collector
from lede.decode.loop import Decoding
from lede.decode.rules import QPolicy
from lede.decode.sampling import Settings
from lede.decode.source import ModelSource
from lede.replay.errors import DatasetError
from lede.simulate.costs import MAX_ROWS, Costs
from lede.simulate.fit import fit
from lede.simulate.profile import ALIKE, FEW, LENGTHS, gather, measure, rules
from tests.collect.small import CONFIG, COSTS, PROMPTS, tiny_model
from tests.decode.test_exits import with_heads
from tests.models import ours


def test_costs_are_finite_positive_and_never_fall_with_rows():
    shares = []
    costs = measure(ours("grouped"), 0.5, shares.append)
    assert costs.layers == 4
    for values in (costs.layer, costs.head):
        assert len(values) == MAX_ROWS
        assert np.isfinite(values).all()
        assert min(values) >= 0
        assert (np.diff(values[1:]) >= 0).all()
    assert 0 < costs.plain() < 1000  # milliseconds
    assert 0 < costs.read(1) < 1000
    assert 0 < costs.context < ours("grouped").context
    assert costs.choose > 0 and costs.choose_draft > 0
    for name in ("features", "decision", "lookup", "round", "cache", "attention", "index", "trace", "choose"):
        assert 0 <= getattr(costs, name) < 100
    assert all(costs.finish(1, d) <= costs.finish(1, d + 1) for d in range(1, MAX_ROWS - 1))
    assert Costs.from_json(costs.to_json()) == costs
    assert shares == sorted(shares)
    assert shares[-1] == 1.0


@pytest.mark.parametrize("layer_count", [1, 2, 3, 16, 32])
def test_rules_draft_what_is_planned_and_cover_it(layer_count):
    planned = {}
    for rule in rules(layer_count):
        cells = set()
        for _ in range(6 * len(LENGTHS) * ALIKE):
            cells.add((*rule.layers, rule.max_drafts))
            rule.finish(None)
        assert all(0 <= cell[0] < layer_count for cell in cells if len(cell) == 2)
        planned.setdefault((type(rule).__name__, rule.needs_state, rule.needs_lookup), set()).update(cells)
    assert planned["_Planned", False, True] == {(0, d) for d in LENGTHS}
    bare = planned["_Planned", False, False]
    assert (0,) in bare  # plain decoding
    assert {cell[1] for cell in bare if len(cell) == 2} == (set(LENGTHS) if layer_count > 1 else set())
    assert {d for e, d in planned["_Probe", True, True] if e == 0} == set(FEW)


def test_the_probe_looks_and_decides_at_every_draft():
    """The loop takes the rule's turns: layer, length and the number of questions are the planned ones."""
    probe = next(rule for rule in rules(4) if isinstance(rule, QPolicy))
    planned, seen = [], 0
    source = ModelSource(ours("grouped"), Settings(120, stop_tokens=frozenset()))
    decoding = Decoding(source, [3, 1, 4, 1, 5] * 4, probe)
    planned.append((probe.layers[0], probe.max_drafts))
    for round_ in decoding.rounds():
        exit_layer, drafts = planned[-1]
        if not round_.cut and round_.exit_layer is not None:
            assert (round_.exit_layer, len(round_.drafts)) == (exit_layer, drafts)
            assert len(round_.decisions) == drafts
            assert sum(not decision.forced for decision in round_.decisions) == max(drafts - 2, 0)
            seen += 1
        planned.append((probe.layers[0], probe.max_drafts))
    assert seen > 5
    assert len(set(planned)) > 5


def test_samples_are_of_every_kind():
    samples, prompts = gather(ours("grouped"), 0.0)
    kinds = {(s.states, s.lookup, s.exit_layer > 0, s.drafts > 0) for s in samples}
    assert {
        (False, False, True, True),
        (False, False, False, False),
        (False, True, False, True),
        (True, False, True, True),
        (True, True, True, True),
        (True, True, False, True),
    } <= kinds
    assert all(s.draft > 0 and s.verify > 0 and s.rest > 0 for s in samples)
    assert prompts
    assert all(tokens > 0 and spent > 0 for tokens, spent in prompts)


def test_exit_heads_are_timed_where_they_are():
    model = with_heads("grouped", layers=(1, 3))
    samples, _ = gather(model, 0.0)
    assert {s.exit_layer for s in samples if s.drafts or not s.exit_layer} == {0, 1, 3} and all(
        s.spoken for s in samples
    )
    assert {s.whole > 0 for s in samples if s.exit_layer == 4 and not s.drafts} == {True}  # the head alone
    assert 0 < fit(samples, [], 4).speak < 100


def test_a_run_is_measured_when_it_starts_and_not_when_it_goes_on(tmp_path, monkeypatch):
    measured = []
    monkeypatch.setattr(lede.collect.collector, "measure", lambda model: measured.append(model) or COSTS)
    model = tiny_model()
    for episodes in (2, 4):
        lede.collect.collector.collect(model, PROMPTS, tmp_path, replace(CONFIG, episodes=episodes))
    assert measured == [model]
    with pytest.raises(DatasetError, match="other arguments"):
        lede.collect.collector.collect(model, PROMPTS, tmp_path, replace(CONFIG, seed=9))
    assert len(measured) == 1
