"""The algorithms of `--algorithm`, all d3rlpy's, and how each ends as a plain network of two outputs.

`dqn`, `double_dqn`, `cql` train the noisy network of `learn.network`; their values are its last layer's.
`bcq` also imitates: an action less than 0.3 times as likely as the other, in the log, is not taken. The imitator shares
the hidden layers, so the masked choice is piecewise linear in them: two small ReLU layers more express it exactly.
`qr_dqn` values an action by 32 quantiles, the outputs of one linear layer: their mean is linear too.
`iqn` multiplies the hidden units by a function of the quantile's level, which does not depend on the state: averaged
over the 32 levels it decides by, that scales the last layer's columns.
The quantile networks have no noisy layers: noise is for exploring, and these are d3rlpy's own heads.
"""

import math
from typing import Any

import numpy as np
import torch

from lede.learn.config import LearnConfig
from lede.learn.errors import LearnError
from lede.learn.judge import Weights
from lede.learn.library import d3rlpy
from lede.learn.network import FusedAdamFactory, NoisyBodyFactory, NoisyQFunctionFactory, as_arrays, mean_weights

CQL_ALPHA = 1.0  # weight of the conservative term, d3rlpy's default
BCQ_RATIO = 0.3  # an action this many times less likely than the other is masked, d3rlpy's default
QUANTILES = 32


def make_algorithm(config: LearnConfig) -> Any:
    """d3rlpy's algorithm with our network, Adam and a hard target copy, on the CPU. Not for `fitted`."""
    quantiles = {
        "qr_dqn": d3rlpy.models.QRQFunctionFactory,
        "iqn": d3rlpy.models.IQNQFunctionFactory,
    }.get(config.algorithm)
    sigma0 = 0.0 if quantiles else config.sigma0
    settings: dict[str, Any] = {
        "batch_size": config.batch_size,
        "learning_rate": config.learning_rate,
        "optim_factory": FusedAdamFactory(),
        "encoder_factory": NoisyBodyFactory(widths=list(config.hidden), sigma0=sigma0),
        "gamma": config.gamma,
        "target_update_interval": config.target_interval,
    }
    if quantiles is None:
        settings["q_func_factory"] = NoisyQFunctionFactory(sigma0=sigma0)
    elif config.algorithm == "iqn":
        settings["q_func_factory"] = quantiles(n_quantiles=QUANTILES, n_greedy_quantiles=QUANTILES)
    else:
        settings["q_func_factory"] = quantiles(n_quantiles=QUANTILES)
    algos = d3rlpy.algos
    if config.algorithm == "cql":
        made = algos.DiscreteCQLConfig(alpha=CQL_ALPHA, **settings)
    elif config.algorithm == "bcq":
        made = algos.DiscreteBCQConfig(action_flexibility=BCQ_RATIO, **settings)
    elif config.algorithm == "double_dqn":
        made = algos.DoubleDQNConfig(**settings)
    elif config.algorithm in ("dqn", "qr_dqn", "iqn"):
        made = algos.DQNConfig(**settings)
    else:
        raise LearnError(f"{config.algorithm} is not one of d3rlpy's algorithms")
    return made.create(device=False)


def exported(algorithm: Any, config: LearnConfig) -> Weights:
    """The greedy policy of a trained algorithm as ((W, b), ...): ReLU between, the values of continue and exit at last.

    Exact in each case; those of `bcq` are 0 and a number whose sign is the choice, not values.
    """
    q_func = algorithm.impl.q_function[0]
    if config.algorithm in ("qr_dqn", "iqn"):
        head, body = q_func._fc, q_func.encoder
        weight, bias = as_arrays(head.weight, head.bias)
        if config.algorithm == "qr_dqn":
            weight, bias = weight.reshape(2, QUANTILES, -1).mean(1), bias.reshape(2, QUANTILES).mean(1)
        else:
            weight = weight * _mean_embedding(q_func)
        return (*(as_arrays(layer.weight, layer.bias) for layer in body.layers), (weight, bias))
    weights = mean_weights(q_func)
    if config.algorithm == "bcq":
        imitator = algorithm.impl.modules.imitator._fc
        return (*weights[:-1], *_masked(weights[-1], as_arrays(imitator.weight, imitator.bias)))
    return weights


def _mean_embedding(q_func: Any) -> Any:
    """Mean over the levels that IQN decides by of what they multiply the hidden units (H,) by."""
    levels = torch.linspace(0, 1, QUANTILES)
    steps = torch.arange(q_func._embed_size) + 1.0
    with torch.no_grad():
        return torch.relu(q_func._embed(torch.cos(math.pi * steps * levels[:, None]))).mean(0).numpy()


def _masked(head: Any, imitator: Any) -> Weights:
    """BCQ's choice from the last hidden layer, as three layers.

    With q = Q(exit) - Q(continue), g = log(p(exit) / p(continue)) and c = -log(ratio), it exits where
    max(min(q, g + c), g - c) > 0: beyond ±c the imitator alone decides. The layers use min(q, u) = q - relu(q - u),
    max(m, v) = v + relu(m - v) and x = relu(x) - relu(-x).
    """
    (qw, qb), (gw, gb) = ((w[1] - w[0], b[1] - b[0]) for w, b in (head, imitator))
    c = -math.log(BCQ_RATIO)
    first = np.stack([qw - gw, qw, -qw, gw, -gw]), np.array([qb - gb - c, qb, -qb, gb, -gb])
    # from relu(q - u), relu(±q), relu(±g): m - v and ±v, where m = q - relu(q - u), v = g - c
    second = (
        np.array([[-1, 1, -1, -1, 1], [0, 0, 0, 1, -1], [0, 0, 0, -1, 1]]),
        np.array([c, -c, c]),
    )
    third = np.array([[0, 0, 0], [1, 1, -1]]), np.zeros(2)
    return tuple((w.astype(np.float32), b.astype(np.float32)) for w, b in (first, second, third))
