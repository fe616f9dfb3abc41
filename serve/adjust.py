"""What a request adds to logits that no GenerationConfig has: biases, and OpenAI's penalties."""

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lede.decode.model import Model
from lede.serve.api import ApiError
from lede.serve.asked import Asked, check_ids

if TYPE_CHECKING:
    from transformers import LogitsProcessorList


class Adjust:
    """A logits processor: logits + bias - frequency · (times in the answer so far) - presence · (whether in it).

    bias: (vocabulary,). start: tokens of the prompt.
    """

    def __init__(self, bias: Tensor, frequency: float, presence: float, start: int):
        self._bias, self._frequency, self._presence, self._start = bias, frequency, presence, start

    def __call__(self, ids: Tensor, logits: Tensor) -> Tensor:
        """Adjusted logits (1, vocabulary) behind a text (1, tokens)."""
        counts = torch.bincount(ids[0, self._start :], minlength=logits.shape[-1])
        return logits + self._bias - self._frequency * counts - self._presence * (counts > 0)


def adjusting(model: Model, asked: Asked, start: int) -> "LogitsProcessorList | None":
    """The processor for a request behind a prompt of `start` tokens; None where it asks for nothing of it.

    Raises ApiError for ids that are none of the model's.
    """
    if not asked.adjusts:
        return None
    from transformers import LogitsProcessorList

    bias = torch.zeros(model.vocabulary)
    if asked.allowed_token_ids:
        bias.fill_(-math.inf)
        bias[check_ids(model, "allowed_token_ids", asked.allowed_token_ids)] = 0
    for token, value in (asked.logit_bias or {}).items():
        if not (token.isascii() and token.isdigit()):
            raise ApiError(400, f"logit_bias: {token!r} is no token id", "logit_bias")
        bias[check_ids(model, "logit_bias", [int(token)])] += value
    made: Any = Adjust(bias.to(model.device), asked.frequency_penalty or 0, asked.presence_penalty or 0, start)
    return LogitsProcessorList([made])
