"""Choosing tokens: greedy, or sampling with the speculative correction that keeps the full model's distribution.

Both work on the *processed* logits, as `transformers` does: logits processors first, then temperature, top-k, top-p.
Drafts go through the same processing, each with the prefix that it really has.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from lede.decode.errors import ModelError


@dataclass(frozen=True)
class Settings:
    """What `generate` is asked for; names and meanings as in `transformers`, temperature 0 for greedy."""

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0  # 0: all
    top_p: float = 1.0
    seed: int | None = None
    stop_strings: tuple[str, ...] = ()
    stop_tokens: frozenset[int] | None = None  # None: the model's own
    logits_processor: LogitsProcessorList | None = None

    def __post_init__(self) -> None:
        checks = (
            (self.max_new_tokens >= 1, "max_new_tokens must be at least 1"),
            (self.temperature >= 0, "temperature must be 0 (greedy) or more"),
            (self.top_k >= 0, "top_k must be 0 (all) or more"),
            (0 < self.top_p <= 1, "top_p must be above 0 and at most 1"),
        )
        for fine, message in checks:
            if not fine:
                raise ModelError(message)


class Chooser(Protocol):
    """How a token is drawn from logits, and how drafts are judged."""

    plain: bool  # a draft is the most likely token of its logits as they are

    def draft(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> tuple[int, Tensor | None]:
        """A draft from logits (1, vocabulary) behind `prefix` and `drafts`.

        Also the distribution that it was drawn from (None: it is certain).
        """

    def verify(
        self, logits: Tensor, prefix: list[int], drafts: list[int], distributions: list[Tensor | None]
    ) -> tuple[int, list[int]]:
        """Judge drafts by the full model's logits (drafts + 1, vocabulary), row 0 being the position after `prefix`.

        Returns how many are accepted, and the full model's token at every row: at an accepted row the draft, at the
        first rejected one (or after the last) the token to commit in its place.
        """


class Greedy:
    """The most likely token; a draft is accepted where it is the full model's."""

    def __init__(self, processors: LogitsProcessorList | None = None):
        self._processors = processors
        self.plain = not processors

    def draft(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> tuple[int, Tensor | None]:
        """See Chooser."""
        if self._processors:
            logits = processed(logits, [prefix + drafts], self._processors)
        return most_likely(logits)[0], None

    def verify(
        self, logits: Tensor, prefix: list[int], drafts: list[int], distributions: list[Tensor | None]
    ) -> tuple[int, list[int]]:
        """See Chooser."""
        if self._processors:
            logits = processed(logits, prefixes(prefix, drafts), self._processors)
        targets = most_likely(logits)
        accepted = 0
        while accepted < len(drafts) and drafts[accepted] == targets[accepted]:
            accepted += 1
        return accepted, targets


class Sampler:
    """Speculative sampling (Leviathan et al. 2023, algorithm 1): committed tokens follow the full model's distribution.

    A draft x drawn from q is kept with probability min(1, p(x)/q(x)); at the first that is not, the token comes from
    max(p - q, 0), normalised. A certain draft (q None: a lookup's) is the case q(x) = 1: kept with probability p(x),
    replaced from p without x.
    """

    def __init__(self, settings: Settings, device: torch.device):
        warpers = LogitsProcessorList(settings.logits_processor or ())
        warpers.append(TemperatureLogitsWarper(float(settings.temperature)))
        if settings.top_k:
            warpers.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p < 1:
            warpers.append(TopPLogitsWarper(settings.top_p))
        self._processors = warpers
        self._generator = torch.Generator(device)
        if settings.seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(settings.seed)

    plain = False

    def draft(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> tuple[int, Tensor | None]:
        """See Chooser."""
        q = torch.softmax(processed(logits, [prefix + drafts], self._processors), -1)[0]
        return self._draw(q), q

    def verify(
        self, logits: Tensor, prefix: list[int], drafts: list[int], distributions: list[Tensor | None]
    ) -> tuple[int, list[int]]:
        """See Chooser."""
        p = torch.softmax(processed(logits, prefixes(prefix, drafts), self._processors), -1)
        targets = p.argmax(-1).tolist()  # rows behind the first rejection are not drawn: their most likely token stands
        for i, (token, q) in enumerate(zip(drafts, distributions, strict=True)):
            chance = float(p[i, token]) / (1.0 if q is None else float(q[token]))
            if float(torch.rand((), generator=self._generator, device=p.device)) < chance:
                targets[i] = token
                continue
            rest = p[i].clone() if q is None else (p[i] - q).clamp_(min=0)
            if q is None:
                rest[token] = 0
            if not rest.any():  # p and q differ by rounding alone: nothing is left to make up for
                rest = p[i]
            targets[i] = self._draw(rest)
            return i, targets
        targets[len(drafts)] = self._draw(p[len(drafts)])
        return len(drafts), targets

    def _draw(self, weights: Tensor) -> int:
        return int(torch.multinomial(weights, 1, generator=self._generator))


def most_likely(logits: Tensor) -> list[int]:
    """The first most likely token of every row."""
    if logits.device.type == "cpu":  # a few µs where torch takes 4 for each row
        tokens: list[int] = logits.numpy().argmax(-1).tolist()
        return tokens
    return logits.argmax(-1).tolist()


def processed(logits: Tensor, rows: list[list[int]], processors: LogitsProcessorList | None) -> Tensor:
    """Each row of logits through the processors, with its own whole prefix as they expect it."""
    if not processors:
        return logits
    out = [
        processors(torch.tensor([prefix], device=logits.device), row[None])  # type: ignore[arg-type]
        for prefix, row in zip(rows, logits, strict=True)
    ]
    return torch.cat(out)


def prefixes(prefix: list[int], drafts: list[int]) -> list[list[int]]:
    """The texts before each row of a verification: `prefix`, then with one draft more each."""
    return [prefix + drafts[:i] for i in range(len(drafts) + 1)]


def chooser(settings: Settings, device: torch.device) -> Chooser:
    """Greedy at temperature 0, else a sampler."""
    return Sampler(settings, device) if settings.temperature > 0 else Greedy(settings.logits_processor)
