"""An early-exit Llama: its layers can be run a few at a time, over a key-value cache whose roll-back is free.

What an early layer says comes from `speak`: through an exit head where the layer has one (`decode.exits`), whose block
is run as one more layer behind the L of the model, with its own keys and values in the same cache; else through the
model's own norm and head. A draft vocabulary narrows all that is drafted to a subset of the tokens; verification sees
all.

Layers are counted 1…L (paper §3.1); `run(lo, hi, …)` runs layers lo+1…hi, so that `run(0, E, …)` followed by
`run(E, L, …)` is the whole model. Positions are given with every call: a row at position p attends to the positions up
to p, whatever lies behind them in the cache, so drafts that were rejected are simply written over.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from lede.decode.backends.eager import MASKED_ROWS, Eager, head_weight
from lede.decode.backends.native import Native, supports
from lede.decode.config import Config, token_ids
from lede.decode.errors import ModelError
from lede.decode.exits import Exits, check_vocabulary
from lede.decode.prefix import Prefixes
from lede.decode.state import Statistics

LONGEST_BLOCK = MASKED_ROWS  # rows that one call of `run` may be given
# The logit of a token outside the draft vocabulary: finite, so that one is most likely even where all else is barred.
IMPOSSIBLE = -1e30


class Backend(Protocol):
    """What computes. Rows are (rows, hidden) in fp32, or the dtype of the residual stream."""

    def use_threads(self, threads: int) -> None:
        """Decode with so many CPU threads from here on."""

    def cache(self, length: int, prompt: int = 0) -> Any:
        """A new, empty cache for `length` positions, of a text that begins with a prompt of `prompt` tokens.

        Its `store` is keys and values by layer, `rotation` (`length` or more, …) the factors of each position, and
        `take(other, n)` copies the first n positions of another.

        The prompt's length matters to rotary embeddings whose frequencies depend on it (dynamic and longrope).
        """

    def embed(self, tokens: list[int]) -> Tensor:
        """The input rows of tokens."""

    def run(self, lo: int, hi: int, x: Tensor, position: int, cache: Any) -> Tensor:
        """Layers lo+1…hi over the rows x (rows, hidden) at `position`, `position`+1, …; their keys and values are kept.

        The cache must hold what those layers made of every earlier position.
        """

    def read(self, lo: int, hi: int, x: Tensor, position: int, cache: Any) -> None:
        """`run`, for the keys and values alone: how a prompt is read."""

    def head(self, x: Tensor) -> Tensor:
        """Logits (rows, vocabulary) in fp32 (fp64 for a fp64 model) of any layer's output x (rows, hidden)."""

    head_rows: Any  # of `head`, as `rows` gives them

    def rows(self, weight: Tensor) -> Any:
        """Rows (n, hidden) of a head, laid out once for all that read through them."""

    def reader(self, norm: Tensor, rows: Any) -> Callable[[Tensor], Tensor]:
        """A head like `head`, with another norm (hidden,) and other rows: x (rows, hidden) to logits (rows, n)."""

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
        exits: Exits | None = None,
        draft_vocabulary: Sequence[int] | None = None,  # ascending ids, empty: all; None: what the exits have, else all
    ):
        self.name, self.config, self.tokenizer, self.generation_config = name, config, tokenizer, generation_config
        self.dtype, self.device, self.weights_hash = dtype, device, weights_hash(weights)
        self.stop_tokens = token_ids(generation_config.get("eos_token_id"))
        self.layer_count: int = config.num_hidden_layers
        self.vocabulary: int = config.vocab_size
        self.context: int = config.context
        self.prefixes: Prefixes | None = None  # what to keep of the texts that are decoded; None: nothing
        self.native = native and supports(config, dtype, device)
        self.exits = exits
        self._blocks: dict[int, int] = {}  # layer with a head: index of its block
        if exits is not None:
            exits.check(config, name, self.weights_hash)
            self._blocks = {layer: self.layer_count + i for i, layer in enumerate(exits.layers)}
            weights = weights | {
                key.replace(f"exits.{layer}.", f"model.layers.{block}."): weight
                for layer, block in self._blocks.items()
                for key, weight in exits.weights.items()
                if key.startswith(f"exits.{layer}.")
            }
        check_numbers(name, weights, dtype)
        blocks = len(self._blocks)
        given = config, weights, dtype
        backend: Backend = Native(*given, blocks) if self.native else Eager(*given, device, blocks)
        self.backend = backend
        self.cache, self.embed = backend.cache, backend.embed
        self.statistics = backend.statistics
        ids = None if exits is None else exits.vocabulary
        if draft_vocabulary is not None:
            ids = torch.tensor(draft_vocabulary) if len(draft_vocabulary) else None
        if ids is not None:
            check_vocabulary(ids, self.vocabulary)
        self.draft_vocabulary: list[int] | None = None if ids is None else ids.tolist()
        rows = backend.head_rows if ids is None else backend.rows(head_weight(weights)[ids])
        self._ids = None if ids is None else ids.to(device)
        self._voices = {
            layer: backend.reader(weights[f"model.layers.{block}.norm.weight"], rows)
            for layer, block in self._blocks.items()
        }
        self._voice = backend.reader(weights["model.norm.weight"], rows)

    def run(self, lo: int, hi: int, x: Tensor, position: int, cache: Any) -> Tensor:
        """Layers lo+1…hi over the rows x (rows, hidden) at `position`, `position`+1, …; their keys and values are kept.

        So are those of the heads of the layers on the way, whoever drafted these rows. Returns the last layer's output.
        """
        for layer, block in self._blocks.items():
            if lo < layer <= hi:
                x, lo = self.backend.run(lo, layer, x, position, cache), layer
                self.backend.read(block, block + 1, x, position, cache)
        return self.backend.run(lo, hi, x, position, cache) if lo < hi else x

    def read(self, x: Tensor, position: int, cache: Any) -> None:
        """All layers and heads over the rows x (rows, hidden), for their keys and values alone."""
        last = max(self._blocks, default=0)
        self.backend.read(last, self.layer_count, self.run(0, last, x, position, cache), position, cache)

    def speak(self, layer: int, x: Tensor, position: int, cache: Any) -> Tensor:
        """What `layer` says behind its output x (rows, hidden), which `run` has given for these and earlier positions.

        Logits (rows, draft vocabulary) in fp32 (fp64 for a fp64 model).
        """
        if (block := self._blocks.get(layer)) is None:
            return self._voice(x)
        return self._voices[layer](self.backend.run(block, block + 1, x, position, cache))

    def head(self, x: Tensor) -> Tensor:
        """The full model's logits (rows, vocabulary) in fp32 (fp64 for a fp64 model) of its last layer's output x.

        Raises ModelError where they are NaN, on a CPU.
        """
        logits = self.backend.head(x)
        # A row of a NaN is NaN throughout, so that one number of each tells: two microseconds on a CPU. Elsewhere it is
        # asked together with the tokens (`decode.choice`), so that nothing more waits for the device.
        if logits.device.type == "cpu" and math.isnan(sum(logits[:, -1].tolist())):
            raise ModelError(
                f"the logits of {self.name} are NaN in {str(self.dtype).removeprefix('torch.')}: "
                "use --dtype float32, and see whether its files are whole"
            )
        return logits

    def said(self, logits: Tensor) -> list[Statistics]:
        """Statistics of what `speak` gave: over the draft vocabulary, but with the token's own id."""
        seen, ids = self.statistics(logits), self.draft_vocabulary
        return seen if ids is None else [s._replace(token=ids[s.token]) for s in seen]

    def most_likely(self, logits: Tensor) -> int:
        """The token that the first row of what `speak` gave makes most likely, by its own id."""
        best = int(logits[0].argmax())
        return best if self.draft_vocabulary is None else self.draft_vocabulary[best]

    def widened(self, logits: Tensor) -> Tensor:
        """Logits of `speak` (rows, draft vocabulary) as (rows, vocabulary)."""
        if self._ids is None:
            return logits
        return logits.new_full((len(logits), self.vocabulary), IMPOSSIBLE).index_copy_(1, self._ids, logits)

    def use_threads(self, threads: int) -> None:
        """Decode with so many CPU threads from here on."""
        self.backend.use_threads(threads)
        torch.set_num_threads(threads)


def check_numbers(name: str, weights: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Raise ModelError for the first weight with NaN, or with a number that `dtype` cannot hold.

    One pass over them, a sixth of the time that laying them out takes.
    """
    limit = torch.finfo(dtype).max
    for key, weight in weights.items():
        if weight.is_floating_point():
            low, high = map(float, torch.aminmax(weight))
            if not (-limit <= low and high <= limit):  # a NaN makes both of them NaN
                kind = str(dtype).removeprefix("torch.")
                raise ModelError(
                    f"{name} has numbers in {key} that are NaN or too large for {kind}: is the file whole?"
                )


def weights_hash(weights: dict[str, Tensor]) -> str:
    """Names a checkpoint's numbers by the head of every tensor, in bf16.

    It is the same whichever dtype they are held in, but for fp16, which cannot hold all of them: take it before.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].flatten()[:64].to(torch.bfloat16).float().cpu().numpy().tobytes())
    return digest.hexdigest()[:16]
