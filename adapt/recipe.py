"""LayerSkip's training step (arXiv 2404.16710, §4.1): which layers are left out, and which exits are taught."""

import math

import torch
from torch import Tensor

from lede.adapt.config import AdaptConfig
from lede.adapt.forward import Forward


def dropout_rate(layer: int, layers: int, highest: float) -> float:
    """Probability that a step leaves `layer` (1…layers) out: exponential from 0 at the first to `highest`."""
    return highest * math.expm1(math.log(2) * (layer - 1) / max(layers - 1, 1))


def exit_bands(layers: int) -> list[range]:
    """Three ranges of exit layers that share 1…layers-1 out; a step teaches one layer of each that is not empty.

    Under 8 layers the first is empty, under 4 the second too.
    """
    quarter, half = max(layers // 4, 1), max(layers // 2, 1)
    return [range(1, quarter), range(quarter, half), range(half, layers)]


def step_loss(
    forward: Forward, windows: Tensor, config: AdaptConfig, progress: float, draw: torch.Generator
) -> tuple[Tensor, float]:
    """Loss of one step and, of it, the last layer's cross-entropy in nats a token.

    windows: (batch, context + 1) token ids. `draw` decides the layers left out and the exits taught.
    """
    layers = forward.layers
    chances = torch.rand(layers, generator=draw).tolist()
    skipped = {n for n in range(1, layers + 1) if chances[n - 1] < dropout_rate(n, layers, config.layer_dropout)}
    inputs, targets = windows[:, :-1], windows[:, 1:]
    states = forward.hidden_states(inputs, skipped)
    last = forward.loss(states[-1], targets)
    total = last
    for band, weight in zip(exit_bands(layers), config.exit_weights, strict=True):
        if not band:
            continue
        layer = band[int(torch.randint(len(band), (), generator=draw))]
        if progress < config.distil_from:
            total = total + weight * forward.loss(states[layer - 1], targets)
        else:
            total = total + weight * forward.distilled(states[layer - 1], states[-1], targets, config.distil_share)
    return total, last.item()
