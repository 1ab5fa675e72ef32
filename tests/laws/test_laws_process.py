"""Law 1: marginal, transition and posterior of the Gaussian process are one chain."""

import laws_parts as parts
import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.processes import Gaussian
from unnoise.processes.gaussian import CLEAN
from unnoise.rng import Rng
from unnoise.schedules import FromBetas, cosine_betas, linear_betas

NAMES = list(parts.SCHEDULES)
N = 200


def pairs(seed=0):
    """Random t > s, near and far, with the ends of [0, 1] among them."""
    u = torch.rand(2, N, generator=parts.numbers(seed), dtype=torch.float64) * 0.998 + 0.001
    u[0, :3], u[1, :3] = 1.0, torch.tensor([0.5, 0.999, 0.001])
    u[1, 3:40] = u[0, 3:40] * (1 - 1e-6)
    return u.amax(0), u.amin(0)


def affine(law_of):
    """Constant and slope of a law's mean as a function of the state, and its std, as (N, 1) tensors."""
    zero, one = torch.zeros(N, 1, dtype=torch.float64), torch.ones(N, 1, dtype=torch.float64)
    at_zero, at_one = law_of(zero), law_of(one)
    return at_zero.mean, at_one.mean - at_zero.mean, torch.as_tensor(at_zero.std).expand(N, 1)


def close(a, b, scale=1.0, tol=2e-12):
    assert float(((a - b).abs() / scale).max()) < tol


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_posterior_composed_with_marginal_is_marginal(name, eta):
    process = parts.process(name)
    t, s = pairs()
    x0 = parts.normal(N, 1)
    constant, slope, std = affine(lambda x: process.posterior(x, x0, t, s, eta))
    at, target = process.marginal(x0, t), process.marginal(x0, s)
    scale = at.std.clamp(min=1)
    close(constant + slope * at.mean, target.mean, scale)
    close((slope * at.std) ** 2 + std**2, target.std**2, scale**2)


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_posterior_at_clean_data_is_the_data(name, eta):
    process = parts.process(name)
    x0, xt = parts.normal(5, 3), parts.normal(5, 3, seed=1)
    for point in process.points([1.0, 0.5, 0.001]):
        law = process.posterior(xt, x0, point, CLEAN, eta)
        assert torch.equal(law.mean, x0)
        assert float(law.std) == 0


@pytest.mark.parametrize("name", NAMES)
def test_chapman_kolmogorov(name):
    process = parts.process(name)
    t, s = pairs()
    r = s * 0.7
    _, gain_ts, std_ts = affine(lambda x: process.transition(x, s, t))
    _, gain_sr, std_sr = affine(lambda x: process.transition(x, r, s))
    _, gain_tr, std_tr = affine(lambda x: process.transition(x, r, t))
    scale = std_tr.clamp(min=1)
    close(gain_ts * gain_sr, gain_tr)
    close((gain_ts * std_sr) ** 2 + std_ts**2, std_tr**2, scale**2)
    x0 = torch.ones(N, 1, dtype=torch.float64)
    at, later = process.marginal(x0, s), process.marginal(x0, t)
    close(gain_ts * at.mean, later.mean)
    close((gain_ts * at.std) ** 2 + std_ts**2, later.std**2, scale**2)


@pytest.mark.parametrize("name", NAMES)
def test_posterior_is_bayes_rule_by_brute_force(name):
    """q(x_s | x_t, x_0) from q(x_t | x_s) q(x_s | x_0) on a fine grid of x_s."""
    process = parts.process(name)
    for t, s in ((0.9, 0.5), (0.5, 0.45), (0.3, 0.001), (1.0, 0.99)):
        t, s = process.point(t), process.point(s)
        x0, xt = torch.tensor([[0.7]]).double(), torch.tensor([[0.7 * t.alpha - 0.8 * t.sigma]]).double()
        law = process.posterior(xt, x0, t, s)
        offsets = torch.linspace(-14, 14, 4001, dtype=torch.float64)[:, None]
        xs = law.mean + offsets * law.std * 0.8  # any grid that covers the mass
        log_q = process.transition(xs, s, t).log_prob(xt.expand_as(xs)) + process.marginal(
            x0.expand_as(xs), s
        ).log_prob(xs)
        w = torch.softmax(log_q, 0)[:, None]
        mean = (w * xs).sum()
        assert abs(float(mean - law.mean)) < 1e-9 * max(1, t.sigma)
        assert float((w * (xs - mean) ** 2).sum()) == pytest.approx(law.std**2, rel=1e-7)


@pytest.mark.parametrize("betas", [linear_betas(1000), cosine_betas(1000), linear_betas(50)])
def test_posterior_of_betas_is_the_textbook(betas):
    """beta~ and mu~ of 2006.11239, eq. 7, from the betas alone."""
    steps = len(betas)
    process = Gaussian(FromBetas(betas))
    abar = torch.cat([torch.ones(1).double(), torch.cumprod(1 - betas, 0)])
    i = torch.arange(2, steps + 1)
    x0, xt = parts.normal(steps - 1, 1), parts.normal(steps - 1, 1, seed=1)
    beta, before, now = betas[i - 1][:, None], abar[i - 1][:, None], abar[i][:, None]
    law = process.posterior(xt, x0, i.double() / steps, (i.double() - 1) / steps)
    mean = before.sqrt() * beta / (1 - now) * x0 + (1 - beta).sqrt() * (1 - before) / (1 - now) * xt
    close(law.mean, mean, tol=1e-12)
    close(law.std**2 / (beta * (1 - before) / (1 - now)), torch.ones(1).double(), tol=1e-9)
    forward = process.transition(xt, (i.double() - 1) / steps, i.double() / steps)
    close(forward.std**2 / beta, torch.ones(1).double(), tol=1e-9)
    close(forward.mean, (1 - beta).sqrt() * xt, tol=1e-12)


@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("name", NAMES)
def test_sampled_posterior_has_the_marginal(name, eta):
    process, count = parts.process(name), 200_000
    rng = Rng.from_seeds([3])
    x0 = torch.full((1, count), 0.7, dtype=torch.float64)
    t, s = torch.tensor([0.8]).double(), torch.tensor([0.35]).double()
    xs = process.posterior(process.corrupt(x0, t, rng), x0, t, s, eta).sample(rng)
    law = process.marginal(x0[:, :1], s)
    assert abs(float(xs.mean() - law.mean)) < 5 * float(law.std) / count**0.5
    assert abs(float(xs.var() / law.std**2 - 1)) < 5 * (2 / count) ** 0.5


@pytest.mark.parametrize("name", NAMES)
def test_drift_and_diffusion_move_the_moments(name):
    """d alpha/dt = f alpha and d sigma^2/dt = 2 f sigma^2 + g^2."""
    process = parts.process(name)
    t = torch.linspace(0.05, 0.95, N, dtype=torch.float64)
    one = torch.ones(N, 1, dtype=torch.float64)
    point = process.with_derivatives(t, one)
    f, g = process.drift(one, t), process.diffusion(t, one)
    close(f * point.alpha, point.dalpha, tol=1e-10)
    scale = (point.sigma * point.dsigma).clamp(min=1)
    close(2 * f * point.sigma**2 + g**2, 2 * point.sigma * point.dsigma, scale, tol=1e-10)


@pytest.mark.parametrize("name", NAMES)
def test_velocity_is_the_motion_of_the_path(name):
    process = parts.process(name)
    t = torch.linspace(0.05, 0.95, N, dtype=torch.float64)
    x0, eps = parts.normal(N, 1), parts.normal(N, 1, seed=1)
    point = process.with_derivatives(t, x0)
    xt = point.alpha * x0 + point.sigma * eps
    close(process.velocity(xt, x0, t), point.dalpha * x0 + point.dsigma * eps, point.dsigma.clamp(min=1), tol=1e-10)
    close(process.noise(xt, x0, t), eps, tol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_noisier_points_have_the_ratio_asked_for(name):
    process = parts.process(name)
    points = process.points([0.6, 0.4, 0.1])
    for t, later in zip(points, process.noisier(points, 0.3), strict=True):
        assert later.t > t.t
        assert later.half_log_snr == pytest.approx(t.half_log_snr - 0.3, abs=1e-9)
    assert process.noisier([], 0.3) == []


@pytest.mark.parametrize("name", NAMES)
def test_points_are_the_schedule(name):
    process = parts.process(name)
    times = [1.0, 0.7, 0.2, 0.05]
    x = torch.ones(4, 1, dtype=torch.float64)
    batch = process.with_derivatives(torch.tensor(times, dtype=torch.float64), x)
    for i, point in enumerate(process.points(times)):
        for field in ("t", "alpha", "sigma", "dalpha", "dsigma"):
            assert getattr(point, field) == pytest.approx(float(getattr(batch, field)[i]), rel=1e-14, abs=1e-300)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "sqrt-linear betas"])
def test_prior_is_the_marginal_at_the_top_for_small_data(name):
    process = parts.process(name)
    top = process.point(1.0)
    law = process.prior((4, 3), top)
    assert law.mean.shape == (4, 3)
    assert law.std == pytest.approx(top.sigma, rel=5e-5)  # alpha(1)^2 = 4e-5, by which sub-VP ends below 1
    assert not law.mean.any()


def test_the_betas_of_latent_diffusion_keep_some_signal():
    """As published: alpha(1)^2 = prod (1 - beta) = 0.5 %, where N(0, 1) is begun with all the same."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    assert parts.process("sqrt-linear betas").point(1.0).alpha ** 2 == pytest.approx(
        float((1 - betas).prod()), rel=1e-9
    )


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_eta_outside_is_refused(eta):
    process, x = parts.process("cosine"), torch.zeros(1, 1)
    with pytest.raises(UsageProblem, match="eta"):
        process.posterior(x, x, process.point(0.5), process.point(0.4), eta)
