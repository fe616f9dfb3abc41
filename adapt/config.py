"""What a training is told to do: one frozen dataclass, written beside the weights it made."""

from dataclasses import dataclass
from typing import Any

from lede.adapt.errors import AdaptError
from lede.ground import option

PEAK = 4e-3  # of both learning rates, for a new model
# For weights that have already learned: an order of magnitude below what a new model wants, so that the last layer
# keeps what it knows while the early ones learn to speak through its head.
CONTINUING = {"matrix_lr": 3e-4, "other_lr": 1e-4}
OWN_TEXT = 300_000  # tokens, where prompts are given, which are no text to learn from
FEWEST = 32  # tokens of a draft vocabulary: features are taken over several


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train."""

    context: int = option(512, "Tokens per window; a new model's longest context.", min=8)
    batch: int = option(8, "Windows per step.", min=1)
    steps: int = option(4000, "Training steps.", min=1)
    minutes: float | None = option(None, "Train by the clock instead of by steps.", min=0.01)
    other_lr: float = option(PEAK, "AdamW's rate, for everything else: embeddings, head, norms.", min=0.0)
    warmup: float = 0.01  # shares of the whole training
    decay_from: float = 0.6  # constant until here, then linear down to `final_lr`
    final_lr: float = 0.02  # of the peak
    checkpoint_every: float = 300.0  # seconds
    seed: int = option(0, "Of initial weights and batches.", min=0)

    def learning_rate(self, progress: float) -> float:
        """The factor on both rates at `progress` in 0…1: warm-up, constant, linear decay."""
        if progress < self.warmup:
            return max(progress / self.warmup, 0.01)
        fallen = max(0.0, progress - self.decay_from) / (1 - self.decay_from)
        return 1 - (1 - self.final_lr) * fallen


@dataclass(frozen=True)
class ExitsConfig(Schedule):
    """A training of exit heads for a model whose own weights stay as they are (as Kangaroo's, arXiv 2404.18911)."""

    exits: tuple[int, ...] = option((), "Train only exit heads, for these layers, as 4,8,12.")
    own_text: int = option(
        0,
        "Tokens that the model writes itself, going on from the prompts or texts, for exit heads to learn from. "
        f"[dim]Default: {OWN_TEXT:,} with prompts, else 0[/]",
        min=0,
    )
    answer: int = 256  # tokens that it writes to one prompt at most
    draft_vocabulary: int = option(4096, "Exit heads speak the N most frequent tokens; 0: all.", "--draft-vocab", min=0)
    disk: float = option(8.0, "GB of exit heads' hidden states.", min=0.0)
    batch: int = 4
    steps: int = 2000
    other_lr: float = 1e-3
    warmup: float = 0.02
    decay_from: float = 0.3

    def __post_init__(self) -> None:
        if not (self.draft_vocabulary == 0 or self.draft_vocabulary >= FEWEST):
            raise AdaptError(f"the draft vocabulary has {self.draft_vocabulary} tokens: give {FEWEST} or more, or 0")


@dataclass(frozen=True)
class AdaptConfig(Schedule):
    """A LayerSkip training (arXiv 2404.16710, §4.1), for a new small Llama or an existing checkpoint.

    The five sizes describe a new model, whose longest context is a window, and are ignored where a checkpoint is gone
    on from.
    """

    base: str | None = None  # the checkpoint; None: a new model
    layers: int = option(16, "Of a new model.", min=2)
    hidden: int = option(192, "Of a new model.", min=8)
    feed_forward: int = option(512, "Of a new model.", min=8)
    heads: int = option(3, "Of a new model.", min=1)
    vocabulary: int = option(2048, "Of a new model.", min=258)
    matrix_lr: float = option(
        PEAK,
        "Muon's rate, scaled to AdamW's step size, for the layers' matrices. "
        f"[dim]Default: {PEAK:g}; {CONTINUING['matrix_lr']:g} with --model[/]",
        min=0.0,
    )
    layer_dropout: float = 0.1  # of the last layer; lower layers less, rising exponentially from 0
    exit_weights: tuple[float, float, float] = (0.4, 0.4, 0.2)  # one exit each in 1…L/4-1, L/4…L/2-1, L/2…L-1
    distil_from: float = 0.3  # share of the training after which exits learn from the last layer
    distil_share: float = 0.7  # and how much of their loss that is

    def __post_init__(self) -> None:
        if self.hidden % (2 * self.heads):
            raise AdaptError(f"hidden is {self.hidden}: it must be an even number for each of the {self.heads} heads")

    @classmethod
    def defaults(cls, base: str | None, **given: Any) -> "AdaptConfig":
        """The settings `given`, the rest by default; going on from `base`, the learning rates are `CONTINUING`."""
        return cls(base=base, **((CONTINUING if base else {}) | given))
