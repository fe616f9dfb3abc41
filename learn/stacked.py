"""Many Q-networks of one shape trained at once: the same updates as d3rlpy's, in batched products.

K networks are one tensor (K, parameters); a layer of all of them is one `baddbmm`, and Adam one kernel. What d3rlpy
spends on walking modules and dispatching small operations is so paid once an update instead of K times. The networks
are those of `learn.network`: factorised noisy layers, ReLU between, squared error, a hard copy into the target network;
a test holds one update of each to d3rlpy's.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from lede.learn.judge import Weights
from lede.learn.network import as_arrays


@dataclass(frozen=True)
class Batch:
    """B transitions for each of K networks. discounts: gamma to the n-th power, 0 where the chain ends."""

    observations: Tensor  # (K, B, F)
    actions: Tensor  # (K, B) int64
    returns: Tensor  # (K, B), n-step
    next_observations: Tensor  # (K, B, F)
    discounts: Tensor  # (K, B)


@dataclass(frozen=True)
class _Layer:
    """Views of one noisy layer of all networks, into their flat parameters."""

    weight: Tensor  # (K, out, in)
    bias: Tensor  # (K, 1, out)
    weight_sigma: Tensor
    bias_sigma: Tensor


class Stack:
    """K Q-networks of F inputs, hidden widths and two outputs, with their target networks and Adam.

    seeds: (K,); networks of one seed start alike and draw the same noise, so that they differ by their variant alone.
    learning_rates: (K,). double: the online network chooses the next action (double DQN), not the target network.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        seeds: Sequence[int],
        learning_rates: Sequence[float],
        sigma0: float,
        double: bool = False,
    ) -> None:
        self.shapes = list(pairwise((inputs, *hidden, 2)))
        self.double, self.noisy = double, sigma0 > 0
        self.generators = {seed: torch.Generator().manual_seed(seed) for seed in sorted(set(seeds))}
        places = {seed: number for number, seed in enumerate(self.generators)}
        self.of_seed = torch.tensor([places[seed] for seed in seeds])
        self.sizes = [(i * o, o, i * o, o) for i, o in self.shapes]
        starts = torch.stack([self._start(generator, sigma0) for generator in self.generators.values()])
        # One tensor to copy, one to step; Adam takes a rate a group, so a group is the rows of one rate.
        self.online, self.gradient = starts[self.of_seed], torch.zeros(len(seeds), starts.shape[1])
        self.target = self.online.clone()
        self._layers, self._targets, self._gradients = map(self._views, (self.online, self.target, self.gradient))
        self.groups = []
        for rate, first, last in _runs(learning_rates):
            rows = torch.nn.Parameter(self.online[first:last])
            rows.grad = self.gradient[first:last]
            self.groups.append({"params": [rows], "lr": rate})
        self.adam = torch.optim.Adam(self.groups, fused=True)

    def _start(self, generator: torch.Generator, sigma0: float) -> Tensor:
        """(parameters,) of one network, as `NoisyLinear` initialises its layers."""
        parts = []
        for inputs, outputs in self.shapes:
            bound = 1 / math.sqrt(inputs)
            drawn = torch.empty((inputs + 1) * outputs).uniform_(-bound, bound, generator=generator)
            parts += [drawn, torch.full_like(drawn, sigma0 * bound)]
        return torch.cat(parts)

    def _views(self, flat: Tensor) -> list[_Layer]:
        """The layers of flat parameters (K, parameters)."""
        parts = iter(flat.split([size for sizes in self.sizes for size in sizes], dim=1))
        views = []
        for inputs, outputs in self.shapes:
            shapes = ((-1, outputs, inputs), (-1, 1, outputs)) * 2
            views.append(_Layer(*(next(parts).view(len(flat), *shape[1:]) for shape in shapes)))
        return views

    def draw_noise(self) -> list[tuple[Tensor, Tensor]]:
        """For each layer, f(z) = sign(z)√|z|: of outputs times of inputs (K, out, in), and of outputs (K, 1, out)."""
        if not self.noisy:
            return []
        width = sum(inputs + outputs for inputs, outputs in self.shapes)
        z = torch.stack([torch.randn(width, generator=generator) for generator in self.generators.values()])
        z = (z.sign() * z.abs().sqrt_())[self.of_seed]
        parts = iter(z.split([size for shape in self.shapes for size in shape], dim=1))
        pairs = [(next(parts)[:, None, :], next(parts)) for _ in self.shapes]
        return [(rows[:, :, None] * columns, rows[:, None, :]) for columns, rows in pairs]

    def forward(
        self, layers: list[_Layer], noise: list[tuple[Tensor, Tensor]], x: Tensor
    ) -> tuple[list[Tensor], list[Tensor]]:
        """(K, B, F) through all networks: each layer's input and at last the values (K, 2, B); and its weights."""
        seen, weights = [x], []
        for number, layer in enumerate(layers):
            weight, bias = layer.weight, layer.bias
            if noise:
                both, rows = noise[number]
                weight = torch.addcmul(weight, layer.weight_sigma, both)
                bias = torch.addcmul(bias, layer.bias_sigma, rows)
            if number < len(layers) - 1:
                x = torch.baddbmm(bias, x, weight.transpose(1, 2)).relu_()
            else:  # two columns are six times as slow as two rows
                x = torch.baddbmm(bias.transpose(1, 2), weight, x.transpose(1, 2))
            seen.append(x)
            weights.append(weight)
        return seen, weights

    @torch.no_grad()
    def update(self, batch: Batch) -> Tensor:
        """One step of all networks; their losses (K,), the mean over the batch of (y − Q(s, a))²."""
        if self.double:
            chooses = self.forward(self._layers, self.draw_noise(), batch.next_observations)[0][-1]
            values = self.forward(self._targets, self.draw_noise(), batch.next_observations)[0][-1]
            best = values.gather(1, chooses.argmax(1, keepdim=True))
        else:
            best = self.forward(self._targets, self.draw_noise(), batch.next_observations)[0][-1].amax(1, keepdim=True)
        noise = self.draw_noise()
        seen, weights = self.forward(self._layers, noise, batch.observations)
        values, actions = seen.pop(), batch.actions.unsqueeze(1)
        error = values.gather(1, actions) - (batch.returns.unsqueeze(1) + batch.discounts.unsqueeze(1) * best)
        slope = torch.zeros_like(values).scatter_(1, actions, error * (2 / error.shape[2]))
        self._backward(seen, weights, noise, slope.transpose(1, 2))
        self.adam.step()
        return error.square_().mean((1, 2))

    def _backward(
        self, seen: list[Tensor], weights: list[Tensor], noise: list[tuple[Tensor, Tensor]], slope: Tensor
    ) -> None:
        """From the loss's gradient in the values, (K, B, 2), fill `gradient` from the last layer to the first."""
        for number in reversed(range(len(seen))):
            x, into = seen[number], self._gradients[number]
            torch.bmm(slope.transpose(1, 2), x, out=into.weight)
            torch.sum(slope, 1, keepdim=True, out=into.bias)
            if noise:
                both, rows = noise[number]
                torch.mul(into.weight, both, out=into.weight_sigma)
                torch.mul(into.bias, rows, out=into.bias_sigma)
            if number:
                slope = torch.bmm(slope, weights[number])
                torch.ops.aten.threshold_backward.grad_input(slope, x, 0, grad_input=slope)  # where the unit was off

    def copy_target(self) -> None:
        """The hard copy into the target networks."""
        self.target.copy_(self.online)

    def weights(self, k: int) -> Weights:
        """Copies of network k's ((W, b), ...) without noise."""
        return tuple(as_arrays(layer.weight[k], layer.bias[k, 0]) for layer in self._layers)


def _runs(values: Sequence[float]) -> list[tuple[float, int, int]]:
    """(value, first, end) of each run of equal neighbours."""
    starts = [i for i, value in enumerate(values) if i == 0 or value != values[i - 1]]
    return [(values[a], a, b) for a, b in pairwise([*starts, len(values)])]
