"""VDM's bound as an objective: its value in closed form, whom it moves, and that the schedule learns to lower its variance."""

import math

import pytest
import torch

from unnoise.data import load
from unnoise.denoisers import NetworkDenoiser
from unnoise.denoisers.preconditioning import VDM as Preconditioning
from unnoise.errors import UsageProblem
from unnoise.likelihood import continuous_bound
from unnoise.likelihood.continuous import prior_nats, reconstruction_nats
from unnoise.model import Model, train_model
from unnoise.networks import UNetOptions
from unnoise.networks.embeddings import Waves
from unnoise.objectives import VLB, Adaptive, Stratified, Times, Uniform, implied_weighting
from unnoise.objectives.vlb import spread_gradient
from unnoise.oracles import gaussian
from unnoise.papers import find
from unnoise.processes import DCT, Gaussian
from unnoise.rng import Rng
from unnoise.schedules import Cosine, FromBetas, Learned, linear_betas
from unnoise.training import TrainingOptions

LN2 = math.log(2)
X0 = torch.tensor([[0.5], [0.5], [-0.5], [-0.5]], dtype=torch.float64)  # with noise of +-1: all moments of N(0, 1/4)


class Moments(Rng):
    """Noise of +1 and -1 in turn."""

    def __init__(self, count):
        super().__init__([])
        self.count = count

    def __len__(self):
        return self.count

    def normal(self, *event, dtype=torch.float64):
        return torch.tensor([1.0, -1.0], dtype=dtype).repeat(len(self) // 2)[:, None].expand(-1, *event)


class Given(Times):
    """These times, in this order."""

    def __init__(self, t):
        super().__init__()
        self.t = t

    def sample(self, process, rng):
        return self.t, torch.ones_like(self.t)


def oracle(schedule):
    return gaussian(torch.zeros(1).double(), 0.25).denoiser(Gaussian(schedule))


def bent(units=16, low=-5.0, high=13.3):
    """Far from a line."""
    schedule = Learned(low, high, units=units)
    with torch.no_grad():
        schedule.height.mul_(40).mul_(torch.linspace(0, 2, units).double())
    return schedule


def exactly(objective, denoiser, t):
    """The objective's terms in expectation over data N(0, 1/4), noise, and these times."""
    each = t.repeat_interleave(4)
    objective.times = Given(each)
    loss = objective(denoiser, X0.repeat(len(t), 1), None, Moments(len(each)))
    return {"total": loss.per_example.mean(), **{name: value.mean() for name, value in loss.terms.items()}}


def midpoints(n):
    return (torch.arange(n).double() + 0.5) / n


@pytest.mark.parametrize(
    "schedule, points",
    [(bent(), 2000), (Learned(units=0), 2000), (Cosine(-5.0, 13.3), 200_000)],
    ids=["bent", "line", "cosine"],
)
def test_the_objective_of_the_exact_denoiser_is_the_closed_form(schedule, points):
    """Bits: 5.956015 nats of diffusion whatever the schedule, and h(x) + KL(q(z_1) || N(0, 1)) in all."""
    with torch.no_grad():
        found = exactly(VLB(None), oracle(schedule), midpoints(points))
    assert float(found["diffusion"]) * LN2 == pytest.approx(5.956015, abs=2e-6)
    assert float(found["total"]) * LN2 == pytest.approx(0.725798, abs=2e-6)


@pytest.mark.parametrize("steps, nats", [(10, 15.7276), (100, 6.48569), (300, 6.12573), (1000, 6.00624)])
def test_the_discrete_time_bound_of_a_line(steps, nats):
    found = exactly(VLB(None, steps), oracle(Learned(units=0)), torch.arange(1, steps + 1).double() / steps)
    assert float(found["diffusion"]) * LN2 == pytest.approx(nats, rel=1e-5)


def test_the_chain_draws_its_own_times_and_likelihood_agrees_with_it():
    objective, denoiser, n = VLB(None, 10), oracle(Learned(units=0).requires_grad_(False)), 2000
    x0 = 0.5 * torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss = objective(denoiser, x0, None, Rng.for_step(0, 0, range(n)))
    assert set((loss.t * 10).round().long().tolist()) == set(range(1, 11))
    mean, error = float(loss.terms["diffusion"].mean()), float(loss.terms["diffusion"].std()) / n**0.5
    assert abs(mean * LN2 - 15.7276) < 4.5 * error * LN2
    terms = continuous_bound(denoiser, x0, Rng.from_seeds(range(n)), draws=4, steps=10, even_in="time", start=1e-9)
    assert abs(float(terms.diffusion.mean()) - 15.7276) < 4.5 * float(terms.diffusion.std()) / n**0.5


def test_the_same_network_has_the_same_bound_on_every_schedule():
    """Not only the oracle: a network that knows the log-SNR alone, on the same data, to Monte Carlo error."""

    class Net(torch.nn.Module):
        def forward(self, x, told, cond=None):
            return 0.3 * torch.sin(x + 0.002 * told[:, None].to(x)) - 0.4 * x

    n = 4000
    x0 = 0.5 * torch.randn(n, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = {}
    for schedule in (bent(), Learned(units=0), Cosine(-5.0, 13.3)):
        denoiser = NetworkDenoiser(Net(), Gaussian(schedule.requires_grad_(False)), Preconditioning())
        draws = [VLB()(denoiser, x0, None, Rng.for_step(3, i, range(n))).terms["diffusion"] for i in range(4)]
        found[schedule] = torch.stack([d.mean() for d in draws]), torch.cat(draws).var()
    (a, *_), (b, *_), (c, *_) = found.values()
    variances = [float(variance) for _, variance in found.values()]
    spread = lambda means: float(means.std()) / 2  # noqa: E731  the standard error of four even draws
    for one, other in ((a, b), (c, b)):
        assert abs(float(one.mean() - other.mean())) < 6 * math.hypot(spread(one), spread(other))
    assert max(variances) > 1.2 * min(variances)  # that of the estimate does depend on the schedule


def second_moment(schedule, t):
    """E[L^2] over t for the exact, noiseless L(t) = -lambda' mse(lambda) / 2 of Gaussian data, in nats."""
    log_snr, (_, slope, _) = schedule.log_snr(t), schedule.course(t)
    mse = 0.25 * log_snr.exp() / (1 + 0.25 * log_snr.exp())
    return (0.5 * schedule.log_range.exp() * slope * mse).square()


def test_the_gradient_of_the_variance_is_that_of_the_squared_loss():
    """Against the derivative of E[L^2] through lambda(t), lambda'(t) and the network's error: equal, without the network."""
    schedule, t = bent(units=5, low=-3.0, high=6.0), midpoints(4000)
    parameters = schedule.interior
    direct = torch.autograd.grad(second_moment(schedule, t).mean(), parameters)
    loss = second_moment(schedule, t).sqrt().detach()
    ours = torch.autograd.grad(spread_gradient(schedule, t, loss).mean(), parameters)
    for a, b in zip(ours, direct, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)
    assert max(float(a.abs().max()) for a in ours) > 0.01


def test_course_is_the_schedule_and_its_derivatives():
    schedule, t, h = bent(units=6), torch.linspace(0.01, 0.99, 41).double(), 1e-4
    m, slope, bend = schedule.course(t)
    torch.testing.assert_close(schedule.log_snr(t), 13.3 - 18.3 * m)
    torch.testing.assert_close(
        slope, (schedule.course(t + h)[0] - schedule.course(t - h)[0]) / (2 * h), rtol=1e-6, atol=1e-7
    )
    torch.testing.assert_close(
        bend, (schedule.course(t + h)[1] - schedule.course(t - h)[1]) / (2 * h), rtol=1e-6, atol=1e-6
    )
    dalpha, dsigma = schedule.derivatives(t)
    for value, f in ((dalpha, schedule.alpha), (dsigma, schedule.sigma)):
        torch.testing.assert_close(value, (f(t + h / 10) - f(t - h / 10)) / (h / 5), rtol=1e-5, atol=1e-8)


def gradients(variance):
    schedule = bent(units=8, low=-3.0, high=6.0)
    n = 64
    x0 = 0.5 * torch.randn(n, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    VLB(variance=variance)(oracle(schedule), x0, None, Rng.for_step(0, 0, range(n))).per_example.mean().backward()
    return schedule


def test_the_bound_moves_the_ends_and_the_variance_the_interior():
    with_it, without = gradients(True), gradients(False)
    for name in ("log_snr_max", "log_range"):
        a, b = getattr(with_it, name).grad, getattr(without, name).grad
        assert float(a) == pytest.approx(float(b), rel=1e-12) and float(a) != 0
    assert all(p.grad is None for p in without.interior)
    assert all(float(p.grad.abs().max()) > 0 for p in with_it.interior)
    assert all(p.requires_grad for p in with_it.interior)


def test_the_ends_get_the_derivative_of_the_whole_bound():
    """Closed forms: the diffusion's integral, the prior's divergence and the decoder's entropy, by finite differences."""

    def total(schedule):
        denoiser = oracle(schedule)
        error = lambda end: torch.log1p(0.25 * end.exp())  # noqa: E731
        diffusion = 0.5 * (error(schedule.log_snr_max) - error(schedule.log_snr_min))
        prior = prior_nats(denoiser.process, X0, 1.0).mean()
        return diffusion + prior + reconstruction_nats(denoiser, X0, 0.0, Moments(4).normal(1)).mean()

    ends = ("log_snr_max", "log_range")
    schedule = bent(units=8, low=-3.0, high=6.0)
    expected = torch.autograd.grad(total(schedule), [getattr(schedule, name) for name in ends])
    exactly(VLB(None, variance=False), oracle(schedule), midpoints(400))["total"].backward()
    for name, value in zip(ends, expected, strict=True):
        assert float(getattr(schedule, name).grad) * LN2 == pytest.approx(float(value), abs=1e-4)


def test_the_interior_learns_to_lower_the_variance():
    """Of a loss without other noise the least E[L^2] is (E L)^2: L the same at every t. Most of the excess goes."""
    schedule, t = Learned(-3.0, 6.0, units=32), midpoints(400)
    for end in (schedule.log_snr_max, schedule.log_range):
        end.requires_grad_(False)

    def moments():
        with torch.no_grad():
            square = second_moment(schedule, t)
        return float(square.sqrt().mean()), float(square.mean() / square.sqrt().mean() ** 2) - 1

    mean, before = moments()
    optimizer = torch.optim.Adam(schedule.interior, lr=0.03)
    denoiser, objective = oracle(schedule), VLB()
    n = 256
    for step in range(150):
        x0 = 0.5 * torch.randn(n, 1, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        optimizer.zero_grad()
        objective(denoiser, x0, None, Rng.for_step(0, step, range(n))).per_example.mean().backward()
        optimizer.step()
    bound, after = moments()
    assert before > 0.3 and after < 0.35 * before
    assert bound == pytest.approx(mean, rel=1e-4)  # it did not move


def test_it_weights_as_the_elbo():
    """w = 1 / ln 2 (bits), on a schedule of any shape; of a chain, at first order in its step."""
    process = Gaussian(bent().requires_grad_(False))
    implied = implied_weighting(VLB(256), process)
    torch.testing.assert_close(implied.weight, torch.full_like(implied.weight, 1 / LN2), rtol=1e-9, atol=0)
    assert implied.is_monotone
    line = Gaussian(Learned(units=0).requires_grad_(False))
    chain = implied_weighting(VLB(256, 100), line, torch.linspace(-4, 13, 50).double()).weight
    torch.testing.assert_close(chain, torch.full_like(chain, 100 * math.expm1(0.183) / 18.3 / LN2), rtol=1e-6, atol=0)


def test_times_may_adapt():
    """The same mean, and not more variance than times drawn evenly."""
    denoiser, n, times = oracle(Learned(-3.0, 6.0, units=0).requires_grad_(False)), 512, Adaptive(Uniform(), bins=30)
    x0 = 0.5 * torch.randn(n, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = {}
    for name, objective in {"even": VLB(), "adaptive": VLB(times=times)}.items():
        losses = []
        for i in range(60):
            loss = objective(denoiser, x0, None, Rng.for_step(1, i, range(n)))
            objective.observe(loss)
            losses.append(loss.per_example)
        found[name] = torch.stack(losses[30:])
    a, b = found.values()
    assert abs(float(a.mean() - b.mean())) < 5 * math.hypot(float(a.mean(1).std()), float(b.mean(1).std())) / 30**0.5
    assert float(b.var()) < float(a.var())


def test_what_has_no_such_bound_is_refused_when_it_is_built():
    for process, words in {
        Gaussian(FromBetas(linear_betas(100))): "keeps some noise",
        Gaussian(Cosine(), DCT()): "grey levels are not independent",
    }.items():
        denoiser = gaussian(torch.zeros(1, 2, 2), 0.25).denoiser(process)
        with pytest.raises(UsageProblem, match=words):
            list(VLB(256).parameters_of(denoiser, "denoiser"))


def test_waves_are_as_long_as_asked():
    """The network sees the same waves of values one grey level apart, and half a turn of the longer ones."""

    class Look(torch.nn.Module):
        def forward(self, x, t, cond=None):
            self.x = x
            return x[:, :1]

    net, width = Look(), 2 / 16
    Waves(net, (1 / (2 * width), 1 / width))(torch.tensor([0.03, 0.03 + width])[:, None, None, None], torch.zeros(2))
    slow, fast = net.x[:, 1:3], net.x[:, 3:5]
    torch.testing.assert_close(fast[0], fast[1], atol=1e-5, rtol=0)
    torch.testing.assert_close(slow[0], -slow[1], atol=1e-5, rtol=0)
    assert net.x.shape == (2, 5, 1, 1) and float(net.x[0, 0]) == pytest.approx(0.03)


def test_training_moves_the_schedule_and_the_run_keeps_it(tmp_path):
    training = TrainingOptions(
        steps=30, batch_size=16, lr=3e-3, ema=200, precision="fp32", checkpoint_every=15, preview_every=0
    )
    network = UNetOptions(channels=8, mult=(1,), blocks=1, attention=(), middle_attention=False)
    recipe = find("vdm")(data="digits", network=network, training=training)
    train_model(recipe, load("digits"), tmp_path / "run", preview=False)
    fresh, trained = Model(recipe, Model.load(tmp_path / "run").spec), Model.load(tmp_path / "run", "model")
    before, after = fresh.denoiser.process.schedule, trained.denoiser.process.schedule
    for name, a in before.named_parameters():
        b = dict(after.named_parameters())[name]
        assert b.dtype == torch.float64 and not torch.equal(a, b), name
    lines = [line for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines() if line]
    assert len(lines) == 30 and all(name in lines[-1] for name in ("prior", "diffusion", "reconstruction"))
    images = trained.sample(range(2), trained.recipe.sampling().changed(steps=4))
    assert images.isfinite().all()


def test_a_schedule_at_rest_stays():
    recipe = find("vdm")
    for options, moving in (
        ({}, 6),
        ({"variance": False}, 2),
        ({"schedule": "line"}, 2),
        ({"schedule": "fixed"}, 0),
    ):
        parameters = list(recipe(**options).process().parameters())
        assert sum(p.requires_grad and p.numel() > 0 for p in parameters) == moving
    line = recipe(schedule="line").process().schedule
    t = torch.linspace(0, 1, 11).double()
    torch.testing.assert_close(line.log_snr(t), 13.3 - 18.3 * t)
    assert isinstance(VLB().times, Stratified)
