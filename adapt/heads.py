"""Exit heads: for each exit a decoder block over its layer's output, and a norm, read through the model's own head.

They learn from the last layer's distribution over the draft vocabulary; the model itself is not touched
(Kangaroo, arXiv 2404.18911).
"""

import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import LlamaForCausalLM

from lede.adapt.config import ExitsConfig
from lede.adapt.forward import block, block_weights, compile_all, head_size, logits, rotations
from lede.adapt.states import States


def draft_vocabulary(states: States, vocabulary: int, wanted: int, always: set[int]) -> Tensor | None:
    """The `wanted` most frequent of the token ids below `vocabulary`, `always` among them, ascending; None: all.

    What is to be learned counts three times; of tokens that are as frequent the lower id is taken, for tokenizers
    number tokens by their frequency.
    """
    if not 0 < wanted < vocabulary:
        return None
    count = torch.bincount(states.whole("tokens"), minlength=vocabulary)
    count += 2 * torch.bincount(states.next_tokens(), minlength=vocabulary)
    count[list(always)] = count.max() + 1
    return count.argsort(descending=True, stable=True)[:wanted].sort().values


class Heads(nn.ModuleDict):
    """{layer: a block with a norm}, in fp32, which begin as the model's last block and norm."""

    def __init__(
        self, model: LlamaForCausalLM, exits: tuple[int, ...], vocabulary: Tensor | None, compiled: bool | None
    ):
        super().__init__()
        self.weights: dict[int, tuple[tuple[Tensor, ...], Tensor]] = {}  # by exit: the block's, and the norm's
        for layer in exits:
            head = copy.deepcopy(model.model.layers[-1]).float().requires_grad_(True)
            norm = copy.deepcopy(model.model.norm).float().requires_grad_(True)
            head.add_module("norm", norm)
            self[str(layer)] = head
            self.weights[layer] = block_weights(head), norm.weight
        weight = model.lm_head.weight.detach()
        self.ids = torch.arange(len(weight)) if vocabulary is None else vocabulary
        self.rows = weight[self.ids.to(weight.device)]
        self.model = [model]  # in a list: no module of this one
        self.size, self.eps = head_size(model), model.config.rms_norm_eps
        self._block, self._loss = compile_all(compiled, block, _loss)

    def forward(self, layer: int, x: Tensor, document: Tensor | None = None) -> Tensor:
        """The block over `layer`'s output x (batch, length, hidden); attention stays within a `document` (as x)."""
        cos, sin = rotations(self.model[0], x.float(), torch.arange(x.shape[1], device=x.device)[None])
        y: Tensor = self._block(x.float(), cos, sin, self.weights[layer][0], self.size, self.eps, document)
        return y

    def add_gradients(self, states: States, config: ExitsConfig, number: int, share: float) -> float:
        """Step `number`: gradients from windows drawn by it; the mean over exits of the loss, nats per token."""
        draw = np.random.default_rng((config.seed, number))
        starts = draw.integers(len(states) - config.context + 1, size=config.batch).tolist()
        device = self.rows.device

        def windows(name: str) -> Tensor:
            return torch.stack([states.rows(name, start, start + config.context) for start in starts]).to(device)

        document, taught = windows("document"), windows("taught")
        with torch.no_grad():
            teacher = torch.softmax(F.linear(windows("last")[taught], self.rows).float(), -1)
        total = 0.0
        for layer in config.exits:
            with torch.autocast(device.type, torch.bfloat16):
                y = self(layer, windows(f"layer.{layer}"), document)[taught]
                loss = self._loss(y, teacher, self.weights[layer][1], self.rows, self.eps)
            (loss / max(len(y), 1)).backward()
            total += loss.item() / max(len(y), 1)
        return total / len(config.exits)

    @torch.no_grad()
    def agreement(self, states: States) -> dict[int, float]:
        """By exit: how often the head's most likely token is the one that the model wrote."""
        document, taught = states.whole("document"), states.whole("taught")
        agreed = dict.fromkeys(self.weights, 0)
        stops = [*(document.diff().nonzero()[:, 0] + 1).tolist(), len(document)]
        for start, stop in zip([0, *stops], stops, strict=False):
            learned = taught[start:stop]
            tokens = states.rows("tokens", start, stop)[1:][learned[:-1]]
            for layer in agreed:
                x = states.rows(f"layer.{layer}", start, stop)[None].to(self.rows.device)
                with torch.autocast(x.device.type, torch.bfloat16):
                    y = logits(self(layer, x)[0, learned], self.weights[layer][1], self.rows, self.eps)
                agreed[layer] += int((self.ids[y.argmax(-1).cpu()] == tokens).sum())
        return {layer: count / max(int(taught.sum()), 1) for layer, count in agreed.items()}

    def artefact(self) -> dict[str, Tensor]:
        """The tensors of `decode.exits`, in bf16, by their names there."""
        weights = {f"exits.{name}": weight.to("cpu", torch.bfloat16) for name, weight in self.state_dict().items()}
        everything = len(self.ids) == len(self.model[0].lm_head.weight)
        return weights if everything else weights | {"draft_vocabulary": self.ids.int()}


def _loss(x: Tensor, teacher: Tensor, norm: Tensor, rows: Tensor, eps: float) -> Tensor:
    """Cross-entropy, nats, of block outputs x (n, hidden) from the distributions `teacher` (n, tokens)."""
    return F.cross_entropy(logits(x, norm, rows, eps).float(), teacher, reduction="sum")
