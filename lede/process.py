"""The decision process in numbers (paper §3.1): the phases of a round, the two actions, limits, and what is measured.

The actions keep the paper's names in both phases: behind a draft, `EXIT` means "draft another" and `CONTINUE` means
"stop, and go on through the remaining layers", that is: verify.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

WALK, DRAFT = 0, 1  # phases of a round: the walk for its first draft, and the drafts after it
CONTINUE, EXIT = 0, 1  # actions

MAX_DRAFTS = 12  # per round, for rules that stop by themselves (paper §4.1)
LONG_DRAFTS = 31  # where more pays: a text that repeats itself goes on for long

TOP_K = 5  # k of the token confidence (paper §3.1.1)
TRACE = 20  # T of its trace
ACCEPT_DECAY = 0.85  # a token, of `accept_trace`


class Measured:
    """Something decoded. The paper's measures (§4.1) are ratios of its `sums`, None for nothing over nothing."""

    @property
    def sums(self) -> "Sums":
        """What they are ratios of."""
        raise NotImplementedError

    @property
    def exit_layer(self) -> float | None:
        """E: the mean exit layer of the rounds that drafted."""
        return _ratio(self.sums.depth, self.sums.drafting)

    @property
    def draft_length(self) -> float | None:
        """d: the mean number of drafts of the rounds that drafted."""
        return _ratio(self.sums.drafted, self.sums.drafting)

    @property
    def acceptance(self) -> float | None:
        """Accepted drafts over all drafts."""
        return _ratio(self.sums.accepted, self.sums.drafted)

    @property
    def tokens_per_round(self) -> float | None:
        """Committed tokens per round."""
        return _ratio(self.sums.tokens, self.sums.rounds)

    @property
    def tokens_per_s(self) -> float:
        """New tokens a second; 0 where no time passed."""
        return _ratio(self.sums.tokens, self.sums.seconds) or 0.0

    @property
    def measures(self) -> dict[str, Any]:
        """All of them by name."""
        names = ("exit_layer", "draft_length", "acceptance", "tokens_per_round", "tokens_per_s")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class Sums(Measured):
    """Over rounds; means of them do as well. seconds: reading the prompt included, where that is known.

    drafting: rounds that drafted. depth: their exit layers. drafted: their drafts. accepted: of those, confirmed.
    """

    tokens: float
    rounds: float
    drafting: float
    depth: float
    drafted: float
    accepted: float
    seconds: float

    @property
    def sums(self) -> "Sums":
        return self

    @classmethod
    def of(cls, tokens: int, seconds: float, rounds: Sequence[tuple[int | None, int, int]]) -> "Sums":
        """Of each round its exit layer (None: it did not draft), its drafts, and how many were accepted."""
        exits = [layer for layer, _, _ in rounds if layer is not None]
        drafted, accepted = sum(made for _, made, _ in rounds), sum(right for _, _, right in rounds)
        return cls(tokens, len(rounds), len(exits), sum(exits), drafted, accepted, seconds)

    @classmethod
    def total(cls, parts: Sequence[Measured]) -> "Sums":
        """Of all of them together."""
        sums = [part.sums for part in parts]
        return cls(*(sum(getattr(one, field.name) for one in sums) for field in fields(cls)))


def _ratio(above: float, below: float) -> float | None:
    return above / below if below else None
