"""RefineNets: shapes, conditioning by level, the normalisation against torch's own, sizes of the published ones."""

import json
from dataclasses import asdict

import pytest
import torch
import torch.nn.functional as F

from unnoise.errors import UsageProblem
from unnoise.networks import RefineNetOptions, published
from unnoise.networks.refinenet import InstanceNormPlus

SMALL = RefineNetOptions(channels=8, levels=5)
BLIND = RefineNetOptions(channels=8, levels=None)
DEEP = RefineNetOptions(channels=8, mult=(1, 2, 2, 4, 4), dilations=(1, 1, 1, 2, 4), levels=None)


def built(options, channels=2, seed=0):
    torch.manual_seed(seed)
    return options.build(channels)


@pytest.mark.parametrize("options", [SMALL, BLIND, DEEP], ids=["levels", "blind", "deep"])
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (28, 28), (5, 16)])
def test_any_size_comes_back(options, size):
    network = built(options)
    x = torch.randn(3, 2, *size)
    assert network(x, torch.arange(3.0)).shape == x.shape
    assert options.build(2, 4)(x, torch.zeros(3)).shape == (3, 4, *size)


def test_examples_do_not_touch_each_other():
    network, x, t = built(SMALL), torch.randn(4, 2, 8, 8), torch.tensor([0.0, 3.0, 1.0, 4.0])
    whole = network(x, t)
    for i in range(4):
        torch.testing.assert_close(network(x[i : i + 1], t[i : i + 1])[0], whole[i], rtol=1e-4, atol=1e-5)


def test_levels_are_told_by_number_and_the_blind_are_told_nothing():
    network, x = built(SMALL), torch.randn(1, 2, 8, 8).expand(4, -1, -1, -1)
    out = network(x, torch.tensor([0.0, 0.4, 1.0, 99.0]))
    assert torch.equal(out[0], out[1])  # rounded to the nearest
    assert not torch.allclose(out[0], out[2], atol=1e-4)
    torch.testing.assert_close(out[3], network(x, torch.full((4,), 4.0))[3])
    blind = built(BLIND)
    assert torch.equal(blind(x, torch.zeros(4)), blind(x, torch.arange(4.0)))


@pytest.mark.parametrize("levels", [None, 3])
def test_the_normalisation_is_instance_norm_and_the_means_restored(levels):
    torch.manual_seed(2)
    norm = InstanceNormPlus(6, levels)
    torch.nn.init.normal_(norm.rows.weight)
    x, level = 3 + torch.randn(4, 6, 5, 7), None if levels is None else torch.tensor([0, 2, 1, 2])
    row = norm.rows.weight[0].expand(4, -1) if levels is None else norm.rows.weight[level]
    gamma, alpha, beta = (r[..., None, None] for r in row.split(6, 1))
    means = x.mean((2, 3))
    apart = (means - means.mean(1, keepdim=True)) / (means.var(1, keepdim=True) + 1e-5).sqrt()
    expected = gamma * (F.instance_norm(x) + alpha * apart[..., None, None]) + beta
    torch.testing.assert_close(norm(x, level), expected, rtol=1e-4, atol=1e-5)


def test_the_blind_see_the_scale_of_their_input():
    """Instance normalisation alone would not tell x from 2 x where no channel's mean differs; the stem's bias does."""
    network, x = built(BLIND), torch.randn(2, 2, 8, 8)
    assert not torch.allclose(network(x, torch.zeros(2)), network(20 * x, torch.zeros(2)), atol=1e-3)


@pytest.mark.parametrize(
    "name, stages, refine, parameters",
    [
        ("NCSN_32", 4, 4, 30_117_635),
        ("NCSNV2_32", 4, 4, 29_694_083),
        ("NCSNV2_128", 5, 5, 83_445_379),
        ("NCSNV2_256", 6, 6, 94_132_611),
    ],
)
def test_published_sizes(name, stages, refine, parameters):
    with torch.device("meta"):
        network = getattr(published, name).build(3)
        assert network(torch.zeros(2, 3, 32, 32), torch.zeros(2)).shape == (2, 3, 32, 32)
    assert len(network.stages) == stages and len(network.refine) == refine
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize("options", [SMALL, BLIND, DEEP])
def test_options_survive_json(options):
    assert RefineNetOptions(**json.loads(json.dumps(asdict(options)))) == options


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: SMALL.build(1, num_classes=10), "no labels"),
        (lambda: built(SMALL)(torch.zeros(1, 2, 8, 8), torch.zeros(1), {"label": torch.zeros(1)}), "given label"),
        (lambda: RefineNetOptions(mult=(1, 2)).build(1), "a dilation for each"),
        (lambda: RefineNetOptions(mult=(1, 2, 2, 4)).build(1), "of one width"),
        (lambda: RefineNetOptions(levels=0).build(1), "1 level at least"),
    ],
)
def test_mistakes(build, words):
    with pytest.raises(UsageProblem, match=words):
        build()
