"""From a finished generation to rows of the transitions table: one row a decision (data/README.md)."""

from collections.abc import Iterable, Iterator
from typing import Any

from lede.decode.round import Round
from lede.process import WALK
from lede.replay.schema import DERIVED, TRANSITIONS

COLUMNS = tuple(name for name in TRANSITIONS.names if name not in DERIVED)


def transitions(episode: int, rounds: Iterable[Round]) -> dict[str, list[Any]]:
    """Columns of the transitions table for one episode, less those that the writer derives."""
    rows = [row for number, round_ in enumerate(rounds) for row in round_rows(episode, number, round_)]
    return {name: [row[name] for row in rows] for name in COLUMNS}


def round_rows(episode: int, number: int, round_: Round) -> Iterator[dict[str, Any]]:
    """One round's rows: COLUMNS, and more."""
    last = len(round_.decisions) - 1
    for step, (state, action, forced, propensity) in enumerate(round_.decisions):
        k, ends = state.draft_index, step == last
        if state.phase == WALK and action == 0:  # the layer only looked; what it would have drafted is still known
            token = state.token
            accepted = token == round_.targets[0]
        else:
            token = round_.drafts[k - 1]
            accepted = round_.accepted >= k
        place = {"episode": episode, "round": number, "chain": k - 1, "step": step, "position": round_.position + k}
        taken = {"action": action, "forced": forced, "propensity": propensity}
        ended = {"terminal": ends and not round_.cut, "truncated": ends and round_.cut}
        came = {"draft_token": token, "target_token": round_.targets[k - 1], "accepted": accepted}
        yield place | state._asdict() | taken | ended | came
