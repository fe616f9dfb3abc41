"""Choosing tokens: greedy, or sampling by noise that the seed and the position give (`decode.noise`).

Both work on the *processed* logits, as `transformers` does: logits processors first, then temperature, top-k, top-p.
Drafts go through the same processing, each with the prefix that it really has, and the same noise: a draft is right
where it is the token that the full model's logits give, in greedy and in sampled text alike.
"""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lede.decode.backends.choose import Compiled
from lede.decode.backends.compile import library
from lede.decode.choice import MOST_MARGIN, Choice, Chooser, Greedy, not_numbers
from lede.decode.errors import ModelError
from lede.decode.model import Model
from lede.decode.noise import gumbel
from lede.decode.state import rounded

if TYPE_CHECKING:
    from transformers import LogitsProcessorList

# Common options that ask for no logits processor of greedy decoding: with these alone nothing need be imported.
WITHOUT_PROCESSOR = {"bos_token_id", "eos_token_id", "pad_token_id", "transformers_version", "_from_model_config"}
WITHOUT_PROCESSOR |= {"use_cache", "max_length", "max_new_tokens", "stop_strings", "do_sample", "temperature", "top_k"}
WITHOUT_PROCESSOR |= {"top_p", "min_p", "output_attentions", "output_hidden_states"}
# Options that choose.c knows, beside temperature, top_k, top_p and min_p.
COMPILED = {"repetition_penalty", "suppress_tokens"}
USUAL_TOP_K = 50  # the library's own
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
    seed: int | None = None  # modulo 2^64; None: one is drawn from torch's global generator
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


class ByLibrary(Chooser):
    """Tokens of logits that `transformers`' own processors went through; any device, dtype and option.

    Greedy with temperature 0; else the highest log p + noise of `seed`.
    """

    def __init__(self, made: "LogitsProcessorList", model: Model, temperature: float, seed: int | None):
        self._processors, self._model, self.seed, self.temperature = made, model, seed, temperature

    def drafts(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> list[Choice]:
        return [Choice.of(*row) for row in self._choose(self._model.widened(logits), prefix, drafts)]

    def targets(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> list[int]:
        chosen = self._choose(logits, prefix, drafts)
        if any(math.isnan(logp) for _, logp, _, _ in chosen):
            if bool(logits.isnan().any()):
                raise not_numbers(-1)
            if self.temperature:  # greedily, the library takes such a row's first token
                raise not_numbers(-2)
        return [int(token) for token, _, _, _ in chosen]

    def noise(self, position: int, token: int) -> float:
        if not self.temperature:
            return 0.0
        return rounded(float(gumbel(self.seed or 0, position, torch.tensor(token))))

    def _choose(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> list[tuple[float, float, float, float]]:
        """For every row: token, log p, noise and margin; one transfer from the device for all."""
        scores = self._processed(logits, prefix, drafts).double()
        if not self.temperature:
            best, token = scores.max(-1)
            out = torch.stack((token.double(), torch.where(best.isnan(), best, 0.0)), 1)
            return [(*row, 0.0, 0.0) for row in out.tolist()]
        ids = None
        if scores.device.type == "cpu":  # noise for what is left; elsewhere waiting for its number takes longer
            left = int((scores > -math.inf).sum(-1).max())
            if left < scores.shape[1]:
                scores, ids = scores.topk(max(left, 1))
        logp = torch.log_softmax(scores, -1)
        tokens = torch.arange(scores.shape[1], device=scores.device).expand_as(scores) if ids is None else ids
        first = len(prefix) + len(drafts) + 1 - len(scores)
        noise = gumbel(self.seed or 0, torch.arange(first, first + len(scores), device=scores.device)[:, None], tokens)
        total = logp + noise
        best, place = total.topk(2) if scores.shape[1] > 1 else (total.repeat(1, 2), torch.zeros_like(tokens))
        chosen = place[:, :1]
        margin = (best[:, :1] - best[:, 1:]) if scores.shape[1] > 1 else torch.full_like(best[:, :1], MOST_MARGIN)
        columns = (tokens.gather(1, chosen).double(), logp.gather(1, chosen), noise.gather(1, chosen), margin)
        rows: list[tuple[float, float, float, float]] = torch.cat(columns, 1).tolist()
        return rows

    def _processed(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> Tensor:
        """Each row of `logits` through the processors, with the whole text before it."""
        if not self._processors:
            return logits
        text = torch.tensor([prefix + drafts], device=logits.device)
        first = text.shape[1] - len(logits) + 1
        # a copy of each row: a caller's own processor may write into what it is given
        call: Any = self._processors
        return torch.cat([call(text[:, : first + i], row[None].clone()) for i, row in enumerate(logits)])


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


def chooser(settings: Settings, model: Model, prompt: list[int]) -> Chooser:
    """How a text of these settings is chosen behind a prompt.

    Greedy down to `COLDEST`. On a CPU what people sample with is compiled; other options are the library's own code.
    """
    temperature = settings.temperature if settings.temperature > COLDEST else 0.0
    special = {name for name in set(settings.options) - WITHOUT_PROCESSOR if settings.options[name] is not None}
    if not (temperature or settings.logits_processor or special):
        return Greedy()
    seed = None
    if temperature:  # without one, torch.manual_seed decides, as people expect
        seed = int(torch.randint(2**63 - 1, ())) if settings.seed is None else settings.seed % 2**64
    if settings.logits_processor is None and special <= COMPILED and compiles(model):
        return Compiled(
            model.vocabulary,
            model.draft_vocabulary,
            temperature=temperature,
            top_k=USUAL_TOP_K if settings.top_k is None else settings.top_k,
            top_p=1.0 if settings.top_p is None else settings.top_p,
            seed=seed,
            **_compiled_options(settings.options),
        )
    made = processors(settings, model, prompt, temperature > 0)
    return ByLibrary(made, model, temperature, seed)


def sampling_columns(settings: Settings) -> dict[str, Any]:
    """What shapes a text, as the episodes table has it: temperature, top_k, top_p, and the other options as JSON."""
    sampled = settings.temperature > COLDEST
    top_k = (USUAL_TOP_K if settings.top_k is None else settings.top_k) if sampled else 0
    top_p = settings.top_p if sampled and settings.top_p is not None else 1.0
    names = (set(settings.options) - WITHOUT_PROCESSOR) | ({"min_p"} & set(settings.options) if sampled else set())
    options = {name: settings.options[name] for name in sorted(names)}
    columns = {"temperature": settings.temperature if sampled else 0.0, "top_k": top_k, "top_p": top_p}
    return columns | {"options": json.dumps(options, default=str) if options else ""}


def compiles(model: Model) -> bool:
    """Whether choose.c can be asked."""
    return model.device.type == "cpu" and model.dtype != torch.float64 and library("choose") is not None


def _compiled_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Options of `COMPILED` and min_p as `Compiled` has them. Raises ModelError for values that cannot be."""
    min_p, penalty = options.get("min_p") or 0.0, options.get("repetition_penalty")
    suppressed = options.get("suppress_tokens") or ()
    penalty = 1.0 if penalty is None else penalty
    for fine, message in (
        (isinstance(min_p, int | float) and 0 <= min_p <= 1, f"min_p must be from 0 to 1, not {min_p!r}"),
        (isinstance(penalty, int | float) and penalty > 0, f"repetition_penalty must be above 0, not {penalty!r}"),
        (all(isinstance(token, int) for token in suppressed), "suppress_tokens must be token ids"),
    ):
        if not fine:
            raise ModelError(f"the generation config cannot be used: {message}")
    return {"min_p": min_p, "penalty": penalty, "suppressed": suppressed}
