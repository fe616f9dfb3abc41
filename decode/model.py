"""An early-exit Llama: its layers can be run a few at a time, over a key-value cache whose roll-back is free.

Layers are counted 1…L (paper §3.1); `run(lo, hi, …)` runs layers lo+1…hi, so that `run(0, E, …)` followed by
`run(E, L, …)` is the whole model. Positions are given with every call: a row at position p attends to the positions up
to p, whatever lies behind them in the cache, so drafts that were rejected are simply written over.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from lede.decode.backends.eager import MASKED_ROWS, Eager
from lede.decode.backends.native import Native, supports
from lede.decode.config import Config
from lede.decode.facts import weights_hash
from lede.decode.state import Statistics

LONGEST_BLOCK = MASKED_ROWS  # rows that one call of `run` may be given


class Backend(Protocol):
    """What computes. Rows are (rows, hidden) in fp32, or the dtype of the residual stream."""

    def use_threads(self, threads: int) -> None:
        """Decode with so many CPU threads from here on."""

    def cache(self, length: int, prompt: int = 0) -> Any:
        """A new, empty cache for `length` positions, of a text that begins with a prompt of `prompt` tokens.

        The prompt's length matters to rotary embeddings whose frequencies depend on it (dynamic and longrope).
        """

    def embed(self, tokens: list[int]) -> Tensor:
        """The input rows of tokens."""

    def run(self, lo: int, hi: int, x: Tensor, position: int, cache: Any) -> Tensor:
        """Layers lo+1…hi over the rows x (rows, hidden) at `position`, `position`+1, …; their keys and values are kept.

        The cache must hold what those layers made of every earlier position.
        """

    def read(self, x: Tensor, position: int, cache: Any) -> None:
        """All layers over the rows x (rows, hidden), for their keys and values alone: how a prompt is read."""

    def head(self, x: Tensor) -> Tensor:
        """Logits (rows, vocabulary) in fp32 (fp64 for a fp64 model) of any layer's output x (rows, hidden)."""

    def statistics(self, logits: Tensor) -> list[Statistics]:
        """See `decode.state.statistics`."""


class Model:
    """A Llama checkpoint ready to decode one sequence at a time, by its backend; made by `decode.load.load_model`."""

    def __init__(
        self,
        name: str,
        config: Config,
        tokenizer: Any,  # `decode.tokenizer.Tokenizer`, one of `transformers`, or None
        weights: dict[str, Tensor],
        dtype: torch.dtype,
        device: torch.device,
        generation_config: dict[str, Any],  # as in generation_config.json
        native: bool = True,
    ):
        self.name, self.config, self.tokenizer, self.generation_config = name, config, tokenizer, generation_config
        self.dtype, self.device, self.weights_hash = dtype, device, weights_hash(weights)
        stop = generation_config.get("eos_token_id")
        self.stop_tokens = frozenset([stop] if isinstance(stop, int) else stop or ())
        self.layer_count: int = config.num_hidden_layers
        self.vocabulary: int = config.vocab_size
        self.context: int = config.context
        self.native = native and supports(config, dtype, device)
        backend: Backend = Eager(config, weights, dtype, device) if not self.native else Native(config, weights, dtype)
        self.backend = backend
        self.cache, self.embed, self.run, self.read = backend.cache, backend.embed, backend.run, backend.read
        self.head, self.statistics = backend.head, backend.statistics

    def use_threads(self, threads: int) -> None:
        """Decode with so many CPU threads from here on."""
        self.backend.use_threads(threads)
        torch.set_num_threads(threads)
