"""What the store and the decoder each say for themselves, since neither imports the other, is the same."""

from lede.decode import state
from lede.decode.rules import MAX_DRAFTS
from lede.replay import schema
from lede.replay.schema import NEXT_STATE, STATE, SWEEPS, SWEPT, TRANSITIONS
from lede.serve import policy


def test_a_decision_s_state_has_the_columns_that_are_logged() -> None:
    assert state.State._fields == ("layer", "draft_index", "phase", "token", *STATE)
    assert (state.DEPTH, state.DRAFT) == (schema.WALK, schema.DRAFT)
    assert set(STATE) | set(NEXT_STATE) < set(TRANSITIONS.names)
    assert set(SWEPT) == set(STATE) & set(SWEEPS.names)


def test_policies_and_the_store_number_actions_alike_and_rules_and_policies_draft_as_many() -> None:
    assert (schema.CONTINUE, schema.EXIT) == (policy.CONTINUE, policy.EXIT)
    assert policy.MAX_DRAFTS == MAX_DRAFTS
