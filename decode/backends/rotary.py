"""Rotary position factors, with the library's own frequencies for each kind of scaling."""

from dataclasses import asdict
from types import SimpleNamespace

import torch
from torch import Tensor

from lede.decode.config import Config

ROOM = 1024  # positions to compute at once


class Rotary:
    """Tables of factors, made as positions come: position p turns the pair of coordinates (i, i + size/2)."""

    def __init__(self, config: Config):
        self._config, rotary = config, config.rotary
        self._frequencies, self._scale = frequencies(config)
        # As in `transformers`, a row's frequencies depend on how long the text was when the row was computed: to the
        # end of the prompt, or to the row itself. Up to this length they do not.
        self._threshold: int | None = {
            "dynamic": config.max_position_embeddings,
            "longrope": rotary.get("original_max_position_embeddings"),
        }.get(rotary["rope_type"])
        self._table = self._factors(0, 0)

    def table(self, length: int, prompt: int) -> Tensor:
        """(at least `length`, head size / 2) complex64, for a text that begins with a prompt of `prompt` tokens."""
        if self._threshold is not None and max(length, prompt) > self._threshold:
            return self._factors(length, prompt)
        if length > len(self._table):
            self._table = self._factors(max(length, 2 * len(self._table), ROOM), 0)
        return self._table

    def _factors(self, length: int, prompt: int) -> Tensor:
        position = torch.arange(length)[:, None]
        used, lengths = self._frequencies, (position + 1).clamp(min=prompt)
        if self._threshold is not None:
            long = lengths if self._config.rotary["rope_type"] == "dynamic" else self._threshold + 1
            used = torch.where(lengths > self._threshold, frequencies(self._config, long)[0], used)
        angle = position.float() * used
        return torch.complex(angle.cos() * self._scale, angle.sin() * self._scale)


def frequencies(config: Config, lengths: Tensor | int | None = None) -> tuple[Tensor, float]:
    """Radians per position of each pair, and what cosine and sine are scaled by, in texts of so many tokens."""
    if config.rotary["rope_type"] == "default":
        exponents = torch.arange(0, config.head_dim, 2, dtype=torch.float) / config.head_dim
        return 1.0 / (config.rotary["rope_theta"] ** exponents), 1.0
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    described = SimpleNamespace(**asdict(config), standardize_rope_params=lambda: None)
    computed: tuple[Tensor, float] = ROPE_INIT_FUNCTIONS[config.rotary["rope_type"]](described, seq_len=lengths)
    return computed
