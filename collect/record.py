"""From a finished generation to rows of the transitions table: one row a decision (data/README.md)."""

from collections.abc import Iterable
from typing import Any

from lede.decode.round import Round
from lede.decode.state import DEPTH

STATE_COLUMNS = (
    "conf_topk", "entropy", "conf_trace", "margin", "top1_logp", "draft_logp", "accept_trace", "lookup_length",
    "lookup_agreement", "lookup_match",
)  # fmt: skip


def transitions(episode: int, rounds: Iterable[Round]) -> dict[str, list[Any]]:
    """Columns of the transitions table for one episode, less those that the writer derives."""
    rows = [row for number, round_ in enumerate(rounds) for row in round_rows(episode, number, round_)]
    return {name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}


COLUMNS = (
    "episode", "round", "chain", "step", "position", "phase", "layer", "draft_index", "forced", *STATE_COLUMNS,
    "action", "propensity", "terminal", "truncated", "draft_token", "target_token", "accepted",
)  # fmt: skip


def round_rows(episode: int, number: int, round_: Round) -> list[tuple[Any, ...]]:
    """One round's rows, in the order of COLUMNS."""
    rows, last = [], len(round_.decisions) - 1
    for step, (state, action, forced, propensity) in enumerate(round_.decisions):
        k = state.draft_index
        if state.phase == DEPTH and action == 0:  # the layer only looked; what it would have drafted is still known
            token = state.token
            accepted = token == round_.targets[0]
        else:
            token = round_.drafts[k - 1]
            accepted = round_.accepted >= k
        # A round that the text's end cut right behind the walk's exit has no stop of its own: its return is not
        # complete. One that walked on to the full model (a bypass) ended as it wanted.
        truncated = step == last and state.phase == DEPTH and action == 1
        rows.append((
            episode, number, k - 1, step, round_.position + k, state.phase, state.layer, k, forced,
            state.conf_topk, state.entropy, state.conf_trace, state.margin, state.top1_logp, state.draft_logp,
            state.accept_trace, state.lookup_length, state.lookup_agreement, state.lookup_match,
            action, propensity, step == last and not truncated, truncated,
            token, round_.targets[k - 1], accepted,
        ))  # fmt: skip
    return rows
