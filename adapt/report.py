"""What a training achieved: held-out loss, and how often each layer already says what the last one will."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from lede.adapt.forward import Forward, logits
from lede.adapt.model import stop_tokens, write
from lede.adapt.train import Progress

WINDOWS = 32  # of the held-out text, evenly spaced, one context each
CONTINUATIONS = 16  # greedy ones, from the starts of as many windows


@dataclass(frozen=True)
class Report:
    """Measured on held-out text with the weights as they are stored.

    `on_text` and `on_output` give, for layers 1…L, the share of positions at which the layer's most likely next token
    is the last layer's: on that text, and on the model's own greedy output, which is what drafting meets.
    """

    progress: Progress
    held_out_loss: float  # of the last layer, nats per token
    on_text: tuple[float, ...]
    on_output: tuple[float, ...]
    text_positions: int
    output_positions: int


@dataclass(frozen=True)
class ExitsReport:
    """What a training of exit heads achieved; shares are of the model's own greedy answers to held-out prompts."""

    progress: Progress
    text: str  # in words
    own_tokens: int  # trained on, the model's own
    tokens: int  # in all, prompts included
    cut: bool  # by the disk limit
    held_out: int  # tokens measured on
    agreement: dict[int, float]  # by exit: the head's most likely token is the model's
    vocabulary: int  # tokens that can be drafted
    coverage: float  # how many of the model's tokens are among them, 0…1


@torch.no_grad()
def measure(model: LlamaForCausalLM, stream: np.ndarray, context: int, progress: Progress) -> Report:
    """Measure `model` (fp32) on the held-out `stream`, of more than `context` tokens."""
    model.eval()
    forward = Forward(model, compiled=False)
    starts = np.linspace(0, len(stream) - context - 1, WINDOWS).astype(int)
    windows = torch.from_numpy(np.stack([stream[s : s + context + 1] for s in starts]).astype(np.int64))
    windows = windows.to(model.device)
    loss, positions = 0.0, 0
    on_text, on_output = torch.zeros(2, forward.layers)
    for window in windows.split(1):
        states = forward.hidden_states(window[:, :-1])
        loss += forward.loss(states[-1], window[:, 1:]).item() / WINDOWS
        on_text += _agreed(forward, states)
    prompts = windows[:CONTINUATIONS, : (context + 1) // 2].tolist()
    for prompt, written in zip(prompts, write(model, prompts, context // 2, stop_tokens(model))[0], strict=True):
        # The state that predicts a token stands one position before it.
        states = forward.hidden_states(torch.tensor([prompt + written[:-1]], device=model.device))
        on_output += _agreed(forward, [state[:, len(prompt) - 1 :] for state in states])
        positions += len(written)
    shares = tuple((on_text / (WINDOWS * context)).tolist()), tuple((on_output / positions).tolist())
    return Report(progress, loss, *shares, WINDOWS * context, positions)


def _agreed(forward: Forward, states: list[Tensor]) -> Tensor:
    """states: L of (1, length, hidden) → (L,) at how many positions a layer's argmax is the last one's."""
    tokens = torch.stack([logits(state[0], *forward.head).argmax(-1) for state in states])
    return (tokens == tokens[-1]).sum(1).cpu()
