"""What travels out of the speculation loop."""

from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from lede.decode.state import State
from lede.process import Measured, Sums


class Decision(NamedTuple):
    """One decision of a round; action 1 = exit (draft from here, draft another), 0 = continue (go deeper, stop)."""

    state: State
    action: int
    forced: bool  # the last candidate, or the draft limit: the rule was not asked
    propensity: float = 1.0  # probability with which the rule took this action; 1 where it does not draw, or is forced


@dataclass(frozen=True, slots=True)
class Round:
    """One round: some drafts, one verification, and what it committed."""

    position: int  # of the last token committed before it
    exit_layer: int | None  # None: nothing was drafted (a bypass, no guess, or no room for a draft)
    drafts: tuple[int, ...]
    targets: tuple[int, ...]  # the full model's token at each of the drafts + 1 positions, given the drafts before it
    accepted: int  # drafts committed, before any stop cut them
    committed: tuple[int, ...]  # accepted drafts and one token of the full model, cut at a stop
    decisions: tuple[Decision, ...]  # empty for rules without `needs_state`
    cut: bool  # ended by the token limit or an end of text in the drafts, not by the rule
    seconds: float
    draft_seconds: float  # of which: the walk and the drafts, decisions included
    verify_seconds: float  # and the verification, shadow tokens included
    decision_seconds: float = 0.0  # of draft_seconds: inside the rule's own code
    choose_seconds: float = 0.0  # of both: choosing tokens from logits
    # For rules with `shadow_layers`: layer → (token, probability) at the positions of `targets` up to and including the
    # first mismatch, which are accepted + 1.
    shadow: dict[int, tuple[tuple[int, float], ...]] = field(default_factory=dict)

    @property
    def counts(self) -> tuple[int | None, int, int]:
        """See `Sums.of`."""
        return self.exit_layer, len(self.drafts), self.accepted


@dataclass(frozen=True)
class Generation(Measured):
    """One finished text and what it took."""

    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]  # the new tokens, an end-of-text token included
    text: str
    # "stop" (a stop token), "stop_string" (or Settings.ended), "length" (max_new_tokens) or "context" (the model's)
    finish: str
    seconds: float  # prompt included
    prefill_seconds: float
    rounds: tuple[Round, ...] = field(repr=False)
    reused: int = 0  # positions of the prompt that were not read again (`Model.prefixes`)
    seed: int | None = None  # of the noise of sampled text, given or drawn; None: greedy

    @cached_property
    def sums(self) -> Sums:
        """See `Measured`."""
        return Sums.of(len(self.token_ids), self.seconds, [round_.counts for round_ in self.rounds])
