"""Halving and doubling against their definitions."""

import pytest
import torch
import torch.nn.functional as F

from unnoise.networks.resample import double, halve

FIR = (1, 3, 3, 1)


@pytest.mark.parametrize("taps", [(1, 1), FIR])
def test_doubling_is_four_times_the_transpose_of_halving(taps):
    x, y = torch.randn(2, 3, 6, 8, dtype=torch.float64), torch.randn(2, 3, 12, 16, dtype=torch.float64)
    torch.testing.assert_close((double(x, taps) * y).sum(), 4 * (x * halve(y, taps)).sum())


def test_box_is_nearest_and_average_with_their_gradients():
    x = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(double(x), F.interpolate(x, scale_factor=2))
    torch.testing.assert_close(halve(x), F.avg_pool2d(x, 2))
    for f in (double, halve):
        assert torch.autograd.gradcheck(f, x)
        assert torch.autograd.gradgradcheck(f, x)


def test_filter_is_separable_binomial():
    x = torch.zeros(1, 1, 8, 8)
    x[..., 4, 4] = 1
    f = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
    # pixel i of the result sees pixels 2i-1 .. 2i+2
    torch.testing.assert_close(halve(x, FIR)[0, 0, 1:3, 1:3], torch.outer(f[[3, 1]], f[[3, 1]]))
    torch.testing.assert_close(double(torch.ones(1, 1, 8, 8), FIR)[..., 1:-1, 1:-1], torch.ones(1, 1, 14, 14))


@pytest.mark.parametrize("taps", [(1, 1), FIR])
def test_odd_sides_repeat_the_last_row(taps):
    x = torch.randn(1, 2, 7, 5)
    padded = torch.cat([x, x[..., -1:, :]], 2)
    padded = torch.cat([padded, padded[..., -1:]], 3)
    torch.testing.assert_close(halve(x, taps), halve(padded, taps))
    assert halve(x, taps).shape == (1, 2, 4, 3)
