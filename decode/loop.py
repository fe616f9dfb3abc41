"""The speculation loop: draft with early layers, verify with the rest, commit what the full model agrees with.

One round (paper §3.3), with a key-value buffer shared by drafting and verifying:
  1. walk   the last committed token goes up through the rule's candidates until one exits; its token is draft 1;
  2. draft  each draft runs through the same early layers and gives the next, until the rule stops;
  3. verify the kept early states (the last draft's own included) go through the other layers in one pass; the matching
            prefix is committed, and one token of the full model's own.
Rolling back is not an operation: positions behind the committed text are written over by the next round.
"""

import math
import time
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from torch import Tensor

from lede.decode.errors import ModelError
from lede.decode.lookup import Lookup
from lede.decode.model import LONGEST_BLOCK, Model
from lede.decode.round import Decision, Round
from lede.decode.rules import ExitRule
from lede.decode.sampling import Chooser, Settings, chooser
from lede.decode.state import DEPTH, DRAFT, State, Traces
from lede.decode.stops import StopStrings


class Decoding:
    """One generation under way. `rounds()` yields each round as it is committed; `tokens` is the text so far."""

    def __init__(self, model: Model, prompt: list[int], rule: ExitRule, settings: Settings):
        rule.start()
        check_request(model, prompt, rule)
        self.model, self.rule, self.tokens = model, rule, list(prompt)
        self.stops = settings.stops(model)
        self.limit = min(len(prompt) + settings.max_new_tokens, model.context)
        self.finish: str | None = None
        self._finish_at_limit = "length" if self.limit - len(prompt) == settings.max_new_tokens else "context"
        self._choose: Chooser = chooser(settings, model, prompt)
        self._stop_strings = StopStrings(model, settings.stop_strings) if settings.stop_strings else None
        self._lookup = Lookup(prompt) if rule.needs_lookup or 0 in rule.layers else None
        self._traces = Traces()
        self._cache = model.cache(self.limit)
        self._kept: dict[int, list[Tensor]] = {}  # for shadow tokens: outputs of those layers in this round
        self._prefill(prompt[:-1])

    def rounds(self) -> Iterator[Round]:
        """Decode until a stop; every Round has already been committed to `tokens`."""
        while self.finish is None:
            yield self._round()

    @torch.inference_mode()
    def _prefill(self, tokens: list[int]) -> None:
        for start in range(0, len(tokens), LONGEST_BLOCK):
            x = self.model.embed(tokens[start : start + LONGEST_BLOCK])
            self.model.read(x, start, self._cache)

    @torch.inference_mode()  # here and not around the loop above: a generator must not leave its mode to its caller
    def _round(self) -> Round:
        began = time.perf_counter()
        position = len(self.tokens) - 1
        most = min(self.rule.max_drafts, self.limit - len(self.tokens) - 1)
        self._decisions: list[Decision] = []
        self._drafts: list[int] = []
        self._distributions: list[Tensor | None] = []  # what each draft was drawn from
        self._draft_logp = self._deciding = 0.0
        self._trace, self._fared = self._traces.confidence, self._traces.accept
        self._kept = {layer: [] for layer in self.rule.shadow_layers}
        exit_layer, reached, states = self._walk(position) if most > 0 and self.rule.layers else (None, 0, [])
        if exit_layer is not None:
            self._draft(exit_layer, states, position, most)
        drafts = tuple(self._drafts)
        verifying = time.perf_counter()
        logits = self._verification(reached, states, position)
        accepted, targets = self._choose.verify(logits, self.tokens, self._drafts, self._distributions)
        shadow = self._shadow(accepted + 1)
        verified = time.perf_counter()
        committed = self._commit(targets[: accepted + 1], logits, accepted)
        cut = exit_layer is not None and (len(drafts) == most < self.rule.max_drafts or drafts[-1] in self.stops)
        round_ = Round(
            position, exit_layer, drafts, tuple(targets), accepted, committed, tuple(self._decisions), cut,
            seconds=time.perf_counter() - began, draft_seconds=verifying - began, verify_seconds=verified - verifying,
            decision_seconds=self._deciding, shadow=shadow,
        )  # fmt: skip
        self.rule.finish(round_)
        return round_

    def _walk(self, position: int) -> tuple[int | None, int, list[Tensor]]:
        """The depth phase. Returns the exit layer, how many layers have run, and the state of x_p behind them.

        The exit layer is None where nothing is drafted: at the bypass, or where no candidate is left but a lookup
        without a match.
        """
        x, reached, last = None, 0, self.rule.layers[-1]
        self._guess = self._lookup.guess() if self._lookup is not None else None
        for layer in self.rule.layers:
            if layer == self.model.layer_count:
                break
            if layer > 0:
                x = self.model.embed(self.tokens[-1:]) if x is None else x
                x = self._run(reached, layer, x, position)
                reached = layer
            if layer == 0 and self._guess is None:
                continue
            state = self._observe(layer, x, 1)
            forced = layer == last
            exits = forced or self._ask(self.rule.exit_here, state)
            self._note(state, exits, forced)
            if exits:
                self._take(layer, x, state)
                return layer, reached, [] if x is None else [x]
        return None, reached, [] if x is None else [x]

    def _draft(self, layer: int, states: list[Tensor], position: int, most: int) -> None:
        """The draft phase at `layer`; appends to the drafts and to `states`, the kept outputs of that layer."""
        drafts = self._drafts
        copies = self._lookup.copy(most) if layer == 0 and self._lookup is not None else []  # there are always so many
        while True:
            stopped = len(drafts) == most or drafts[-1] in self.stops
            if layer > 0:
                x = self.model.embed(drafts[-1:])
                states.append(self._run(0, layer, x, position + len(drafts)))
            if stopped:  # the last draft's own early pass, for the token after it, is all that was left to do
                return
            if copies:
                self._guess = copies[len(drafts)]
            elif self._lookup is not None:
                self._lookup.push(drafts[-1])
                self._guess = self._lookup.guess()
            x_last = states[-1] if states else None
            state = self._observe(layer, x_last, len(drafts) + 1)
            if not self.rule.keeps_last:
                # Dropped unseen: the rule looks at the state, never at what is drawn from it, so that what is drafted
                # when sampling still has the distribution q.
                goes_on = self._ask(self.rule.draft_on, state)
                self._note(state, goes_on, False)
                if not goes_on:
                    return
                self._take(layer, x_last, state)
                continue
            self._take(layer, x_last, state)
            forced = len(drafts) == most or drafts[-1] in self.stops
            goes_on = not forced and self._ask(self.rule.draft_on, state)
            self._note(state, goes_on, forced)
            most = most if goes_on else len(drafts)

    def _observe(self, layer: int, x: Tensor | None, draft_index: int) -> State:
        """The state at `layer`; with no more in it than the rule needs."""
        phase = DEPTH if draft_index == 1 else DRAFT
        self._logits = None
        if not self.rule.needs_state:
            return State(layer, draft_index, phase, token=-1)
        guess = self._guess
        if layer == 0:
            assert guess is not None
            return State(
                0, draft_index, phase, guess.token, 0.0, 0.0, self._trace, 0.0, 0.0, self._draft_logp, self._fared,
                guess.length, guess.agreement, 1.0,
            )  # fmt: skip
        assert x is not None
        self._logits = self.model.head(x)
        token, conf_topk, entropy, margin, top1_logp = self.model.statistics(self._logits)[0]
        lookup = (0.0, 0.0, 0.0) if guess is None else (guess.length, guess.agreement, float(guess.token == token))
        return State(
            layer, draft_index, phase, token, conf_topk, entropy, self._trace, margin, top1_logp, self._draft_logp,
            self._fared, *lookup,
        )  # fmt: skip

    def _take(self, layer: int, x: Tensor | None, state: State) -> None:
        """Draft the token of the layer just observed."""
        q = None
        if layer == 0:
            assert self._guess is not None
            token = self._guess.token
        elif self._logits is not None and self._choose.plain:
            token = state.token
            self._draft_logp += state.top1_logp
        else:
            assert x is not None
            logits = self.model.head(x) if self._logits is None else self._logits
            token, q = self._choose.draft(logits, self.tokens, self._drafts)
            if self.rule.needs_state:
                same = token == state.token
                self._draft_logp += state.top1_logp if same else float(torch.log_softmax(logits[0], 0)[token])
        self._drafts.append(token)
        self._distributions.append(q)

    def _ask(self, question: Callable[[State], bool], state: State) -> bool:
        began = time.perf_counter()
        answer = question(state)
        self._deciding += time.perf_counter() - began
        return answer

    def _note(self, state: State, exits: bool, forced: bool) -> None:
        if self.rule.needs_state:
            self._decisions.append(Decision(state, int(exits), forced, 1.0 if forced else self.rule.propensity))

    def _verification(self, reached: int, states: list[Tensor], position: int) -> Tensor:
        """The full model's logits (drafts + 1, vocabulary) at x_p and every draft, the first `reached` layers done."""
        x = torch.cat(states) if reached > 0 else self.model.embed(self.tokens[-1:] + self._drafts)
        return self.model.head(self._run(reached, self.model.layer_count, x, position))

    def _run(self, lo: int, hi: int, x: Tensor, position: int) -> Tensor:
        """Model.run, stopping by to keep what the shadow layers give."""
        for layer in self._kept:
            if lo < layer <= hi:
                x = self.model.run(lo, layer, x, position, self._cache)
                self._kept[layer].append(x)
                lo = layer
        return self.model.run(lo, hi, x, position, self._cache) if lo < hi else x

    def _shadow(self, rows: int) -> dict[int, tuple[tuple[int, float], ...]]:
        """Round.shadow, of the round's first `rows` positions: every row has passed every layer once, in order."""
        seen = {}
        for layer, outputs in self._kept.items():
            logits = self.model.head(torch.cat(outputs)[:rows])
            seen[layer] = tuple((s.token, math.exp(s.top1_logp)) for s in self.model.statistics(logits))
        return seen

    def _commit(self, tokens: list[int], logits: Tensor, accepted: int) -> tuple[int, ...]:
        """Append `tokens`, cut behind the first stop; update what the next states are made of."""
        for i, token in enumerate(tokens):
            self.tokens.append(token)
            if token in self.stops:
                self.finish = "stop"
            elif self._stop_strings is not None and self._stop_strings(self.tokens):
                self.finish = "stop_string"
            elif len(self.tokens) == self.limit:
                self.finish = self._finish_at_limit
            if self.finish is not None:
                tokens = tokens[: i + 1]
                break
        if self._lookup is not None:
            self._lookup.truncate(len(self.tokens) - len(tokens))
            self._lookup.extend(tokens)
        if self.rule.needs_state:
            self._traces.drafted(accepted, len(self._drafts))
            if self.rule.needs_trace:
                self._traces.committed([row.top1_logp for row in self.model.statistics(logits[: len(tokens)])])
        return tuple(tokens)


def check_request(model: Model, prompt: list[int], rule: ExitRule) -> None:
    """Raise ModelError for a prompt or a rule that this model cannot take."""
    if not prompt:
        raise ModelError("the prompt is empty: give at least one token")
    if len(prompt) >= model.context:
        raise ModelError(f"the prompt has {len(prompt)} tokens, the model's context is {model.context}: shorten it")
    if min(prompt) < 0 or max(prompt) >= model.vocabulary:
        raise ModelError(f"the prompt has token ids outside 0…{model.vocabulary - 1}: is it another model's?")
    exits = range(model.layer_count)
    bypass = len(rule.layers) > 1 and rule.layers[-1] == model.layer_count
    early = rule.layers[:-1] if bypass else rule.layers
    if any(layer not in exits for layer in early) or any(a >= b for a, b in pairwise(rule.layers)):
        raise ModelError(
            f"the rule exits at layers {', '.join(map(str, rule.layers))}; "
            f"this model has exits 1…{model.layer_count - 1} (and 0, prompt lookup, as the first, "
            f"and {model.layer_count}, no draft, as the last of several), and they must ascend"
        )
    if any(layer not in exits[1:] for layer in rule.shadow_layers) or any(
        a >= b for a, b in pairwise(rule.shadow_layers)
    ):
        raise ModelError(
            f"the rule wants shadow tokens of layers {', '.join(map(str, rule.shadow_layers))}; "
            f"this model has 1…{model.layer_count - 1}, and they must ascend"
        )
