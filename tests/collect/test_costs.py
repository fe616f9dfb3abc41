"""Measured costs are numbers that a reward can be made of."""

import numpy as np

from collect.costs import measure
from replay.costs import MAX_ROWS, Costs
from tests.models import ours


def test_costs_are_finite_positive_and_never_fall_with_rows():
    costs = measure(ours("grouped"))
    assert costs.layers == 4
    for values in (costs.layer, costs.head):
        assert len(values) == MAX_ROWS
        assert np.isfinite(values).all()
        assert min(values) >= 0
        assert (np.diff(values[1:]) >= 0).all()
    assert 0 < costs.layer[0] <= costs.layer[1]  # the head of one row is a draft's, fitted apart from verifications
    assert 0 < costs.plain() < 1000  # milliseconds
    for name in ("features", "decision", "lookup", "round"):
        assert 0 <= getattr(costs, name) < 100
    assert all(costs.finish(1, d) <= costs.finish(1, d + 1) for d in range(1, MAX_ROWS - 1))
    assert Costs.from_json(costs.to_json()) == costs
