"""How a token is chosen from logits: what every way of choosing has in common, and the plainest."""

import math
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from torch import Tensor

from lede.decode.errors import ModelError
from lede.decode.state import rounded

MOST_MARGIN = 10.0  # of a token without a rival; as in choose.c


class Choice(NamedTuple):
    """A row's token, and in sampled text how it came to be that one. Numbers are `rounded`."""

    token: int
    logp: float = 0.0  # log p of the token, of the row as processed
    noise: float = 0.0  # its Gumbel noise
    margin: float = 0.0  # log p + noise of the token less that of the next, `MOST_MARGIN` at most

    @classmethod
    def of(cls, token: float, logp: float, noise: float, margin: float) -> "Choice":
        """With numbers as they were computed."""
        return cls(int(token), rounded(logp), rounded(noise), rounded(min(margin, MOST_MARGIN)))


class Chooser(ABC):
    """Chooses tokens for one text. Drafts and the full model's tokens are chosen alike: equal ones are accepted.

    plain: a token is the most likely of its logits as they are. temperature: 0 where texts are greedy. seed: of the
    noise; None in greedy text.
    """

    plain = False
    temperature = 0.0
    seed: int | None = None

    @abstractmethod
    def drafts(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> list[Choice]:
        """A choice from each row of logits (rows, draft vocabulary), as `Model.speak` gives them.

        The last row is behind `prefix` and all drafts, the one before it behind all but one, and so on.
        """

    @abstractmethod
    def targets(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> list[int]:
        """The full model's tokens, of logits (drafts + 1, vocabulary); the first row is behind `prefix`.

        Raises ModelError for logits that are not numbers, and where no token may be.
        """

    def noise(self, position: int, token: int) -> float:
        """The noise of a token at a position of the text, `rounded`; 0 in greedy text."""
        return 0.0


class Greedy(Chooser):
    """The most likely token of the logits as they are."""

    plain = True

    def drafts(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> list[Choice]:
        raise AssertionError("a plain draft is `Model.most_likely`")

    def targets(self, logits: Tensor, prefix: list[int], drafts: list[int]) -> list[int]:
        return most_likely(logits)


def most_likely(logits: Tensor) -> list[int]:
    """The first most likely token of every row. Raises ModelError for NaN, which `Model.head` has found on a CPU."""
    if logits.device.type == "cpu":  # a few µs where torch takes 4 for each row
        tokens: list[int] = logits.numpy().argmax(-1).tolist()
        return tokens
    rows = torch.stack((logits.argmax(-1).double(), logits[:, -1].double()), 1).tolist()
    if any(math.isnan(last) for _, last in rows):
        raise not_numbers(-1)
    return [int(token) for token, _ in rows]


def not_numbers(token: int) -> ModelError:
    """What a row without a token means: NaN among its logits (-1), or no token left (-2), as in choose.c."""
    if token == -1:
        return ModelError(
            "the model's logits are not numbers (NaN): its weights are damaged, or overflow in this dtype"
        )
    return ModelError("the generation options leave no token that may come next: bar fewer")
