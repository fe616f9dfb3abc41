"""A stack of networks takes the steps that d3rlpy's algorithm takes with each of them alone."""

import numpy as np
import pytest
import torch

from lede.learn.algorithms import exported, make_algorithm
from lede.learn.buffer import ColumnBuffer
from lede.learn.config import preset
from lede.learn.data import Source
from lede.learn.judge import Judge
from lede.learn.library import quiet
from lede.learn.stacked import Batch, Stack
from lede.learn.together import train_together
from lede.replay.reader import open_dataset
from tests.learn.toy import random_columns, write_known

UPDATES = 5
GAMMA = 0.9


def batches_for(algorithm, columns, count, seed):
    buffer = ColumnBuffer(columns, columns.observations, 3, GAMMA, np.random.default_rng(seed))
    return [buffer.sample_transition_batch(16) for _ in range(count)]


def as_batch(several):
    def stacked(values, dtype=np.float32):
        return torch.from_numpy(np.stack(values).astype(dtype))

    return Batch(
        observations=stacked([b.observations for b in several]),
        actions=stacked([b.actions[:, 0] for b in several], np.int64),
        returns=stacked([b.rewards[:, 0] for b in several]),
        next_observations=stacked([b.next_observations for b in several]),
        discounts=stacked([(GAMMA**b.intervals * (1 - b.terminals))[:, 0] for b in several]),
    )


@pytest.mark.parametrize("algorithm", ["dqn", "double_dqn"])
@pytest.mark.parametrize("sigma0", [0.1, 0.0])
def test_updates_are_those_of_d3rlpy(algorithm, sigma0, monkeypatch):
    """The same batches, noise and first weights give the same weights, also where learning rates differ."""
    columns = random_columns(3, chains=60, features=5)
    rates = [1e-3, 1e-3, 3e-3]
    configs = [
        preset(algorithm=algorithm, learning_rate=rate, hidden=(16, 12), gamma=GAMMA, sigma0=sigma0, target_interval=2)
        for rate in rates
    ]
    torch.manual_seed(0)
    with quiet():
        algorithms = [make_algorithm(config) for config in configs]
        for one in algorithms:
            one.build_with_dataset(ColumnBuffer(columns, columns.observations, 3, GAMMA, np.random.default_rng(0)))
    stack = Stack(5, (16, 12), [0, 1, 2], rates, sigma0, double=algorithm == "double_dqn")
    for k, one in enumerate(algorithms):
        for layer, noisy in zip(stack._layers, one.impl.q_function[0].noisy_layers, strict=True):
            layer.weight[k], layer.bias[k, 0] = noisy.weight.detach(), noisy.bias.detach()
            layer.weight_sigma[k], layer.bias_sigma[k, 0] = noisy.weight_sigma.detach(), noisy.bias_sigma.detach()
    stack.copy_target()

    width = sum(sum(shape) for shape in stack.shapes)
    drawn = [batches_for(one, columns, UPDATES, seed) for seed, one in enumerate(algorithms)]
    real, losses = torch.randn, []
    draws = real(100, width)
    for one, batches in zip(algorithms, drawn, strict=True):
        left = iter(draws)
        monkeypatch.setattr(torch, "randn", lambda _, left=left: next(left))
        losses.append([one.update(batch)["loss"] for batch in batches])
        monkeypatch.setattr(torch, "randn", real)
    calls = []

    def once_a_draw(size, generator):
        calls.append(size)
        return draws[(len(calls) - 1) // len(stack.generators)]

    monkeypatch.setattr(torch, "randn", once_a_draw)
    for number in range(UPDATES):
        found = stack.update(as_batch([batches[number] for batches in drawn]))
        if number % 2 == 0:
            stack.copy_target()
        np.testing.assert_allclose(found, [several[number] for several in losses], rtol=1e-5)
    monkeypatch.setattr(torch, "randn", real)
    assert bool(calls) == (sigma0 > 0)
    for k, (one, config) in enumerate(zip(algorithms, configs, strict=True)):
        for mine, theirs in zip(stack.weights(k), exported(one, config), strict=True):
            np.testing.assert_allclose(mine[0], theirs[0], atol=1e-6)
            np.testing.assert_allclose(mine[1], theirs[1], atol=1e-6)
        sigmas = stack._layers[0].weight_sigma[k]
        assert torch.allclose(sigmas, one.impl.q_function[0].noisy_layers[0].weight_sigma, atol=1e-6)


def judges(path, **options):
    source = Source(open_dataset(path))
    quick = {"updates": 60, "score_every": 25, "batch_size": 16, "hidden": (8,)}
    configs = [
        preset(**(quick | options), seed=seed, n_steps=n, reward=reward)
        for seed in (0, 1)
        for n in (1, 3)
        for reward in ("time", "accepted")
    ]
    return [Judge(source.view(config), config) for config in configs]


def test_a_variant_does_not_depend_on_the_stack_it_is_in(tmp_path):
    write_known(tmp_path, episodes=20)
    together = judges(tmp_path)
    assert train_together(together, lambda *_: None) == [None] * len(together)
    assert len({judge.best.policy.weights[0][0].tobytes() for judge in together}) == len(together)
    for judge in together[::3]:
        assert [point.update for point in judge.history] == (
            [25, 30, 55, 60] if judge.config.reward == "time" else [25, 50, 60]
        )
    alone = judges(tmp_path)[3]
    train_together([alone], lambda *_: None)
    for mine, theirs in zip(alone.best.policy.weights, together[3].best.policy.weights, strict=True):
        np.testing.assert_allclose(mine[0], theirs[0], atol=1e-5)
    assert [point.loss for point in alone.history] == pytest.approx([p.loss for p in together[3].history], rel=1e-4)


def test_a_diverging_variant_does_not_disturb_the_others(tmp_path):
    write_known(tmp_path, episodes=20)
    wild = judges(tmp_path, learning_rate=100.0)[:1]
    calm = judges(tmp_path)
    alone = judges(tmp_path)
    trouble = train_together([*wild, *calm], lambda *_: None)
    assert "diverged after" in str(trouble[0]) and trouble[1:] == [None] * len(calm)
    train_together(alone, lambda *_: None)
    for mine, theirs in zip(calm, alone, strict=True):
        assert mine.history[-1].loss == pytest.approx(theirs.history[-1].loss, rel=1e-4)
