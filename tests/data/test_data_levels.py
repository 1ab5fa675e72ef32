"""Grey levels and [-1, 1]: x = 2k/(K - 1) - 1."""

import pytest
import torch

from unnoise.data import from_levels, to_levels, to_uint8


@pytest.mark.parametrize("levels", [2, 16, 17, 256])
def test_levels_and_floats_are_a_cycle_and_the_formula(levels):
    k = torch.arange(levels)
    x = from_levels(k, levels)
    assert x.dtype == torch.float32
    exact = 2 * k.double() / (levels - 1) - 1
    assert torch.equal(x, exact.float()) or (x.double() - exact).abs().max() < 2**-24
    assert x[0] == -1 and x[-1] == 1
    assert torch.equal(x, -x.flip(0))  # symmetric to the last bit
    assert torch.equal(to_levels(x, levels), k)
    assert torch.equal(from_levels(k.to(torch.uint8), levels), x)
    assert torch.equal(from_levels(k.float(), levels), x)


def test_the_argument_is_not_changed():
    k = torch.arange(5.0)
    from_levels(k, 17)
    x = torch.tensor([0.5])
    to_levels(x)
    assert torch.equal(k, torch.arange(5.0)) and x.item() == 0.5


def test_floats_go_to_the_nearest_level_and_are_clamped():
    x = torch.tensor(
        [-3.0, -1.0, -1 + 0.9 / 255, -1 + 1.1 / 255, 0.999, 7.0, float("nan"), float("inf"), -float("inf")]
    )
    assert to_levels(x).tolist() == [0, 0, 0, 1, 255, 255, 0, 255, 0]


def test_uint8_from_floats_levels_and_pixels():
    assert to_uint8(torch.tensor([-1.0, 1.0])).tolist() == [0, 255]
    assert to_uint8(torch.tensor([0, 8, 16]), levels=17).tolist() == [0, 128, 255]
    assert to_uint8(torch.tensor([3, 200])).tolist() == [3, 200]
