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
    monkeypatch.setattr(norm, "CHUNK", 100)  # several chunks, the last one shorter
    a = arguments((add, scale, shift), torch.float64)
    settings = (4, 1e-5, act)
    torch.testing.assert_close(FusedNormAct.apply(*a, *settings), plain_norm_act(*a, *settings), atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(lambda *v: FusedNormAct.apply(*v, *settings), a)


@pytest.mark.parametrize("mean", [0.0, 3.0])
def test_bfloat16_is_float32_rounded_once(mean):
    a = arguments((True, True, True), torch.float32, (4, 32, 16, 16), mean)
    a[0] = a[0].detach().bfloat16().requires_grad_()
    exact = plain_norm_act(a[0].float(), *a[1:], 8, 1e-5, True)
    fused = FusedNormAct.apply(*a, 8, 1e-5, True)
    assert fused.dtype == torch.bfloat16 and fused.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(fused.float(), exact, atol=1e-4, rtol=2**-8)

    dy = torch.randn_like(fused)
    wanted = torch.autograd.grad(exact, a, dy.float())
    for got, want in zip(torch.autograd.grad(fused, a, dy), wanted, strict=True):
        error = (got.float() - want.float()).norm() / want.float().norm()
        assert error < 4e-3, error


def test_module_takes_the_fused_way_and_agrees():
    module = NormAct(32)
    x = torch.randn(2, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    y = module(x.bfloat16().requires_grad_())
    assert type(y.grad_fn).__name__ == "FusedNormActBackward"
    torch.testing.assert_close(y.float(), module(x.bfloat16().float()), atol=1e-4, rtol=2**-8)


@pytest.mark.parametrize("channels", [4, 6, 32, 48, 96, 136, 512])
def test_groups(channels):
    groups = groups_for(channels)
    assert channels % groups == 0 and groups <= 32 and (channels // groups >= 4)
    assert groups_for(128) == 32 and groups_for(32) == 8 and groups_for(3) == 1
