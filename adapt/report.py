"""What a training achieved: held-out loss, and how often each layer already says what the last one will."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from lede.adapt.forward import Forward, logits
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


@torch.no_grad()
def measure(model: LlamaForCausalLM, stream: np.ndarray, context: int, progress: Progress) -> Report:
    """Measure `model` (fp32) on the held-out `stream`, of more than `context` tokens."""
    model.eval()
    forward = Forward(model, compiled=False)
    starts = np.linspace(0, len(stream) - context - 1, WINDOWS).astype(int)
    windows = torch.from_numpy(np.stack([stream[s : s + context + 1] for s in starts]).astype(np.int64))
    windows = windows.to(model.device)
    loss, agreed = 0.0, torch.zeros(forward.layers)
    for window in windows.split(1):
        states = forward.hidden_states(window[:, :-1])
        loss += forward.loss(states[-1], window[:, 1:]).item() / WINDOWS
        agreed += _agreement(forward, states).sum(1)
    on_text = agreed / (WINDOWS * context)

    whole, kept = _greedy(model, windows[:CONTINUATIONS, : (context + 1) // 2], context // 2)
    length = kept.shape[1]
    # The state that predicts a token stands one position before it.
    states = [state[:, -length - 1 : -1] for state in forward.hidden_states(whole)]
    on_output = _agreement(forward, states)[:, kept.flatten()].mean(1)
    shares = tuple(on_text.tolist()), tuple(on_output.tolist())
    return Report(progress, loss, *shares, WINDOWS * context, int(kept.sum()))


def _agreement(forward: Forward, states: list[Tensor]) -> Tensor:
    """states: L of (batch, length, hidden) → (L, batch × length) of 1.0 where the layer's argmax is the last one's."""
    tokens = [logits(state.flatten(0, 1), *forward.head).argmax(-1) for state in states]
    return torch.stack([t == tokens[-1] for t in tokens]).float().cpu()


def _greedy(model: LlamaForCausalLM, prompts: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """prompts: (batch, p) → those and their most likely continuations, (batch, p + n) with n <= length, and (batch, n)
    bool on the CPU: the continuation's tokens up to its end of text."""
    stop = model.generation_config.eos_token_id  # None, a token or several
    ends = torch.tensor([] if stop is None else stop, dtype=torch.long, device=prompts.device).flatten()
    settings = {"do_sample": False, "max_new_tokens": length, "pad_token_id": int(ends[0]) if len(ends) else 0}
    whole: Tensor = model.generate(prompts, attention_mask=torch.ones_like(prompts), **settings)  # type: ignore
    ended = torch.isin(whole[:, prompts.shape[1] :], ends).long()
    return whole, (ended.cumsum(1) - ended == 0).cpu()
