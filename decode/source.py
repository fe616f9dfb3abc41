"""A model as the source of a speculation loop: its passes, its heads, its choice of tokens, and its cache."""

import math
import time
from collections.abc import Callable

import torch
from torch import Tensor

from lede.decode.choice import Choice
from lede.decode.errors import ModelError
from lede.decode.lookup import Guess, Lookup
from lede.decode.loop import Attempt, Look
from lede.decode.model import LONGEST_BLOCK, Model
from lede.decode.rules import ExitRule
from lede.decode.sampling import Settings, chooser
from lede.decode.state import ConfidenceTrace, State
from lede.decode.stops import StopStrings


class ModelSource:
    """Drafts and verifies with a model. See `decode.loop.Source`."""

    clock = staticmethod(time.perf_counter)

    def __init__(self, model: Model, settings: Settings):
        self.model, self.settings = model, settings
        self.layer_count = model.layer_count
        self.stops = settings.stops(model)
        asked = [settings.ended] if settings.ended is not None else []
        asked += [StopStrings(model, settings.stop_strings)] if settings.stop_strings else []
        self.ended = (lambda tokens: any([ends(tokens) for ends in asked])) if asked else None
        self.temperature = settings.temperature
        self.conf_trace = ConfidenceTrace()
        # sees committed tokens and the full model's logits (tokens, vocabulary) that they were chosen from, unprocessed
        self.on_logits: Callable[[list[int], Tensor], None] | None = None

    def start(self, text: list[int], rule: ExitRule) -> None:
        """Make the cache and read the prompt, but for its last token. Raises ModelError for what cannot work."""
        check_prompt(self.model, text, rule)
        self.text, self.rule = text, rule
        self.choose = chooser(self.settings, self.model, text)
        self.temperature = self.choose.temperature
        wanted = len(text) + self.settings.max_new_tokens
        self.limit = min(wanted, self.model.context)
        self.finish_at_limit = "length" if self.limit == wanted else "context"
        self.lookup = Lookup(text) if rule.needs_lookup or 0 in rule.layers else None
        self.cache = self.model.cache(self.limit, len(text))
        prefixes = self.model.prefixes
        with torch.inference_mode():
            self.reused = prefixes.carry(text, self.cache) if prefixes is not None else 0
            for begin in range(self.reused, len(text) - 1, LONGEST_BLOCK):
                x = self.model.embed(text[begin : min(begin + LONGEST_BLOCK, len(text) - 1)])
                self.model.read(x, begin, self.cache)
        if prefixes is not None:
            prefixes.keep(text, self.cache)

    def attempt(self, most: int) -> "ModelAttempt":
        """A new round."""
        return ModelAttempt(self, most)


class ModelAttempt(Attempt):
    """A round drafted and verified by a model. See `decode.loop.Attempt`."""

    def __init__(self, source: ModelSource, most: int):
        super().__init__(len(source.text) - 1, most, source.conf_trace.value)
        self._source, self._model = source, source.model
        self._reached = 0  # layers that the last committed token has gone through
        self._states: list[Tensor] = []  # outputs of the last layer reached: of that token, and of each draft
        self._logits: Tensor | None = None  # of the verification
        self._guess = source.lookup.guess() if source.lookup is not None and most > 0 else None
        self._copies: list[Guess] = []  # behind the guess, where layer 0 drafts
        # for shadow tokens: outputs of those layers
        self._kept: dict[int, list[Tensor]] = {layer: [] for layer in source.rule.shadow_layers}

    def reach(self, layer: int) -> bool:
        if layer == 0:
            return self._guess is not None
        x = self._states[0] if self._states else self._model.embed(self._source.text[-1:])
        self._states = [self._run(self._reached, layer, x, self.position)]
        self._reached = layer
        return True

    def look(self, layer: int) -> Look:
        choose = self._source.choose
        if layer == 0:
            copied = self._copy()
            return Look.copied(copied, choose.noise(self.position + len(self.drafts) + 1, copied.token))
        logits = self._speak(layer)
        seen = self._model.said(logits)[0]
        chosen = Choice(seen.token) if choose.plain else self._chosen(logits)
        guess = None
        if self._source.rule.needs_lookup:
            if self.drafts:
                assert self._source.lookup is not None
                self._source.lookup.push(self.drafts[-1])
                self._guess = self._source.lookup.guess()
            guess = self._guess
        return Look.of(seen, chosen, guess)

    def take(self, layer: int, state: State) -> tuple[int, float]:
        if layer == 0:
            return self._copy().token, 0.0
        if self._source.rule.needs_state:
            return state.token, state.token_logp if state.temperature else state.top1_logp
        logits = self._speak(layer)
        if self._source.choose.plain:
            return self._model.most_likely(logits), 0.0
        return self._chosen(logits).token, 0.0

    def extend(self, layer: int) -> None:
        if layer > 0:
            x = self._model.embed(self.drafts[-1:])
            self._states.append(self._run(0, layer, x, self.position + len(self.drafts)))

    def verify(self) -> list[int]:
        x = torch.cat(self._states) if self._reached > 0 else self._model.embed(self._source.text[-1:] + self.drafts)
        x = self._run(self._reached, self._model.layer_count, x, self.position)
        self._logits = self._model.head(x)
        began = time.perf_counter()
        targets = self._source.choose.targets(self._logits, self._source.text, self.drafts)
        self.choosing += time.perf_counter() - began
        return targets

    def shadow(self, rows: int) -> dict[int, tuple[tuple[int, float], ...]]:
        """See Attempt. Every row has passed every layer once, in order."""
        seen, source = {}, self._source
        for layer, outputs in self._kept.items():
            logits = self._model.speak(layer, torch.cat(outputs)[:rows], self.position, source.cache)
            said = self._model.said(logits)
            tokens: list[int] = [s.token for s in said]
            if not source.choose.plain:  # what the layer would have drafted there
                tokens = [chosen.token for chosen in source.choose.drafts(logits, source.text, self.drafts[: rows - 1])]
            seen[layer] = tuple((token, math.exp(s.top1_logp)) for token, s in zip(tokens, said, strict=True))
        return seen

    def commit(self, tokens: list[int]) -> None:
        source, rule = self._source, self._source.rule
        if source.lookup is not None:
            source.lookup.truncate(self.position + 1)
            source.lookup.extend(tokens)
        if source.on_logits is not None:
            assert self._logits is not None
            source.on_logits(tokens, self._logits[: len(tokens)])
        if rule.needs_state and rule.needs_trace:
            assert self._logits is not None
            rows = self._model.statistics(self._logits[: len(tokens)])
            source.conf_trace.add([row.top1_logp for row in rows])

    def _copy(self) -> Guess:
        """What layer 0 drafts behind the drafts so far, which it made all."""
        if not self.drafts:
            assert self._guess is not None
            return self._guess
        if not self._copies:
            assert self._source.lookup is not None
            self._copies = self._source.lookup.copy(self.most)
        return self._copies[len(self.drafts)]  # there are always so many: a guess has occurred before

    def _chosen(self, logits: Tensor) -> Choice:
        """The draft behind the drafts so far."""
        began = time.perf_counter()
        chosen = self._source.choose.drafts(logits, self._source.text, self.drafts)[0]
        self.choosing += time.perf_counter() - began
        return chosen

    def _speak(self, layer: int) -> Tensor:
        """What `layer` says behind the drafts."""
        position = self.position + len(self.drafts)
        return self._model.speak(layer, self._states[-1], position, self._source.cache)

    def _run(self, lo: int, hi: int, x: Tensor, position: int) -> Tensor:
        """Model.run, stopping by to keep what the shadow layers give."""
        for layer in self._kept:
            if lo < layer <= hi:
                x = self._model.run(lo, layer, x, position, self._source.cache)
                self._kept[layer].append(x)
                lo = layer
        return self._model.run(lo, hi, x, position, self._source.cache) if lo < hi else x


def check_prompt(model: Model, prompt: list[int], rule: ExitRule) -> None:
    """Raise ModelError for a prompt or a rule that this model cannot take."""
    if not prompt:
        raise ModelError("the prompt is empty: give at least one token")
    if len(prompt) >= model.context:
        raise ModelError(f"the prompt has {len(prompt)} tokens, the model's context is {model.context}: shorten it")
    if min(prompt) < 0 or max(prompt) >= model.vocabulary:
        raise ModelError(f"the prompt has token ids outside 0…{model.vocabulary - 1}: is it another model's?")
    exits, layers, shadow = range(model.layer_count), rule.layers, rule.shadow_layers
    allowed = {*exits, model.layer_count} if len(layers) > 1 else {*exits}
    if list(layers) != sorted(allowed & {*layers}) or list(shadow) != sorted({*exits[1:]} & {*shadow}):
        raise ModelError(
            f"the rule exits at layers {[*layers]} and has shadow tokens of {[*shadow]}; "
            f"this model has layers 1…{model.layer_count - 1} (to exit at also 0, prompt lookup, as the first, "
            f"and {model.layer_count}, no draft, as the last of several), and they must ascend"
        )
