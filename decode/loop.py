"""The speculation loop: draft with early layers, verify with the rest, commit what the full model agrees with.

One round (paper §3.3), with a key-value buffer shared by drafting and verifying:
  1. walk   the last committed token goes up through the rule's candidates until one exits; its token is draft 1;
  2. draft  each draft runs through the same early layers and gives the next, until the rule stops;
  3. verify the kept early states (the last draft's own included) go through the other layers in one pass; the matching
            prefix is committed, and one token of the full model's own.
Rolling back is not an operation: positions behind the committed text are written over by the next round.

The loop asks a *source* for all that a model computes. One source is a model (`decode.source`); another is the record
of a text that is already written, with measured costs for a clock (`simulate.scalar`). What a round does is here alone.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

import torch

from lede.decode.choice import Choice
from lede.decode.lookup import Guess
from lede.decode.round import Decision, Round
from lede.decode.rules import ExitRule
from lede.decode.state import AcceptTrace, State, Statistics, rounded
from lede.process import DRAFT, WALK


class Look(NamedTuple):
    """What a layer says of the next token, and the lookup there; names as in `State`."""

    token: int
    conf_topk: float = 0.0
    entropy: float = 0.0
    margin: float = 0.0
    top1_logp: float = 0.0
    lookup_length: float = 0.0
    lookup_agreement: float = 0.0
    lookup_match: float = 0.0
    token_logp: float = 0.0
    noise: float = 0.0
    noise_margin: float = 0.0

    @classmethod
    def of(cls, seen: Statistics, chosen: Choice, guess: Guess | None) -> "Look":
        """At a real layer: its logits, the token chosen from them, and the lookup's guess there, if it was asked."""
        length, agreement, match = 0.0, 0.0, 0.0
        if guess is not None:
            length, agreement, match = guess.length, guess.agreement, float(guess.token == chosen.token)
        return cls(
            token=chosen.token,
            conf_topk=seen.conf_topk,
            entropy=seen.entropy,
            margin=seen.margin,
            top1_logp=seen.top1_logp,
            lookup_length=length,
            lookup_agreement=agreement,
            lookup_match=match,
            token_logp=chosen.logp,
            noise=chosen.noise,
            noise_margin=chosen.margin,
        )

    @classmethod
    def copied(cls, guess: Guess, noise: float) -> "Look":
        """At layer 0, whose token is the guess's; its noise, 0 in greedy text."""
        length, agreement = guess.length, guess.agreement
        return cls(guess.token, lookup_length=length, lookup_agreement=agreement, lookup_match=1.0, noise=noise)


class Attempt(ABC):
    """One round under way: what was drafted and decided so far, and how its source computes more."""

    def __init__(self, position: int, most: int, conf_trace: float = 0.0):
        self.position = position  # of the last committed token
        self.most = most  # drafts that there is room for
        self.conf_trace = conf_trace
        self.drafts: list[int] = []
        self.decisions: list[Decision] = []
        self.draft_logp = 0.0  # Σ log p of the drafts
        self.deciding = 0.0  # seconds inside the rule's own code
        self.choosing = 0.0  # seconds spent choosing tokens from logits

    @abstractmethod
    def reach(self, layer: int) -> bool:
        """Walk on to `layer`; false where layer 0 has nothing to copy."""

    @abstractmethod
    def look(self, layer: int) -> Look:
        """What `layer` says of the token behind the drafts."""

    @abstractmethod
    def take(self, layer: int, state: State) -> tuple[int, float]:
        """The token to draft from `layer`, whose `state` was seen if the rule needs it; and its log p there."""

    @abstractmethod
    def extend(self, layer: int) -> None:
        """Run the last draft through the layers up to `layer`."""

    @abstractmethod
    def verify(self) -> list[int]:
        """The full model's token at each of the drafts + 1 positions; behind a wrong draft it says nothing."""

    @abstractmethod
    def shadow(self, rows: int) -> dict[int, tuple[tuple[int, float], ...]]:
        """Round.shadow, of the first `rows` positions."""

    @abstractmethod
    def commit(self, tokens: list[int]) -> None:
        """These were appended to the text."""


class Source(Protocol):
    """What drafts and verifies, and how long a text may get. `start` begins a generation."""

    layer_count: int
    temperature: float  # 0: greedy text
    stops: frozenset[int]  # tokens that end a text
    limit: int  # tokens of a text, prompt included
    finish_at_limit: str  # Generation.finish of a text of so many

    @property
    def ended(self) -> Callable[[list[int]], bool] | None:
        """Whether a text ends here, for another reason than its last token."""

    def clock(self) -> float:
        """Seconds."""

    def start(self, text: list[int], rule: ExitRule) -> None:
        """Read the prompt; `text` is the one that the loop appends to. Raises ModelError for what cannot work."""

    def attempt(self, most: int) -> Attempt:
        """A new round, with room for so many drafts."""


class Decoding:
    """One generation under way. `rounds()` yields each round as it is committed; `tokens` is the text so far."""

    def __init__(self, source: Source, prompt: list[int], rule: ExitRule):
        rule.start()
        self.source, self.rule, self.tokens = source, rule, list(prompt)
        self.finish: str | None = None
        self._accept_trace = AcceptTrace()
        source.start(self.tokens, rule)

    def rounds(self) -> Iterator[Round]:
        """Decode until a stop; every Round has already been committed to `tokens`."""
        while self.finish is None:
            with torch.inference_mode():  # not around the loop: a generator must not leave its mode to its caller
                round_ = self._round()
            yield round_

    def _round(self) -> Round:
        source, rule, clock = self.source, self.rule, self.source.clock
        began = clock()
        attempt = source.attempt(min(rule.max_drafts, source.limit - len(self.tokens) - 1))
        exit_layer = self._walk(attempt) if attempt.most > 0 and rule.layers else None
        if exit_layer is not None:
            self._draft(attempt, exit_layer)
        drafts = attempt.drafts
        verifying = clock()
        targets = attempt.verify()
        accepted = matching(drafts, targets)
        shadow = attempt.shadow(accepted + 1) if rule.shadow_layers else {}
        verified = clock()
        committed = self._commit(attempt, targets[: accepted + 1], accepted)
        full = len(drafts) == attempt.most < rule.max_drafts
        round_ = Round(
            position=attempt.position,
            exit_layer=exit_layer,
            drafts=tuple(drafts),
            targets=tuple(targets),
            accepted=accepted,
            committed=committed,
            decisions=tuple(attempt.decisions),
            cut=exit_layer is not None and (full or drafts[-1] in source.stops),
            seconds=clock() - began,
            draft_seconds=verifying - began,
            verify_seconds=verified - verifying,
            decision_seconds=attempt.deciding,
            choose_seconds=attempt.choosing,
            shadow=shadow,
        )
        rule.finish(round_)
        return round_

    def _walk(self, attempt: Attempt) -> int | None:
        """The depth phase: the exit layer, whose token is the first draft.

        None where nothing is drafted: at the bypass, or where no candidate is left but a lookup without a match.
        """
        for layer in self.rule.layers:
            if layer == self.source.layer_count:
                break
            if not attempt.reach(layer):
                continue
            state = self._observe(attempt, layer, WALK)
            if self._decide(attempt, state, True if layer == self.rule.layers[-1] else None):
                self._take(attempt, layer, state)
                return layer
        return None

    def _draft(self, attempt: Attempt, layer: int) -> None:
        """The draft phase at `layer`."""
        goes_on = True
        while True:
            attempt.extend(layer)
            # then the last draft's own early pass, for the token after it, was all that was left to do
            if not goes_on or self._full(attempt):
                return
            state = self._observe(attempt, layer, DRAFT)
            if self.rule.keeps_last:
                self._take(attempt, layer, state)
                goes_on = self._decide(attempt, state, False if self._full(attempt) else None)
            elif self._decide(attempt, state):
                self._take(attempt, layer, state)
            else:
                return

    def _full(self, attempt: Attempt) -> bool:
        """Whether no draft may follow: there is no room, or the text ends with the last."""
        return len(attempt.drafts) == attempt.most or attempt.drafts[-1] in self.source.stops

    def _observe(self, attempt: Attempt, layer: int, phase: int) -> State:
        """The state at `layer`; with no more in it than the rule needs."""
        draft_index = len(attempt.drafts) + 1
        if not self.rule.needs_state:
            return State(layer, draft_index, phase, token=-1)
        seen = attempt.look(layer)
        return State(
            layer=layer,
            draft_index=draft_index,
            phase=phase,
            token=seen.token,
            conf_topk=seen.conf_topk,
            entropy=seen.entropy,
            conf_trace=attempt.conf_trace,
            margin=seen.margin,
            top1_logp=seen.top1_logp,
            draft_logp=rounded(attempt.draft_logp),
            accept_trace=self._accept_trace.value,
            lookup_length=seen.lookup_length,
            lookup_agreement=seen.lookup_agreement,
            lookup_match=seen.lookup_match,
            token_logp=seen.token_logp,
            noise=seen.noise,
            noise_margin=seen.noise_margin,
            temperature=self.source.temperature,
        )

    def _take(self, attempt: Attempt, layer: int, state: State) -> None:
        token, logp = attempt.take(layer, state)
        attempt.drafts.append(token)
        attempt.draft_logp += logp

    def _decide(self, attempt: Attempt, state: State, forced: bool | None = None) -> bool:
        """The rule's answer; `forced` where it is not asked."""
        answer, propensity = forced, 1.0
        if answer is None:
            began = self.source.clock()
            answer, propensity = self.rule.answer(state)
            attempt.deciding += self.source.clock() - began
        if self.rule.needs_state:
            attempt.decisions.append(Decision(state, int(answer), forced is not None, propensity))
        return answer

    def _commit(self, attempt: Attempt, tokens: list[int], accepted: int) -> tuple[int, ...]:
        """Append `tokens`, cut behind the first stop; update what the next states are made of."""
        source = self.source
        for i, token in enumerate(tokens):
            self.tokens.append(token)
            if token in source.stops:
                self.finish = "stop"
            elif source.ended is not None and source.ended(self.tokens):
                self.finish = "stop_string"
            elif len(self.tokens) == source.limit:
                self.finish = source.finish_at_limit
            if self.finish is not None:
                tokens = tokens[: i + 1]
                break
        attempt.commit(tokens)
        if self.rule.needs_state:
            self._accept_trace.add(accepted, len(attempt.drafts))
        return tuple(tokens)


def matching(drafts: list[int], targets: list[int]) -> int:
    """How many drafts are right: those before the first that is not the full model's token."""
    return next((i for i, draft in enumerate(drafts) if draft != targets[i]), len(drafts))
