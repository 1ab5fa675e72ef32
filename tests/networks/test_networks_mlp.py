"""The MLP and the embeddings."""

import math

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.networks import MLPOptions
from unnoise.networks.embeddings import Sinusoids


@pytest.mark.parametrize("shape", [(5, 2), (5, 7, 2), (5, 3, 4, 2)])
def test_only_the_last_axis_is_the_vector(shape):
    torch.manual_seed(0)
    network = MLPOptions(width=16, depth=2).build(2, 3, num_classes=4)
    torch.nn.init.normal_(network.head.weight)
    x, t = torch.randn(shape), torch.rand(5)
    label = torch.tensor([0, 1, 2, 3, -1])
    y = network(x, t, {"label": label})
    assert y.shape == (*shape[:-1], 3)
    one = network(x.reshape(5, -1, 2)[:, 0], t, {"label": label})  # any one row alone gives the same
    torch.testing.assert_close(y.reshape(5, -1, 3)[:, 0], one)


def test_learns_a_function_of_x_t_and_label():
    torch.manual_seed(0)
    network = MLPOptions(width=64, depth=2).build(2, 2, num_classes=2)
    optimizer = torch.optim.AdamW(network.parameters(), 3e-3)
    losses = []
    for _ in range(300):
        x, t, label = torch.randn(256, 2), torch.rand(256), torch.randint(2, (256,))
        target = x.flip(1) * (6 * t[:, None]).cos() + label[:, None]
        loss = (network(x, t, {"label": label}) - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-20:]) / 20 < 0.05 * losses[0]


def test_sinusoids_by_hand():
    t = torch.tensor([3.0], dtype=torch.float64)
    f = [10000 ** -(i / 3) for i in range(4)]
    wanted = [math.sin(3 * v) for v in f] + [math.cos(3 * v) for v in f]
    torch.testing.assert_close(Sinusoids(8, "sin-first")(t)[0], torch.tensor(wanted, dtype=torch.float64))
    f = [10000 ** -(i / 4) for i in range(4)]
    wanted = [math.cos(3 * v) for v in f] + [math.sin(3 * v) for v in f]
    torch.testing.assert_close(Sinusoids(8, "cos-first")(t)[0], torch.tensor(wanted, dtype=torch.float64))


def test_fourier_frequencies_are_fixed_saved_and_of_scale_16():
    a, b = Sinusoids(4096, "fourier"), Sinusoids(4096, "fourier")
    assert torch.equal(a.frequencies, b.frequencies) and "frequencies" in a.state_dict()
    assert (a.frequencies / (2 * math.pi)).std().item() == pytest.approx(16, rel=0.05)


def test_odd_width_is_refused():
    with pytest.raises(UsageProblem, match="even"):
        MLPOptions(width=33).build(2)
