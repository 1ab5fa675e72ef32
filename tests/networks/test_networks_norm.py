"""The normalisation in one piece equals its operations one by one, with its derivatives."""

import itertools

import pytest
import torch

from unnoise.networks import kernels, norm
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


@pytest.fixture(params=["kernel", "torch"])
def way(request, monkeypatch):
    """By the kernel in C, where this machine can compile it, and by torch's operations."""
    if request.param == "torch":
        monkeypatch.setattr(norm, "_by_kernel", lambda x: False)
    elif kernels.library() is None:
        pytest.skip("there is no C compiler here")
    return request.param


@pytest.mark.parametrize("told", [False, True])
@pytest.mark.parametrize("mean", [0.0, 3.0, 30.0])
def test_bfloat16_loses_about_one_rounding(mean, told, way):
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


@pytest.mark.parametrize("act", [False, True])
@pytest.mark.parametrize("size", [(1, 4, 1, 1), (3, 6, 7, 9), (2, 160, 5, 4), (5, 32, 28, 28)])
def test_the_kernel_takes_every_size(size, act):
    if kernels.library() is None:
        pytest.skip("there is no C compiler here")
    torch.manual_seed(1)
    n, c = size[:2]
    x = torch.randn(size).bfloat16().contiguous(memory_format=torch.channels_last).requires_grad_()
    told = [torch.randn(c), torch.randn(c), *(torch.randn(n, c) for _ in range(3))]
    settings, dy = (groups_for(c), 1e-5, act), torch.randn(size).bfloat16()
    y = FusedNormAct.apply(x, *told, *settings)
    (dx,) = torch.autograd.grad(y, x, dy)
    exact = plain_norm_act(x.double(), *(v.double() for v in told), *settings)
    (wanted,) = torch.autograd.grad(exact, x, dy.double())
    assert (y.double() - exact).norm() <= 2**-8 * exact.norm()
    assert (dx.double() - wanted).norm() <= 2**-7 * wanted.norm() + 1e-2 * (size[2] * size[3] == 1)


def test_the_kernel_does_not_depend_on_the_threads_and_passes_on_what_is_no_number():
    if kernels.library() is None:
        pytest.skip("there is no C compiler here")
    x = torch.randn(5, 32, 8, 8).bfloat16().contiguous(memory_format=torch.channels_last)
    module, threads = NormAct(32), torch.get_num_threads()
    try:
        found = []
        for count in (1, 2):
            torch.set_num_threads(count)
            found.append(module(x))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*found) and torch.equal(found[0][2:3], module(x[2:3]))
    x[3, 0, 0, 0] = float("nan")
    assert module(x)[3].isnan().any() and module(x)[:3].isfinite().all()
    big = torch.full_like(x, 3e38)
    assert not module(big).isfinite().all()


def test_without_a_compiler_or_a_wish_there_is_no_kernel(monkeypatch, tmp_path):
    fresh = kernels.library.__wrapped__
    monkeypatch.setenv("UNNOISE_KERNELS", "off")
    assert fresh() is None
    monkeypatch.setenv("UNNOISE_KERNELS", str(tmp_path))
    monkeypatch.setenv("CC", "/nowhere/cc")
    assert fresh() is None and not list(tmp_path.glob("*.so"))
    monkeypatch.setenv("CC", "false")
    assert fresh() is None and not list(tmp_path.iterdir())


@pytest.mark.parametrize("channels", [4, 6, 32, 48, 96, 136, 512])
def test_groups(channels):
    groups = groups_for(channels)
    assert channels % groups == 0 and groups <= 32 and (channels // groups >= 4)
    assert groups_for(128) == 32 and groups_for(32) == 8 and groups_for(3) == 1
