"""From a finished generation to rows of the transitions table: one row a decision (data/README.md)."""

from collections.abc import Iterable
from operator import attrgetter
from typing import Any

from lede.decode.round import Round
from lede.process import WALK
from lede.replay.schema import DERIVED, STATE, TRANSITIONS

SEEN = attrgetter(*STATE)
COLUMNS = tuple(name for name in TRANSITIONS.names if name not in DERIVED)


def transitions(episode: int, rounds: Iterable[Round]) -> dict[str, list[Any]]:
    """Columns of the transitions table for one episode, less those that the writer derives."""
    rows = [row for number, round_ in enumerate(rounds) for row in round_rows(episode, number, round_)]
    return {name: [row[i] for row in rows] for i, name in enumerate(COLUMNS)}


def round_rows(episode: int, number: int, round_: Round) -> list[tuple[Any, ...]]:
    """One round's rows, in the order of COLUMNS."""
    rows: list[tuple[Any, ...]] = []
    last = len(round_.decisions) - 1
    for step, (state, action, forced, propensity) in enumerate(round_.decisions):
        k = state.draft_index
        if state.phase == WALK and action == 0:  # the layer only looked; what it would have drafted is still known
            token = state.token
            accepted = token == round_.targets[0]
        else:
            token = round_.drafts[k - 1]
            accepted = round_.accepted >= k
        place = episode, number, k - 1, step, round_.position + k, state.phase, state.layer, k, forced
        done = action, propensity, step == last and not round_.cut, step == last and round_.cut
        rows.append((*place, *SEEN(state), *done, token, round_.targets[k - 1], accepted))
    return rows
