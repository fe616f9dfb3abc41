"""What the store and the decoder each say for themselves, since neither imports the other, is the same."""

from lede.decode import state
from lede.replay.schema import NEXT_STATE, STATE, SWEEPS, SWEPT, TRANSITIONS


def test_a_decision_s_state_has_the_columns_that_are_logged() -> None:
    assert state.State._fields == ("layer", "draft_index", "phase", "token", *STATE)
    assert set(STATE) | set(NEXT_STATE) < set(TRANSITIONS.names)
    assert set(SWEPT) == set(STATE) & set(SWEEPS.names)
