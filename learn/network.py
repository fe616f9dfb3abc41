"""The Q-network: a small MLP of factorised noisy layers, trained with d3rlpy's DQN (§3.2, §4.1).

d3rlpy has no noisy layers, and its mean Q-function hard-codes the Huber loss where the paper minimises the squared
error, so the whole network is our own: d3rlpy's "encoder" makes it, and its "Q-function" is the same object.

Noise: `DQN` asks the target network twice per update, first which action is best, then what it is worth, and the
online network once, for the error. Each network draws once per update, at its first question, and never in eval mode.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from lede.learn.library import d3rlpy

Weights = tuple[tuple[NDArray[np.float32], NDArray[np.float32]], ...]

ACTIONS = 2


class NoisyLinear(nn.Module):
    """y = (mu + sigma * noise) x with factorised Gaussian noise (Fortunato et al. 2018, eq. 10–11).

    Weights start as U(±1/√inputs), sigmas as sigma0/√inputs. `noise` is (inputs + outputs,), set by `draw_noise`.
    """

    noise: Tensor

    def __init__(self, inputs: int, outputs: int, sigma0: float) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(outputs).uniform_(-bound, bound))
        self.weight_sigma = nn.Parameter(torch.full((outputs, inputs), sigma0 * bound))
        self.bias_sigma = nn.Parameter(torch.full((outputs,), sigma0 * bound))
        self.noisy = sigma0 > 0
        self.register_buffer("noise", torch.zeros(inputs + outputs), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs) to (B, outputs)."""
        if not (self.noisy and self.training):
            return F.linear(x, self.weight, self.bias)
        columns, rows = self.noise.split((self.weight.shape[1], self.weight.shape[0]))
        weight = torch.addcmul(self.weight, self.weight_sigma, torch.outer(rows, columns))
        return F.linear(x, weight, torch.addcmul(self.bias, self.bias_sigma, rows))


class NoisyNetwork(nn.Module):
    """(B, inputs) to the values (B, 2): hidden layers of these widths, ReLU after each, and a last one."""

    def __init__(self, inputs: int, widths: Sequence[int], sigma0: float) -> None:
        super().__init__()
        sizes = pairwise((inputs, *widths, ACTIONS))
        self.layers = nn.ModuleList(NoisyLinear(before, after, sigma0) for before, after in sizes)

    def forward(self, x: Tensor) -> Tensor:
        *hidden, last = self.layers
        for layer in hidden:
            x = F.relu(layer(x))
        values: Tensor = last(x)
        return values

    def draw_noise(self) -> None:
        """A fresh draw for every layer: f(z) = sign(z)√|z| of standard normal z, in one call for all of them."""
        layers: Any = self.layers
        if not (layers[0].noisy and self.training):
            return
        sizes = [len(layer.noise) for layer in layers]
        z = torch.randn(sum(sizes))
        for layer, part in zip(layers, (z.sign() * z.abs().sqrt_()).split(sizes), strict=True):
            layer.noise = part


class SquaredErrorForwarder(d3rlpy.models.torch.DiscreteQFunctionForwarder):
    """How DQN talks to a `NoisyNetwork`."""

    def __init__(self, q_func: NoisyNetwork) -> None:
        self._q_func = q_func
        self._answered: tuple[Tensor | None, Tensor] = None, torch.empty(0)

    def compute_expected_q(self, x: Tensor) -> Tensor:
        """Values (B, actions), on a fresh draw: of the target network, this is an update's first question."""
        self._q_func.draw_noise()
        values: Tensor = self._q_func(x)
        self._answered = x, values
        return values

    def compute_target(self, x: Tensor, action: Tensor | None = None) -> Tensor:
        """The value (B, 1) of `action` (B,), or all of them, on the draw the action was chosen with.

        Within an update of DQN that is the tensor just asked about, so the answer is there already; where another
        network chose the action (double DQN), this is the first question, on a fresh draw.
        """
        asked, values = self._answered
        if asked is not x:
            values = self.compute_expected_q(x)
        return values if action is None else values.gather(1, action.view(-1, 1))

    def compute_error(
        self,
        observations: Tensor,
        actions: Tensor,
        rewards: Tensor,
        target: Tensor,
        terminals: Tensor,
        gamma: float | Tensor = 0.99,
        reduction: str = "mean",
    ) -> Tensor:
        """(y − Q(s, a))², y = n-step return + gamma * target unless terminal; gamma comes to the n-th power."""
        self._q_func.draw_noise()
        value = self._q_func(observations).gather(1, actions.view(-1, 1))
        y = rewards + gamma * target * (1 - terminals)
        error: Tensor = F.mse_loss(value, y, reduction=reduction)
        return error

    def set_q_func(self, q_func: NoisyNetwork) -> None:
        self._q_func = q_func


@dataclasses.dataclass()
class NoisyNetworkFactory(d3rlpy.models.encoders.EncoderFactory):
    """d3rlpy's way to configure a `NoisyNetwork`."""

    widths: Sequence[int]
    sigma0: float

    def create(self, observation_shape: Any) -> NoisyNetwork:
        return NoisyNetwork(observation_shape[0], self.widths, self.sigma0)

    @staticmethod
    def get_type() -> str:
        return "lede_noisy_network"


@dataclasses.dataclass()
class SquaredErrorFactory(d3rlpy.models.q_functions.QFunctionFactory):
    """d3rlpy's way to configure the squared error."""

    def create_discrete(
        self, encoder: NoisyNetwork, hidden_size: int, action_size: int
    ) -> tuple[NoisyNetwork, SquaredErrorForwarder]:
        return encoder, SquaredErrorForwarder(encoder)

    @staticmethod
    def get_type() -> str:
        return "lede_squared_error"


@dataclasses.dataclass()
class FusedAdamFactory(d3rlpy.optimizers.AdamFactory):
    """Adam in one kernel: on parameters this small, its two hundred little operations cost as much as the network."""

    def create_optimizer(self, named_modules: Any, lr: float) -> torch.optim.Adam:
        parameters = dict.fromkeys(p for _, module in named_modules for p in module.parameters())
        return torch.optim.Adam(parameters, lr=lr, betas=self.betas, eps=self.eps, fused=True)

    @staticmethod
    def get_type() -> str:
        return "lede_fused_adam"


def mean_weights(layers: Iterable[Any]) -> Weights:
    """Copies of ((W, b), ...) of linear layers, without noise: what a `lede.policy.Policy` is made of."""
    return tuple((layer.weight.detach().numpy().copy(), layer.bias.detach().numpy().copy()) for layer in layers)
