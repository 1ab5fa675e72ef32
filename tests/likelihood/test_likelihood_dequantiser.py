"""A dequantiser trained by its own bound, where the bound and its optimum are known; its place with a run."""

from types import SimpleNamespace

import likelihood_toys as toys
import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Normal

from unnoise.data import load
from unnoise.dequantisation import dequantiser_of, teach
from unnoise.errors import UsageProblem
from unnoise.likelihood import Uniform, Variational, bin_width
from unnoise.model import Model
from unnoise.oracles import gaussian
from unnoise.papers import find
from unnoise.recipe import Spec
from unnoise.training import Run, TrainingOptions

LEVELS, MEAN, STD = 5, 0.1, 0.2  # bins are 0.5 wide: the density is far from even over them


class Table(nn.Module):
    """Mean and log deviation for each level."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(LEVELS, 2, dtype=torch.float64))

    def forward(self, x, t, cond=None):
        return self.table[((x[:, 0] + 1) / bin_width(LEVELS)).round().long()]


class Pictures:
    """Data of one number, each level as often as the Gaussian has mass in its bin."""

    def __init__(self, mass, size=400):
        counts = (mass * size).round().long()
        self.x = levels().repeat_interleave(counts, 0)

    def __len__(self):
        return len(self.x)

    def batch(self, indices):
        return SimpleNamespace(x=self.x[torch.as_tensor(indices)], cond=None)


class Nodes:
    """Draws at the nodes of a quadrature, so that a mean over them is an expectation."""

    def __init__(self, nodes):
        self.nodes = torch.from_numpy(nodes)[:, None]

    def normal(self, *shape, dtype=None):
        return self.nodes

    uniform = normal


def levels():
    return torch.linspace(-1, 1, LEVELS, dtype=torch.float64)[:, None]


def bound(dequantiser, mass):
    """sum_k P_k E_q[log q(y | x_k) - log p(y)], by quadrature; differentiable."""
    if isinstance(dequantiser, Uniform):
        nodes, weights = np.polynomial.legendre.leggauss(64)
        nodes, weights = (nodes + 1) / 2, weights / 2
    else:
        nodes, weights = np.polynomial.hermite_e.hermegauss(64)
        weights = weights / weights.sum()
    total = torch.zeros((), dtype=torch.float64)
    for x, share in zip(levels(), mass, strict=True):
        y, log_q = dequantiser(x.expand(len(nodes), 1), LEVELS, Nodes(nodes))
        each = log_q - Normal(MEAN, STD).log_prob(y[:, 0])
        total = total + share * (torch.from_numpy(weights) * each).sum()
    return total


def optimum(mass):
    """The least bound of all such dequantisers: m and s of each level, by descent of the quadrature."""
    best = Variational(Table())
    optimiser = torch.optim.LBFGS(best.parameters(), max_iter=200)

    def again():
        optimiser.zero_grad()
        value = bound(best, mass)
        value.backward()
        return value.item()

    optimiser.step(again)
    return again()


def test_trained_by_its_bound_it_is_tighter_than_uniform_and_never_below_the_truth(tmp_path):
    half, ndtr = bin_width(LEVELS) / 2, torch.special.ndtr
    mass = (ndtr((levels() + half - MEAN) / STD) - ndtr((levels() - half - MEAN) / STD))[:, 0]
    truth, uniform, best = -float((mass * mass.log()).sum()), bound(Uniform(), mass).item(), optimum(mass)
    dequantiser = Variational(Table())
    untrained = bound(dequantiser, mass).item()
    denoiser = gaussian(torch.tensor([MEAN]).double(), STD**2).denoiser(toys.process("cosine"))
    options = TrainingOptions(steps=300, lr=0.1, decay="cosine", ema=None, precision="fp32", preview_every=0)
    teach(dequantiser, denoiser, Pictures(mass), LEVELS, Run.create(tmp_path / "run", {}), options)
    trained = bound(dequantiser, mass).item()
    assert uniform - truth > 0.25 and untrained == pytest.approx(uniform, abs=0.02)
    assert truth < best <= trained < best + 0.05 * (uniform - best)


def test_it_begins_all_but_uniform():
    """At m = s = 0 it is a hundredth of a nat from uniform noise."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(64)
    x = levels()[2:3].expand(len(nodes), 1)
    with torch.no_grad():
        y, log_q = Variational(Table())(x, LEVELS, Nodes(nodes))
    even = Uniform()(x[:1], LEVELS, Nodes(nodes[:1]))[1]
    excess = float((torch.from_numpy(weights / weights.sum()) * (log_q - even)).sum())
    assert excess == pytest.approx(0.0101, abs=1e-4) and float((y - x).abs().max()) <= bin_width(LEVELS) / 2


def test_a_model_of_no_run_has_no_place_for_one():
    data = load("digits")
    model = Model(find("edm")(), Spec.of(data))
    with pytest.raises(UsageProblem, match="kept with a run"):
        dequantiser_of(model, data)
