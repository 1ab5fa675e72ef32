"""Random features, and their gradient flow against gradient descent and against solvers written by others."""

import math

import numpy as np
import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.networks.random_features import GradientFlow, RandomFeaturesOptions


def numbers(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def scene(n, m=15, d=2):
    """A network, examples for it, their features and targets."""
    network = RandomFeaturesOptions(m).build((d,)).double()
    x, t, y = numbers(n, d), numbers(n, seed=1), numbers(n, d, seed=2)
    return network, x, t, y, network.features(x, t)


def test_only_the_last_layer_is_trained_and_it_starts_at_zero():
    network = RandomFeaturesOptions(30).build((3, 4, 4))
    assert [name for name, _ in network.named_parameters()] == ["A"]
    assert set(network.state_dict()) == {"A", "W", "u", "b"}
    x = torch.randn(5, 3, 4, 4)
    assert network(x, torch.rand(5)).shape == x.shape and not network(x, torch.rand(5)).any()


def test_features_are_named_by_their_seed():
    a, b, c = (RandomFeaturesOptions(30, seed=seed).build((2,)) for seed in (1, 1, 2))
    assert torch.equal(a.W, b.W) and not torch.equal(a.W, c.W)
    wide = RandomFeaturesOptions(20_000, spread=3.0).build((2,))
    assert float(wide.W.std()) == pytest.approx(3 / math.sqrt(2), rel=0.02)
    assert float(wide.b.std()) == pytest.approx(3, rel=0.02) and float(wide.u.std()) == pytest.approx(1, rel=0.02)


def test_flow_is_the_limit_of_gradient_descent_on_the_network():
    network, x, t, y, phi = scene(40)
    flow, tau, steps = GradientFlow.of(phi, y), 30.0, 3000
    descent = torch.optim.SGD(network.parameters(), lr=tau / steps)
    for _ in range(steps):
        descent.zero_grad()
        (network(x, t) - y).square().sum(1).mean().backward()
        descent.step()
    expected = flow.weights(tau)
    assert float((network.A.detach() - expected).norm() / expected.norm()) < 1e-3
    assert flow.loss(network.A.detach()) == pytest.approx(
        float((network(x, t) - y).detach().square().sum(1).mean()), rel=1e-12
    )


@pytest.mark.parametrize("tau", [0.1, 10.0, 1e5])
def test_flow_solves_its_equation(tau):
    _, _, _, y, phi = scene(40)
    flow, h = GradientFlow.of(phi, y), 1e-4
    rate = (flow.weights(tau * (1 + h)) - flow.weights(tau * (1 - h))) / (2 * h * tau)
    A = flow.weights(tau).requires_grad_()
    (phi @ A.T / 15 - y).square().sum(1).mean().backward()
    torch.testing.assert_close(rate, -A.grad, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("n", [8, 40])
def test_infinite_training_is_least_squares_of_least_norm(n):
    """Fewer examples than features, and more; numpy's solver is by singular values of the examples themselves."""
    _, _, _, y, phi = scene(n)
    expected = np.linalg.lstsq(phi.numpy() / 15, y.numpy(), rcond=1e-10)[0].T
    np.testing.assert_allclose(GradientFlow.of(phi, y).weights().numpy(), expected, rtol=1e-6, atol=1e-6)


def test_ridge_is_the_penalised_minimum():
    """Against least squares with the penalty as further examples."""
    _, _, _, y, phi = scene(40)
    penalty = 0.3
    rows = np.vstack([phi.numpy() / 15 / math.sqrt(40), math.sqrt(penalty) / 15 * np.eye(15)])
    right = np.vstack([y.numpy() / math.sqrt(40), np.zeros((15, 2))])
    expected = np.linalg.lstsq(rows, right, rcond=None)[0].T
    np.testing.assert_allclose(GradientFlow.of(phi, y).ridge(penalty).numpy(), expected, rtol=1e-8)


def test_early_stopping_is_close_to_ridge():
    """The flow at tau and ridge with m^2 / (2 tau) agree in the directions both have learned or both have not."""
    _, _, _, y, phi = scene(40)
    flow = GradientFlow.of(phi, y)
    stopped, ridge = flow.weights(50.0), flow.ridge(15**2 / 100)
    assert float((stopped * ridge).sum() / stopped.norm() / ridge.norm()) > 0.98


def test_weights_of_examples_count_them():
    _, _, _, y, phi = scene(12)
    times = torch.tensor([1, 3, 2] * 4)
    weighted = GradientFlow.of(phi, y, times / times.sum())
    repeated = GradientFlow.of(phi.repeat_interleave(times, 0), y.repeat_interleave(times, 0))
    torch.testing.assert_close(weighted.weights(20.0), repeated.weights(20.0))
    assert weighted.power == pytest.approx(repeated.power)


def test_a_flow_lowers_its_own_loss():
    _, _, _, y, phi = scene(12)
    flow = GradientFlow.of(phi, y)
    losses = [flow.loss(flow.weights(10**k)) for k in range(-2, 9)]
    assert all(b <= a for a, b in zip(losses, losses[1:], strict=False))
    assert flow.loss(flow.weights(0.0)) == pytest.approx(flow.power)


def test_what_is_impossible_is_said():
    network = RandomFeaturesOptions(5).build((2,))
    with pytest.raises(UsageProblem, match="no conditions"):
        network(torch.zeros(1, 2), torch.zeros(1), {"label": torch.zeros(1, dtype=torch.int64)})
    with pytest.raises(UsageProblem, match="at least 1"):
        RandomFeaturesOptions(0).build((2,))
    with pytest.raises(UsageProblem, match="not of one model"):
        GradientFlow(torch.eye(3), torch.zeros(1, 4), 1.0)
