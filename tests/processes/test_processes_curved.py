"""Brownian motion on a manifold: its laws, the walk back, the flow's likelihood and score matching, against exact data."""

import math

import pytest
import torch

from unnoise.denoisers import clip
from unnoise.denoisers.denoiser import Denoiser
from unnoise.denoisers.tangent import Tangent
from unnoise.errors import UsageProblem
from unnoise.likelihood import Flow, likelihood
from unnoise.manifolds import manifold
from unnoise.networks import MLPOptions
from unnoise.objectives.curved import HeatMatching, ImplicitMatching, StepMatching
from unnoise.objectives.times import Uniform as Times
from unnoise.oracles import gaussian
from unnoise.oracles.curved import HeatMixture, WrappedMixture, uniform, von_mises_fisher, wrapped_normals
from unnoise.processes import Curved, Gaussian
from unnoise.processes.curved import Scored
from unnoise.rng import Rng
from unnoise.samplers import DDIM, GeodesicWalk, Heun, Uniform, sample
from unnoise.schedules import LinearVP

NAMES = ("sphere", "torus-2", "so3")


def mixture(name, tau=0.2):
    where = manifold(name)
    return HeatMixture(
        where,
        where.uniform(Rng.from_seeds([3, 4])),
        torch.tensor([tau, 2 * tau]),
        torch.tensor([0.7, 0.3]),
        terms=22,
        threshold=0.1,
    )


def test_time_runs_as_beta_says_and_back():
    process = Curved(manifold("sphere"), 0.001, 5.0)
    t = torch.linspace(0, 1, 30, dtype=torch.float64)
    tau = process.tau(t, t)
    torch.testing.assert_close(process.time(tau), t, atol=1e-12, rtol=0)
    torch.testing.assert_close(tau[-1], torch.tensor(2.5005, dtype=torch.float64))
    slope = torch.autograd.functional.jacobian(lambda s: process.tau(s, s), t).diagonal()
    torch.testing.assert_close(slope, process.beta(t))
    assert process.point(0.5).tau == pytest.approx(float(process.tau(torch.tensor([0.5]), t[:1])))
    assert process.point(0.0).is_clean and not process.point(0.1).is_clean
    torch.testing.assert_close(Curved(manifold("so3"), 2.0, 2.0).time(tau), tau / 2)  # a constant beta


@pytest.mark.parametrize("name", NAMES)
def test_the_marginal_is_the_kernel_and_the_prior_uniform(name):
    process, rng = Curved(manifold(name), 0.1, 2.0, walk=30), Rng.from_seeds(range(200))
    x0 = process.prior((200, process.manifold.ambient)).sample(rng)
    t = torch.full((200,), 0.6, dtype=torch.float64)
    law = process.marginal(x0, t)
    x = law.sample(rng)
    expected = process.manifold.heat(x, x0, process.tau(t, x0)).log_prob
    torch.testing.assert_close(law.log_prob(x), expected)
    even = process.prior(x.shape).log_prob(x)
    assert (even == -process.manifold.log_volume).all()
    again = Curved(process.manifold, 0.1, 2.0, walk=30).corrupt(x0[7:8], t[7:8], Rng.from_seeds([7]).spawn(2))
    together = process.corrupt(x0, t, Rng.from_seeds(range(200)).spawn(2))
    torch.testing.assert_close(again[0], together[7], atol=1e-12, rtol=0)


def test_wrong_pairings_are_told_in_a_sentence():
    process, where = Curved(manifold("sphere")), manifold("sphere")
    oracle = mixture("sphere").denoiser(process)
    x = where.uniform(Rng.from_seeds(range(2)))
    with pytest.raises(UsageProblem, match="has 3 coordinates"):
        sample(oracle, GeodesicWalk(), Uniform(3), (2, 4))
    with pytest.raises(UsageProblem, match="needs a Diffusion process"):
        sample(oracle, Heun(), Uniform(3), (2, 3))
    with pytest.raises(UsageProblem, match="no posterior in closed form"):
        sample(oracle, DDIM(), Uniform(3), (2, 3))
    with pytest.raises(UsageProblem, match="needs a Curved process"):
        plain = gaussian(torch.zeros(3, dtype=torch.float64), 1.0).denoiser(Gaussian(LinearVP()))
        sample(plain, GeodesicWalk(), Uniform(3), (2, 3))
    with pytest.raises(UsageProblem, match="no posterior in closed form"):
        likelihood(oracle, x, "bound")
    with pytest.raises(UsageProblem, match="must lie between 0"):
        likelihood(oracle, x, Flow(start=1.5))
    with pytest.raises(UsageProblem, match="do not fit a process on torus-2"):
        mixture("sphere").denoiser(Curved(manifold("torus-2")))
    with pytest.raises(UsageProblem, match="there is no range to clip to"):
        clip()(oracle)(x, torch.full((2,), 0.5))
    for options in ({"beta_f": 0.0}, {"beta_0": -1.0}, {"walk": 0}):
        with pytest.raises(UsageProblem, match="Brownian motion needs"):
            Curved(where, **options)
    with pytest.raises(UsageProblem, match="noise is -1"):
        GeodesicWalk(-1.0)


# The walk back.


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("noise", (1.0, 0.0, 0.5))
def test_the_walk_gives_the_data_back(name, noise):
    data, count = mixture(name), 1500
    process = Curved(data.manifold, 0.1, 12.0)
    x = sample(
        data.denoiser(process), GeodesicWalk(noise), Uniform(60), (count, data.manifold.ambient), dtype=torch.float64
    )
    torch.testing.assert_close(data.manifold.project(x), x, atol=1e-10, rtol=0)
    own = data.sample(Rng.from_seeds(range(10_000, 10_000 + count)))
    for f in (lambda z: z, lambda z: z.square(), data.log_prob):  # the log density: how typical they are
        a, b = f(x), f(own)
        error = (a.mean(0) - b.mean(0)).abs() / ((a.var(0) + b.var(0)) / count).sqrt()
        assert error.max() < 4.5, (noise, error)


@pytest.mark.parametrize("name", NAMES)
def test_the_flow_without_noise_is_of_first_order(name):
    data = mixture(name)
    process = Curved(data.manifold, 0.1, 4.0)
    start = data.manifold.uniform(Rng.from_seeds(range(20)))

    def end(steps):
        points = Uniform(steps, end=0.2)
        walk = sample(
            data.denoiser(process),
            GeodesicWalk(0.0),
            lambda p: points(p)[:-1],
            start.shape,
            start=start,
            dtype=torch.float64,
        )
        return walk

    fine = end(480)
    errors = [float((end(n) - fine).norm(dim=1).mean()) for n in (20, 40, 80)]
    assert GeodesicWalk(0.0).order == 1 and GeodesicWalk().order is None
    for coarse, half in zip(errors, errors[1:], strict=False):
        assert math.log2(coarse / half) == pytest.approx(1, abs=0.2)


def test_a_sample_depends_on_its_seed_alone():
    data = mixture("sphere")
    denoiser = data.denoiser(Curved(data.manifold))
    many = sample(denoiser, GeodesicWalk(), Uniform(8), (5, 3))
    one = sample(denoiser, GeodesicWalk(), Uniform(8), (1, 3), rng=Rng.from_seeds([3]))
    torch.testing.assert_close(one[0], many[3], atol=1e-6, rtol=0)
    assert many.dtype == torch.float32 and (many.norm(dim=1) - 1).abs().max() < 1e-6


def test_the_guess_of_clean_data_is_tweedies():
    """In a torus of one kernel, at a small time, exp_x(tau score) is the posterior's mean: tau_0 / (tau_0 + tau) of the way."""
    where = manifold("torus-1")
    data = HeatMixture(where, where.point(torch.tensor([[0.3]], dtype=torch.float64)), 0.01)
    process = Curved(where, 0.02, 0.02)
    x = where.point(torch.tensor([[0.5]], dtype=torch.float64))
    guess = data.denoiser(process)(x, torch.tensor([1.0]))
    torch.testing.assert_close(where.angles(guess.mean), torch.tensor([[0.5 - 0.2 * 0.02 / 0.03]], dtype=torch.float64))


# The likelihood.


@pytest.mark.parametrize(("name", "solver"), [("sphere", "adaptive"), *((name, "rk4") for name in NAMES)])
def test_the_flow_has_the_density_of_the_data(name, solver):
    data = mixture(name)
    process = Curved(data.manifold, 0.001, 60.0)  # tau(1) = 30: e^-15 of the data is left on a torus, e^-30 elsewhere
    x = data.sample(Rng.from_seeds(range(3)))
    method = Flow(solver=solver, steps=30, tolerance=1e-6)
    found = likelihood(data.denoiser(process), x, method)
    start = process.point(1e-3).tau
    torch.testing.assert_close(found.nats, -data.log_prob(x, start), atol=3e-4, rtol=0)
    assert found.evaluations.min() > 10
    alone = likelihood(data.denoiser(process), x[2:3], method)
    torch.testing.assert_close(alone.nats[0], found.nats[2], atol=1e-9, rtol=0)


def test_random_directions_give_the_same_likelihood_on_average():
    data = von_mises_fisher(manifold("sphere"), torch.eye(3)[:1], 5.0)
    denoiser, x = (
        data.denoiser(Curved(manifold("sphere"), 0.001, 12.0)),
        torch.tensor([[0.6, 0.8, 0.0]]).expand(200, -1),
    )
    method = Flow("rk4", 16, divergence="rademacher")
    exact = likelihood(denoiser, x[:1], Flow("rk4", 16)).nats
    found = likelihood(denoiser, x, method).nats
    assert abs(float(found.mean() - exact)) < 4 * float(found.std()) / math.sqrt(200)
    assert float(found.std()) > 1e-3


# Score matching.


class Scaled(Denoiser[Curved]):
    """The exact score times a number."""

    def __init__(self, oracle, factor):
        super().__init__()
        self.oracle, self.process = oracle, oracle.process
        self.factor = torch.nn.Parameter(torch.tensor(factor, dtype=torch.float64))

    def forward(self, xt, t, cond=None):
        exact = self.oracle(xt, t)
        return Scored(self.factor * exact.score, xt, exact.tau, exact.manifold)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "objective",
    [
        HeatMatching(Times(0.01)),
        HeatMatching(Times(0.01), "likelihood", threshold=0.05, terms=40),
        ImplicitMatching(Times(0.01)),
        ImplicitMatching(Times(0.01), "likelihood"),
        ImplicitMatching(Times(0.01), divergence="rademacher", probes=2),
        ImplicitMatching(Times(0.01), divergence="gaussian", probes=2),
    ],
    ids=["heat", "heat, likelihood", "implicit", "implicit, likelihood", "sliced", "sliced, gaussian"],
)
def test_the_minimiser_is_the_exact_score(name, objective):
    """The loss is a parabola in the factor; its lowest place, found from two gradients, is 1."""
    data, count = mixture(name), 3000
    oracle = data.denoiser(Curved(data.manifold, 0.1, 3.0, walk=30))
    x0 = data.sample(Rng.from_seeds(range(count)))
    slopes = []
    for factor in (0.0, 1.0):
        model = Scaled(oracle, factor)
        loss = objective(model, x0, None, Rng.from_seeds(range(count)).spawn(9)).per_example
        slopes.append(float(torch.autograd.grad(loss.mean(), model.factor)[0]))
    lowest = slopes[0] / (slopes[0] - slopes[1])
    assert lowest == pytest.approx(1, abs=0.1 if objective.weight == "likelihood" else 0.06)


def test_implicit_and_denoising_losses_differ_by_a_constant():
    """With exact divergence, what they say of two scores differs by the same."""
    data, count = mixture("sphere"), 4000
    oracle = data.denoiser(Curved(data.manifold, 0.5, 2.0, walk=40))
    x0 = data.sample(Rng.from_seeds(range(count)))
    gains = []
    for objective in (HeatMatching(Times(0.1)), ImplicitMatching(Times(0.1))):
        a, b = (
            objective(Scaled(oracle, f), x0, None, Rng.from_seeds(range(count)).spawn(4)).per_example
            for f in (0.5, 1.3)
        )
        gains.append((a - b).detach())
    error = gains[0].mean() - gains[1].mean()
    assert abs(float(error)) < 4 * float((gains[0] - gains[1]).std()) / math.sqrt(count) + 0.01


@pytest.mark.parametrize("name", NAMES)
def test_the_last_step_of_the_walk_tells_the_score(name):
    """The same parabola, by walks of few steps; and, of the same times, a target as many times noisier as there are steps."""
    data, count = mixture(name), 3000
    x0 = data.sample(Rng.from_seeds(range(count)))
    slopes, spread = [], []
    for factor in (0.0, 1.0):
        model = Scaled(data.denoiser(Curved(data.manifold, 0.1, 1.5, walk=5)), factor)
        loss = StepMatching(Times(0.05))(model, x0, None, Rng.from_seeds(range(count)).spawn(9)).per_example
        slopes.append(float(torch.autograd.grad(loss.mean(), model.factor)[0]))
        spread.append(float(loss.detach().mean()))
    assert slopes[0] / (slopes[0] - slopes[1]) == pytest.approx(1, abs=0.1)
    model = Scaled(data.denoiser(Curved(data.manifold, 0.1, 1.5, walk=1)), 0.0)
    once = StepMatching(Times(0.05))(model, x0, None, Rng.from_seeds(range(count)).spawn(9)).per_example
    assert spread[0] == pytest.approx(5 * float(once.detach().mean()), rel=0.1)


def test_the_implicit_loss_varies_as_the_square_of_frequencies():
    """On a circle where points lie evenly, |s|^2 + 2 div s of the field sin(k a) is sin^2 + 2 k cos: its variance 1/8 + 2 k^2."""
    circle = manifold("torus-1")
    process, count = Curved(circle, 60.0, 60.0), 2000
    x0 = circle.point(2 * math.pi * torch.arange(count, dtype=torch.float64)[:, None] / count)

    class Wave(Denoiser[Curved]):
        def __init__(self, k):
            super().__init__()
            self.k, self.process = k, process

        def forward(self, xt, t, cond=None):
            return Scored(circle.vector(xt, (self.k * circle.angles(xt)).sin()), xt, process.tau(t, xt), circle)

    for k in (1, 4, 16):
        rng, t = Rng.from_seeds(range(count)), torch.ones(count, dtype=torch.float64)
        found = ImplicitMatching(Times(0.5)).error(Wave(k), process, x0, x0, t, None, rng)
        assert float(found.var(correction=0)) == pytest.approx(1 / 8 + 2 * k * k, rel=1e-9)
        assert float(found.mean()) == pytest.approx(0.5, abs=1e-9)


def test_a_network_gives_tangent_vectors_and_learns():
    torch.manual_seed(0)
    where = manifold("sphere")
    process = Curved(where, 0.001, 3.0)
    denoiser = Tangent(MLPOptions(32, 2, waves=(0.5,)).build(3), process)
    data = von_mises_fisher(where, torch.tensor([[0.0, 0.6, 0.8]]), 15.0)
    optimizer = torch.optim.AdamW(denoiser.parameters(), 5e-3)
    losses, objective = [], HeatMatching(Times(1e-3))
    for step in range(120):
        rng = Rng.for_step(0, step, range(128))
        x0 = data.sample(rng).float()
        loss = objective(denoiser, x0, None, rng.spawn(1)).per_example.mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    assert sum(losses[-20:]) < 0.75 * sum(losses[:20])
    x = where.uniform(Rng.from_seeds(range(10)))
    score = denoiser(x, torch.full((10,), 0.4)).score
    assert score.dtype == torch.float64 and (score * x).sum(1).abs().max() < 1e-6 and score.norm(dim=1).min() > 0


def test_options_that_are_none_are_told():
    for options in ({"kernel": "exact"}, {"weight": "one"}, {"terms": 1}, {"threshold": -1.0}):
        with pytest.raises(UsageProblem):
            HeatMatching(Times(), **options)
    for options in ({"divergence": "auto"}, {"probes": 0}, {"weight": "one"}):
        with pytest.raises(UsageProblem):
            ImplicitMatching(Times(), **options)
    flat = gaussian(torch.zeros(3, dtype=torch.float64), 1.0).denoiser(Gaussian(LinearVP()))
    with pytest.raises(UsageProblem, match="Brownian motion on a manifold"):
        HeatMatching(Times(0.1))(flat, torch.zeros(2, 3), None, Rng.from_seeds([0, 1]))


# Exact data.


def test_von_mises_and_fisher_are_scipys():
    from scipy.stats import vonmises_fisher

    where, kappa = manifold("sphere"), 15.0
    mean = torch.tensor([[0.36, 0.48, 0.8]], dtype=torch.float64)
    data = von_mises_fisher(where, mean, kappa)
    x = data.sample(Rng.from_seeds(range(4000)))
    expected = torch.from_numpy(vonmises_fisher(mean[0].numpy(), kappa).logpdf(x.numpy()))
    torch.testing.assert_close(data.log_prob(x), expected, atol=1e-8, rtol=0)
    along = (x @ mean[0]).mean()
    assert abs(float(along) - (1 / math.tanh(kappa) - 1 / kappa)) < 4 * float((x @ mean[0]).std()) / math.sqrt(4000)
    torch.testing.assert_close(data.heat(x).score, kappa * where.tangent(x, mean.expand_as(x)), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ("sphere", "sphere-3", "so3"))
def test_wrapped_normals_are_a_density_with_these_distances(name):
    where = manifold(name)
    law = WrappedMixture(where, where.uniform(Rng.from_seeds([5, 6])), torch.tensor([0.3, 0.2]))
    # the mass of each law in shells around its centre, by quadrature, is 1; and it is where the samples are
    alone = WrappedMixture(where, law.centres[:1], law.deviations[:1])
    r = (torch.arange(4000, dtype=torch.float64) + 0.5) * math.pi / 4000
    way = where.frame(law.centres[:1])[0]
    density = alone.log_prob(where.exp(law.centres[:1].expand(4000, -1), r[:, None] * way)).exp()
    area = 2 * math.pi ** (where.dim / 2) / math.gamma(where.dim / 2) * where.sphere_at(r)
    assert float((density * area).mean() * math.pi) == pytest.approx(1, abs=1e-6)
    own = alone.sample(Rng.from_seeds(range(4000)))
    far = where.distance(law.centres[:1].expand(4000, -1), own)
    assert abs(float(far.square().mean()) - where.dim * 0.09) < 4 * float(far.square().std()) / math.sqrt(4000)
    with pytest.raises(UsageProblem, match="deviations of wrapped normal laws"):
        WrappedMixture(where, law.centres, torch.tensor([0.1, 2.0]))


def test_narrow_wrapped_normals_are_heat_kernels_but_for_curvature():
    where = manifold("so3")
    law = wrapped_normals()
    kernels = HeatMixture(where, law.centres, law.deviations.square())
    x = law.sample(Rng.from_seeds(range(1000)))
    assert float((law.log_prob(x) - kernels.log_prob(x)).abs().mean()) < 0.01  # of order tau = 0.005


def test_the_uniform_law_is_left_as_it_is():
    for name in ("sphere", "sphere-3", "so3"):
        data = uniform(manifold(name))
        x = data.sample(Rng.from_seeds(range(500)))
        heat = data.heat(x, 0.7)
        torch.testing.assert_close(heat.log_prob, torch.full((500,), -data.manifold.log_volume, dtype=torch.float64))
        assert heat.score.abs().max() == 0 and x.mean(0).abs().max() < 0.15


@pytest.mark.parametrize("name", NAMES)
def test_samples_of_a_mixture_follow_its_density(name):
    """E[1 / p] over samples is the volume; and the score is the slope of the density."""
    data = mixture(name, 0.5)
    x = data.sample(Rng.from_seeds(range(3000)))
    volume = torch.exp(-data.log_prob(x) - data.manifold.log_volume)
    assert abs(float(volume.mean()) - 1) < 5 * float(volume.std()) / math.sqrt(3000)
    v, step = data.manifold.tangent(x, x.roll(1, 0)), 1e-5
    ends = [data.log_prob(data.manifold.exp(x, s * step * v), 0.3) for s in (1, -1)]
    slope = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close((data.heat(x, 0.3).score * v).sum(1), slope, atol=1e-5, rtol=1e-4)
