"""The noisy network: its loss, its noise, and what is exported of it."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from lede.learn.buffers import TableBuffer, logged_transitions
from lede.learn.config import LearnConfig
from lede.learn.dqn import make_algorithm
from lede.learn.network import NoisyLinear, NoisyNetwork, SquaredErrorForwarder, mean_weights
from lede.policy import Policy
from tests.learn.toy import random_columns

CONFIG = LearnConfig(algorithm="dqn", hidden=(16, 8), gamma=0.9, batch_size=32, sigma0=0.1, anneal=False)


def network(sigma0=0.1, inputs=4):
    return NoisyNetwork(inputs, [16, 8], sigma0)


def algorithm(config=CONFIG):
    made = make_algorithm(SimpleNamespace(config=config), updates=100)
    made.create_impl((4,), 2)
    return made


def batch(config=CONFIG, size=32):
    data = random_columns(seed=0)
    buffer = TableBuffer(np.random.default_rng(0))
    buffer.fill(logged_transitions(data, data.observations, 3, config.gamma))
    return buffer.sample_transition_batch(size)


def test_initial_values_are_the_papers():
    layer = NoisyLinear(100, 50, 0.1)
    assert layer.weight.abs().max() <= 0.1 and layer.bias.abs().max() <= 0.1
    torch.testing.assert_close(layer.weight_sigma.detach(), torch.full((50, 100), 0.01))
    torch.testing.assert_close(layer.bias_sigma.detach(), torch.full((50,), 0.01))


def test_noise_is_factorised():
    layer = NoisyLinear(3, 2, 0.5)
    layer.noise = torch.tensor([1.0, -2.0, 3.0, 0.5, -1.5])
    weight = layer.weight + layer.weight_sigma * torch.tensor([[0.5, -1.0, 1.5], [-1.5, 3.0, -4.5]])
    bias = layer.bias + layer.bias_sigma * torch.tensor([0.5, -1.5])
    x = torch.randn(4, 3)
    torch.testing.assert_close(layer(x), x @ weight.T + bias)
    torch.testing.assert_close(layer.eval()(x), x @ layer.weight.T + layer.bias)


def test_the_draw_is_signed_roots_of_normal_numbers():
    q_func = network()
    torch.manual_seed(0)
    q_func.draw_noise()
    noise = torch.cat([layer.noise for layer in q_func.layers])
    torch.manual_seed(0)
    z = torch.randn(len(noise))
    torch.testing.assert_close(noise, z.sign() * z.abs().sqrt())


def test_the_error_is_squared():
    q_func = network(sigma0=0.0)
    forwarder = SquaredErrorForwarder(q_func)
    x, actions = torch.randn(6, 4), torch.tensor([[0], [1], [1], [0], [1], [0]])
    rewards, target = torch.randn(6, 1) * 50, torch.randn(6, 1)  # far beyond where Huber's loss is linear
    terminals, gamma = torch.tensor([[0.0], [1], [0], [1], [0], [0]]), torch.full((6, 1), 0.9**3)
    y = rewards + gamma * target * (1 - terminals)
    expected = (y - q_func(x).gather(1, actions)) ** 2
    torch.testing.assert_close(
        forwarder.compute_error(x, actions, rewards, target, terminals, gamma, reduction="none"), expected
    )
    mean = forwarder.compute_error(x, actions.view(-1), rewards, target, terminals, gamma)
    torch.testing.assert_close(mean, expected.mean())


def test_an_update_minimises_the_papers_loss():
    config = dataclasses.replace(CONFIG, sigma0=0.0)
    made, data = algorithm(config), batch(config)
    q_func = made.impl.q_function[0]
    with torch.no_grad():
        now = q_func(torch.tensor(data.observations)).gather(1, torch.tensor(data.actions).long())
        best = q_func(torch.tensor(data.next_observations)).max(dim=1, keepdim=True).values
        discount = torch.tensor(0.9**data.intervals * (1 - data.terminals))
        expected = (torch.tensor(data.rewards) + discount * best - now).square().mean()
    assert made.update(data)["loss"] == pytest.approx(float(expected), rel=1e-5)


def test_one_draw_per_network_and_update(monkeypatch):
    made, data = algorithm(), batch()
    online, target = made.impl.q_function[0], made.impl.modules.targ_q_funcs[0]
    draws, seen = [], []
    draw, forward = NoisyNetwork.draw_noise, NoisyNetwork.forward
    monkeypatch.setattr(NoisyNetwork, "draw_noise", lambda self: (draws.append(self), draw(self))[1])
    noted = lambda self, x: (seen.append((self, self.layers[-1].noise.clone())), forward(self, x))[1]  # noqa: E731
    monkeypatch.setattr(NoisyNetwork, "forward", noted)
    made.update(data)
    made.update(data)
    assert [drawn is target for drawn in draws] == [True, False, True, False]
    by_target = [noise for network, noise in seen if network is target]
    by_online = [noise for network, noise in seen if network is online]
    assert len(by_target) == len(by_online) == 2  # the target's second answer is its first
    assert not torch.equal(by_target[0], by_target[1]) and not torch.equal(by_online[0], by_online[1])
    assert not torch.equal(by_target[0], by_online[0])


def test_the_target_is_valued_on_the_draw_its_action_was_chosen_with():
    q_func = network()
    forwarder = SquaredErrorForwarder(q_func)
    x = torch.randn(6, 4)
    chosen = forwarder.compute_expected_q(x)
    values = forwarder.compute_target(x, chosen.argmax(dim=1))
    assert torch.equal(values, chosen.max(dim=1, keepdim=True).values)
    other = forwarder.compute_target(y := x.clone())  # another tensor is the first question of another update
    assert not torch.allclose(other, chosen) and torch.equal(forwarder.compute_target(y), other)
    assert not torch.equal(forwarder.compute_expected_q(x), chosen)


def test_double_dqn_values_the_online_networks_choice_by_the_target():
    config = dataclasses.replace(CONFIG, algorithm="double_dqn", sigma0=0.0)
    made, data = algorithm(config), batch(config)
    made.update(data)  # the first update copies
    online, target = made.impl.q_function[0], made.impl.modules.targ_q_funcs[0]
    with torch.no_grad():
        target.layers[-1].bias.copy_(
            online.layers[-1].bias - torch.tensor([1.0, -1.0])
        )  # the two must not agree by chance
        x, following = torch.tensor(data.observations), torch.tensor(data.next_observations)
        now = online(x).gather(1, torch.tensor(data.actions).long())
        chosen = online(following).argmax(1, keepdim=True)
        assert not torch.equal(chosen, target(following).argmax(1, keepdim=True))
        discount = torch.tensor(0.9**data.intervals * (1 - data.terminals))
        y = torch.tensor(data.rewards) + discount * target(following).gather(1, chosen)
    assert made.update(data)["loss"] == pytest.approx(float((y - now).square().mean()), rel=1e-5)


def test_sigmas_are_learned_and_copied_to_the_target():
    made, data = algorithm(), batch()
    before = made.impl.q_function[0].layers[-1].weight_sigma.detach().clone()
    made.update(data)  # the first update also copies
    online, target = made.impl.q_function[0], made.impl.modules.targ_q_funcs[0]
    assert not torch.equal(online.layers[-1].weight_sigma, before)
    assert torch.equal(online.layers[-1].weight_sigma, target.layers[-1].weight_sigma)


def test_the_exported_network_is_the_mean_network():
    made, data = algorithm(), batch()
    for _ in range(5):
        made.update(data)
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(64, 4)).astype(np.float32)
    mean, scale = rng.normal(size=4).astype(np.float32), rng.uniform(0.5, 2, 4).astype(np.float32)
    policy = Policy(("a", "b", "c", "d"), (2, 4), mean_weights(made.impl.q_function[0].layers), mean, scale)
    inputs = (rows - mean) / scale
    values = np.stack([made.predict_value(inputs, np.full(64, action)) for action in (0, 1)], axis=1)
    np.testing.assert_allclose(policy.values(rows), values, rtol=1e-3, atol=1e-5)
    np.testing.assert_array_equal(made.predict(inputs), policy.exits(rows))
    kept = policy.values(rows)
    made.update(data)
    np.testing.assert_array_equal(policy.values(rows), kept)  # a copy, not a view of what trains on
