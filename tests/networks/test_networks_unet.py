"""The U-Net: shapes, conditions, initialisation, published sizes, precision."""

import dataclasses
import json

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.networks import UNetOptions, published

TINY = UNetOptions(channels=16, mult=(1, 2, 2), blocks=1, attention=(4,))


def randomised(network, scale: float = 0.1):
    """Weights that are all at work: a fresh network's last layers are zero."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p.add_(scale * torch.randn(p.shape, generator=g))
    return network


@pytest.mark.parametrize("size", [(28, 28), (32, 32), (8, 8), (64, 32), (33, 20), (7, 5)])
@pytest.mark.parametrize("resample", ["residual", "conv", "conv-right"])
@pytest.mark.parametrize("taps", [(1, 1), (1, 3, 3, 1)])
def test_any_size_in_same_size_out(size, resample, taps):
    options = dataclasses.replace(TINY, resample=resample, taps=taps, input_pyramid=resample == "residual")
    network = options.build(3, 6)
    y = network(torch.randn(2, 3, *size), torch.rand(2))
    assert y.shape == (2, 6, *size)
    y.square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("early", [False, True])
def test_labels(early):
    network = randomised(dataclasses.replace(TINY, early_labels=early).build(1, 1, num_classes=3)).eval()
    x, t = torch.randn(1, 1, 8, 8).expand(4, -1, -1, -1), torch.full((4,), 0.3)
    with torch.no_grad():
        y = network(x, t, {"label": torch.tensor([0, 1, 2, -1])})
        null = network(x, t)
    different = [(y[i] - y[j]).abs().max() > 1e-4 for i in range(4) for j in range(i)]
    assert all(different), "every class and the null condition have a row of their own"
    torch.testing.assert_close(y[3], null[3], atol=1e-6, rtol=0)

    rows = network.embedding.labels.rows
    network(x, t, {"label": torch.tensor([0, 1, 1, 0])}).sum().backward()
    assert rows.weight.grad[:2].abs().sum(1).min() > 0 and rows.weight.grad[2:].abs().max() == 0
    rows.weight.grad = None
    network(x, t).sum().backward()
    assert rows.weight.grad[3].abs().sum() > 0 and rows.weight.grad[:3].abs().max() == 0


def test_conditions_it_was_not_built_for():
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    with pytest.raises(UsageProblem, match="no labels"):
        TINY.build(1)(x, t, {"label": torch.tensor([0, 1])})
    with pytest.raises(UsageProblem, match="augmentation"):
        TINY.build(1)(x, t, {"augment": torch.zeros(2, 9)})
    labelled = TINY.build(1, num_classes=3)
    with pytest.raises(UsageProblem, match=r"outside -1\.\.2"):
        labelled(x, t, {"label": torch.tensor([0, 3])})
    with pytest.raises(UsageProblem, match="shape"):
        labelled(x, t, {"label": torch.tensor([0])})


def test_augmentation_vector_is_heard():
    network = randomised(dataclasses.replace(TINY, augment=9).build(1))
    x, t = torch.randn(2, 1, 8, 8), torch.rand(2)
    none, zero = network(x, t), network(x, t, {"augment": torch.zeros(2, 9)})
    torch.testing.assert_close(none, zero)
    assert (network(x, t, {"augment": torch.ones(2, 9)}) - none).abs().max() > 1e-3


def test_options_survive_json_and_refuse_nonsense():
    options = dataclasses.replace(published.EDM_NCSNPP_CIFAR10, attention=())
    assert UNetOptions(**json.loads(json.dumps(dataclasses.asdict(options)))) == options
    with pytest.raises(UsageProblem, match="scale-shift"):
        UNetOptions(conditioning="scaleshift")
    with pytest.raises(UsageProblem, match="downsampling 16"):
        UNetOptions(attention=(16,)).build(3)
    with pytest.raises(UsageProblem, match="heads"):
        dataclasses.replace(TINY, heads=3).build(3)
    with pytest.raises(UsageProblem, match="dropout is 2"):
        dataclasses.replace(TINY, dropout=2.0)


@pytest.mark.parametrize("init,bound", [("default", 0.0), ("xavier", 1e-2)])
def test_starts_as_nothing(init, bound):
    network = dataclasses.replace(TINY, init=init).build(3)
    assert network(torch.randn(2, 3, 16, 16), torch.rand(2)).abs().max() <= bound


# parameters in millions: the papers', and those of the authors' code where a label row more or less is exact
SIZES = {
    "DDPM_CIFAR10": (None, 35_746_307),  # 35.7 M, Ho et al. 2020, appendix B
    "DDPM_256": (None, 113_673_219),  # 114 M
    "EDM_DDPMPP_CIFAR10": (10, 55_735_299),  # 55.7 M, Karras et al. 2022, table 7
    "EDM_NCSNPP_CIFAR10": (10, 56_400_643),
    "ADM_IMAGENET64": (1000, 295_899_267 + 768),  # 296 M, and a row for the null label
}


@pytest.mark.parametrize("name", SIZES)
def test_published_sizes(name):
    classes, size = SIZES[name]
    with torch.device("meta"):
        network = getattr(published, name).build(3, 3, classes)
    assert sum(p.numel() for p in network.parameters()) == size


def test_class_conditional_improved_ddpm():
    """270 M in the paper; the authors' code at these settings has 273,049,350, and we a row for the null label."""
    options = dataclasses.replace(published.IDDPM_IMAGENET64, channels=192)
    with torch.device("meta"):
        network = options.build(3, 6, 1000)
    assert sum(p.numel() for p in network.parameters()) == 273_049_350 + 768


@pytest.mark.parametrize("options", [v for v in vars(published).values() if isinstance(v, UNetOptions)])
def test_published_run_on_meta(options):
    with torch.device("meta"):
        y = options.build(3, 6)(torch.empty(2, 3, 64, 64), torch.empty(2))
    assert y.shape == (2, 6, 64, 64)


@pytest.mark.parametrize("conditioning", ["add", "scale-shift"])
def test_bfloat16_is_close_to_float32_forward_and_backward(conditioning):
    torch.manual_seed(0)
    network = randomised(dataclasses.replace(TINY, channels=32, conditioning=conditioning).build(3), 0.02)
    x, t = torch.randn(4, 3, 16, 16), torch.rand(4)
    weights = list(network.parameters())

    def run(enabled):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            y = network(x, t)
        return y.float(), torch.autograd.grad(y.float().square().mean(), weights)

    (y, grads), (y16, grads16) = run(False), run(True)
    assert (y16 - y).norm() / y.norm() < 0.02
    flat, flat16 = (torch.cat([g.flatten() for g in gs]) for gs in (grads, grads16))
    assert (flat16 - flat).norm() / flat.norm() < 0.03


def test_same_whatever_the_memory_format():
    network = randomised(TINY.build(3)).eval()
    x, t = torch.randn(2, 3, 16, 16), torch.rand(2)
    y = network(x, t)
    torch.testing.assert_close(network(x.contiguous(memory_format=torch.channels_last), t), y)
    torch.testing.assert_close(network.to(memory_format=torch.contiguous_format)(x, t), y, atol=1e-5, rtol=1e-4)
