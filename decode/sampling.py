"""Choosing tokens: greedy, or sampling with the speculative correction that keeps the full model's distribution.

Both work on the *processed* logits, as `transformers` does: logits processors first, then temperature, top-k, top-p.
Drafts go through the same processing, each with the prefix that it really has.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lede.decode.errors import ModelError
from lede.decode.model import Model

if TYPE_CHECKING:
    from transformers import LogitsProcessorList

# Common options that ask for no logits processor of greedy decoding: with these alone nothing need be imported.
WITHOUT_PROCESSOR = {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config"}
WITHOUT_PROCESSOR |= {"use_cache", "max_length", "max_new_tokens", "stop_strings", "do_sample", "temperature", "top_k"}
WITHOUT_PROCESSOR |= {"top_p", "min_p", "output_attentions", "output_hidden_states"}
# From here down a temperature gives the most likely token; in fp32, dividing by less can overflow.
COLDEST = 1e-30


@dataclass(frozen=True)
class Settings:
    """What decoding is asked for; names and meanings as in `transformers`, temperature 0 for greedy.

    What a model's generation config asks for is put into these by `generation_config.request`.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int | None = 0  # 0: all; None: the library's default
    top_p: float | None = 1.0
    seed: int | None = None  # modulo 2^64
    stop_strings: tuple[str, ...] = ()
    stop_tokens: frozenset[int] | None = None  # None: the model's own
    logits_processor: "LogitsProcessorList | None" = None
    ended: Callable[[list[int]], bool] | None = None  # asked behind every new token whether the text ends there
    options: Mapping[str, Any] = field(default_factory=dict)  # others of a GenerationConfig

    def __post_init__(self) -> None:
        checks = (
            (self.max_new_tokens >= 1, "max_new_tokens must be at least 1"),
            (self.temperature >= 0, "temperature must be 0 (greedy) or more"),
            (self.top_k is None or self.top_k >= 0, "top_k must be 0 (all) or more"),
            (self.top_p is None or 0 < self.top_p <= 1, "top_p must be above 0 and at most 1"),
            ("" not in self.stop_strings, "a stop string is empty, which every text ends in: leave it out"),
        )
        for fine, message in checks:
            if not fine:
                raise ModelError(message)

    def stops(self, model: Model) -> frozenset[int]:
        """The tokens that end a text."""
        return model.stop_tokens if self.stop_tokens is None else self.stop_tokens


class Greedy:
    """How a token is chosen from logits, and how drafts are judged: the most likely one, where it is the full model's.

    `plain`: a draft is the most likely token of its logits as they are.
    """

    def __init__(self, processors: "LogitsProcessorList | None" = None):
        self._processors = processors
        self.plain = not processors

    def draft(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> tuple[int, Tensor | None]:
        """A draft from logits (1, vocabulary) behind `prefix` and `drafts`.

        Also the distribution that it was drawn from (None: it is certain).
        """
        return most_likely(self._processed(logits, prefix, drafts))[0], None

    def verify(
        self, logits: Tensor, prefix: list[int], drafts: list[int], distributions: list[Tensor | None]
    ) -> tuple[int, list[int]]:
        """Judge drafts by the full model's logits (drafts + 1, vocabulary), row 0 being the position after `prefix`.

        Returns how many are accepted, and the full model's token at every row: at an accepted row the draft, at the
        first rejected one (or after the last) the token to commit in its place.
        """
        targets = most_likely(self._processed(logits, prefix, drafts))
        accepted = 0
        while accepted < len(drafts) and drafts[accepted] == targets[accepted]:
            accepted += 1
        return accepted, targets

    def _processed(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> Tensor:
        """Each row of `logits` through the processors, with the whole text before it.

        The last row is behind all drafts, the one before it behind all but one, and so on.
        """
        if not self._processors:
            return logits
        text = torch.tensor([prefix + drafts], device=logits.device)
        first = text.shape[1] - len(logits) + 1
        # a copy of each row: a caller's own processor may write into what it is given
        call: Any = self._processors
        return torch.cat([call(text[:, : first + i], row[None].clone()) for i, row in enumerate(logits)])


class Sampler(Greedy):
    """Speculative sampling (Leviathan et al. 2023, algorithm 1): committed tokens follow the full model's distribution.

    A draft x drawn from q is kept with probability min(1, p(x)/q(x)); at the first that is not, the token comes from
    max(p - q, 0), normalised. A certain draft (q None: a lookup's) is the case q(x) = 1: kept with probability p(x),
    replaced from p without x.
    """

    def __init__(self, processors: "LogitsProcessorList", seed: int | None, device: torch.device):
        super().__init__(processors)
        self.plain = False
        self._generator = torch.Generator(device)
        if seed is None:
            self._generator.seed()
        else:
            self._generator.manual_seed(seed % 2**64)

    def draft(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> tuple[int, Tensor | None]:
        q = torch.softmax(self._processed(logits, prefix, drafts), -1)[0]
        return self._draw(q), q

    def verify(
        self, logits: Tensor, prefix: list[int], drafts: list[int], distributions: list[Tensor | None]
    ) -> tuple[int, list[int]]:
        p = torch.softmax(self._processed(logits, prefix, drafts), -1)
        targets = p.argmax(-1).tolist()  # rows behind the first rejection are not drawn: their most likely token stands
        kept = self._kept(p, drafts, distributions)
        for i, (token, q) in enumerate(zip(drafts, distributions, strict=True)):
            if kept[i]:
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

    def _kept(self, p: Tensor, drafts: list[int], distributions: list[Tensor | None]) -> list[bool]:
        """Whether each draft is kept; a single transfer from the device for all."""
        if not drafts:
            return []
        drawn = torch.rand(len(drafts), generator=self._generator, device=p.device)
        q_x = [p.new_ones(()) if q is None else q[x] for x, q in zip(drafts, distributions, strict=True)]
        p_x = [p[i, x] for i, x in enumerate(drafts)]
        kept: list[bool] = (drawn * torch.stack(q_x) < torch.stack(p_x)).tolist()
        return kept

    def _draw(self, weights: Tensor) -> int:
        return int(torch.multinomial(weights, 1, generator=self._generator))


def most_likely(logits: Tensor) -> list[int]:
    """The first most likely token of every row."""
    if logits.device.type == "cpu":  # a few µs where torch takes 4 for each row
        tokens: list[int] = logits.numpy().argmax(-1).tolist()
        return tokens
    return logits.argmax(-1).tolist()


def processors(settings: Settings, model: Model, prompt: list[int], sampling: bool) -> "LogitsProcessorList":
    """The library's logits processors for `settings` behind a prompt, made and ordered by its own code."""
    from transformers import GenerationConfig, LlamaConfig
    from transformers.generation.utils import GenerationMixin

    asked = dict(settings.options) | {"do_sample": sampling, "eos_token_id": sorted(settings.stops(model)) or None}
    asked |= {"max_length": None, "max_new_tokens": settings.max_new_tokens}
    if sampling:
        asked |= {"temperature": settings.temperature, "top_k": settings.top_k, "top_p": settings.top_p}
    maker: Any = GenerationMixin()
    maker.config = LlamaConfig(vocab_size=model.vocabulary)
    ids = torch.tensor([prompt], device=model.device)
    try:
        config = GenerationConfig(**asked)
        config.update(**config._get_default_generation_params(), defaults_only=True)
        maker._prepare_special_tokens(config, True, device=model.device)
        maker._prepare_generated_length(config, True, True, "input_ids", len(prompt), ids)
        made: LogitsProcessorList = maker._get_logits_processor(
            config, len(prompt), ids, logits_processor=settings.logits_processor, device=model.device
        )
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise ModelError(f"the generation config cannot be used: {' '.join(str(error).split())}") from error
    return made


def chooser(settings: Settings, model: Model, prompt: list[int]) -> Greedy:
    """Greedy at temperature 0, else a sampler; with the logits processors that the settings ask for."""
    sampling = settings.temperature > COLDEST
    if not (sampling or settings.logits_processor or set(settings.options) - WITHOUT_PROCESSOR):
        return Greedy()
    made = processors(settings, model, prompt, sampling)
    return Sampler(made, settings.seed, model.device) if sampling else Greedy(made)
