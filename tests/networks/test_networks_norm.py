"""The normalisation in one piece equals its operations one by one, with its derivatives."""

import itertools

import pytest
import torch

from unnoise.networks import norm
from unnoise.networks.norm import FusedNormAct, NormAct, groups_for, plain_norm_act

CASES = list(itertools.product((False, True), repeat=4))


def arguments(told: tuple[bool, ...], dtype: torch.dtype, size=(3, 8, 3, 4), mean: float = 1.0):
    n, c = size[:2]
    x = (torch.randn(size, dtype=dtype) + mean).contiguous(memory_format=torch.channels_last)
    vectors = [torch.randn(c, dtype=dtype) for _ in range(2)] + [
        torch.randn(n, c, dtype=dtype) if t else None for t in told
    ]
    return [v if v is None else v.requires_grad_() for v in [x, *vectors]]


@pytest.mark.parametrize("add,scale,shift,act", CASES)
def test_fused_value_and_gradient_in_float64(add, scale, shift, act, monkeypatch):
    monkeypatch.setattr(norm, "RUNS", 5)  # the largest divisor of 12 pixels below: 4
    a = arguments((add, scale, shift), torch.float64)
    settings = (4, 1e-5, act)
    torch.testing.assert_close(FusedNormAct.apply(*a, *settings), plain_norm_act(*a, *settings), atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(lambda *v: FusedNormAct.apply(*v, *settings), a)


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("mean", [0.0, 3.0, 30.0])
def test_bfloat16_loses_about_one_rounding(mean, told):
    """Relative error against float64 within 2^-8, the spacing of bfloat16; gradients within twice that. Means far from 0
    are where the difference of sums of squares would lose, if it could: x in bfloat16 has lost as much already."""
    torch.manual_seed(0)
    a = arguments((told,) * 3, torch.float64, (8, 32, 16, 16), mean=0.0)
    a[0] = (a[0].detach() + mean * torch.randn(32, 1, 1)).bfloat16().requires_grad_()
    exact = plain_norm_act(a[0].double(), *a[1:], 8, 1e-5, True)
    fused = FusedNormAct.apply(*a, 8, 1e-5, True)
    assert fused.dtype == torch.bfloat16 and fused.is_contiguous(memory_format=torch.channels_last)

    def error(got, want):
        return ((got.double() - want).norm() / want.norm()).item()

    assert error(fused, exact) < 2**-8
    dy = torch.randn_like(fused)
    inputs = [v for v in a if v is not None]
    wanted = torch.autograd.grad(exact, inputs, dy.double())
    for got, want in zip(torch.autograd.grad(fused, inputs, dy), wanted, strict=True):
        assert error(got, want.double()) < 2**-7


def test_module_takes_the_fused_way_and_agrees():
    module = NormAct(32)
    x = torch.randn(2, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    y = module(x.bfloat16().requires_grad_())
    assert type(y.grad_fn).__name__ == "FusedNormActBackward"
    exact = module(x.bfloat16().float())
    assert (y.float() - exact).norm() / exact.norm() < 2**-8


@pytest.mark.parametrize("channels", [4, 6, 32, 48, 96, 136, 512])
def test_groups(channels):
    groups = groups_for(channels)
    assert channels % groups == 0 and groups <= 32 and (channels // groups >= 4)
    assert groups_for(128) == 32 and groups_for(32) == 8 and groups_for(3) == 1
