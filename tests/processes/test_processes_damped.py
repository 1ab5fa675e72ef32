"""Linear SDEs with auxiliary variables: kernels by three roads, laws that agree, scores of exact densities."""

import math

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.laws import Correlated, Normal
from unnoise.oracles import Mixture, gaussian
from unnoise.processes import CriticallyDamped, Gaussian, LinearSDE
from unnoise.processes.damped import multiplier
from unnoise.processes.linear import root
from unnoise.rng import Rng
from unnoise.schedules import LinearVP

TIMES = torch.tensor([1e-5, 1e-3, 0.02, 0.1, 0.25, 0.5, 1.0], dtype=torch.float64)
DAMPED = CriticallyDamped()


def double(values):
    return torch.tensor(values, dtype=torch.float64)


def third_order(gamma=0.04):
    """Noise enters the last of three variables, and reaches the data through two."""
    drift = double([[0, 1, 0], [-1, 0, 2], [0, -2, -3]])
    return LinearSDE(drift, torch.diag(double([0, 0, 6])), torch.diag(double([0, gamma, gamma])), (0.5, 6.0))


def vp():
    return LinearSDE(double([[-0.5]]), double([[1.0]]), double([[0.0]]), (0.1, 20.0))


PROCESSES = {
    "critical": DAMPED,
    "heavier, faster": CriticallyDamped(1.0, 0.5, 1e-4, (0.1, 6.9)),
    "underdamped": LinearSDE(double([[0, 4], [-1, -1]]), torch.diag(double([0, 0.5])), torch.diag(double([0, 0.01]))),
    "third order": third_order(),
    "no auxiliary": vp(),
}


def van_loan(process, clock):
    """Phi and N of the exponential of one matrix of twice the size (Van Loan 1978)."""
    k = len(process.drift)
    block = torch.zeros(2 * k, 2 * k, dtype=torch.float64)
    block[:k, :k], block[:k, k:], block[k:, k:] = -process.drift, process.spread, process.drift.T
    e = torch.matrix_exp(block * clock)
    flow = e[k:, k:].T
    return flow, flow @ e[:k, k:]


@pytest.mark.parametrize("name", PROCESSES)
def test_kernel_is_the_matrix_exponential(name):
    process = PROCESSES[name]
    for t in TIMES[TIMES <= 0.25]:
        kernel = process.kernel(t)
        flow, noise = van_loan(process, kernel.clock)
        torch.testing.assert_close(kernel.gain, flow[:, 0], rtol=0, atol=1e-10)
        torch.testing.assert_close(kernel.covariance, flow @ process.start @ flow.T + noise, rtol=0, atol=1e-10)


def published(process, t, s_xx, s_vv):
    """Mean of (x_0, v_0) = (1, 0) and covariance for initial variances, of the paper's code, whose f is Gamma."""
    b, f = float(process.kernel(t).clock), process.friction
    g = 1 / f
    m = math.exp(-4 * b * g)
    xx = s_xx + 1 / m - 1 + 4 * b * g * (s_xx - 1) + 4 * b**2 * g**2 * (s_xx - 2) + 16 * g**4 * b**2 * s_vv
    xv = -s_xx * b + 4 * g**2 * b * s_vv - 2 * g * b**2 * (s_xx - 2) - 8 * g**3 * b**2 * s_vv
    vv = f**2 * (1 / m - 1) / 4 + f * b - 4 * g * b * s_vv + 4 * g**2 * b**2 * s_vv + s_vv + b**2 * (s_xx - 2)
    return math.exp(-2 * b * g) * double([1 + 2 * b * g, -b]), m * double([[xx, xv], [xv, vv]])


@pytest.mark.parametrize("mass", [0.25, 1.0, 1 / 16])
def test_kernel_is_the_published_closed_form(mass):
    process = CriticallyDamped(mass)
    for t in TIMES[1:]:
        mean, covariance = published(process, t, 0.0, 0.04 * mass)
        kernel = process.kernel(t)
        torch.testing.assert_close(kernel.gain, mean, rtol=0, atol=1e-13)
        torch.testing.assert_close(kernel.covariance, covariance, rtol=1e-12, atol=2e-15)


def test_both_given_is_the_published_closed_form():
    x0, v0 = double([[0.7], [-0.2]]), double([[0.3], [0.5]])
    law = DAMPED.given(x0, v0, double([0.3, 0.8]))
    mean, covariance = law.mean, law.root @ law.root.mT
    for i, t in enumerate(double([0.3, 0.8])):
        b = 4 * float(t)  # g = 1
        wanted = math.exp(-2 * b) * torch.stack([(1 + 2 * b) * x0[i] + 4 * b * v0[i], -b * x0[i] + (1 - 2 * b) * v0[i]])
        torch.testing.assert_close(mean[i], wanted, rtol=0, atol=1e-14)
        torch.testing.assert_close(covariance[i], published(DAMPED, t, 0, 0)[1], rtol=1e-12, atol=1e-15)


def test_small_times_keep_their_digits():
    """Given x_0 and v_0, S_xx -> 2 Gamma B^3 / (3 M^2), S_xv -> Gamma B^2 / M: the closed form in float64 has lost them."""
    for b in (1e-9, 1e-7, 1e-5):
        noise = DAMPED.noise(double(b))
        leading = double([[2 * b**3 / 3 * 16, b**2 * 4], [b**2 * 4, 2 * b]])
        torch.testing.assert_close(noise / leading, torch.ones(2, 2).double(), rtol=0, atol=20 * b)
    assert float(multiplier(DAMPED.kernel(double(1e-5)).covariance)) == pytest.approx(193.7, abs=0.05)
    assert float(multiplier(DAMPED.fresh(DAMPED.kernel(double(1e-5))))) == pytest.approx(223.6, abs=0.05)
    floored = CriticallyDamped(floor=1e-9).kernel(double([1e-5, 1e-3, 1.0]))
    assert multiplier(floored.covariance).tolist() == pytest.approx([11.16, 19.92, 2.00001], abs=5e-3)


def test_critical_damping_is_the_closed_exponential():
    clock = double([0.0, 1e-6, 0.3, 4.0])
    for drift in (None, DAMPED.returning):
        torch.testing.assert_close(
            DAMPED.flow(clock, drift), LinearSDE.flow(DAMPED, clock, drift), rtol=1e-12, atol=1e-15
        )


@pytest.mark.parametrize("name", PROCESSES)
def test_it_comes_to_rest(name):
    process = PROCESSES[name]
    rest = process.equilibrium
    flow, noise = process.flow(double(0.7)), process.noise(double(0.7))
    torch.testing.assert_close(flow @ rest @ flow.T + noise, rest, rtol=1e-12, atol=1e-13)
    end = process.noise(double(60.0))
    torch.testing.assert_close(end, rest, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", PROCESSES)
def test_stretches_of_any_length_compose(name):
    """N(a + b) = N(b) + Phi(b) N(a) Phi(b)^T, on both sides of where the quadrature ends."""
    process = PROCESSES[name]
    for a, b in ((1e-4, 2e-4), (0.3, 0.9), (1.0, 1.5), (3.0, 0.01), (5.0, 7.0)):
        a, b = double(a), double(b)
        for drift in (None, process.returning):
            flow = process.flow(b, drift)
            whole = process.noise(b, drift) + flow @ process.noise(a, drift) @ flow.T
            torch.testing.assert_close(process.noise(a + b, drift), whole, rtol=1e-10, atol=1e-14)


def test_at_rest_x_and_v_are_independent():
    torch.testing.assert_close(DAMPED.equilibrium, torch.diag(double([1, 0.25])), rtol=0, atol=1e-15)
    end = DAMPED.kernel(double(1.0))
    assert float((end.covariance - DAMPED.equilibrium).abs().max()) < 1e-3
    assert float(end.gain.abs().max()) == pytest.approx(9 * math.exp(-8), rel=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_backwards_at_rest_is_time_reversal(name):
    """Cov(u_0, u_B) is the same read from either end, and the law of rest stays as it is."""
    process, b = PROCESSES[name], double(0.37)
    rest, back = process.equilibrium, process.flow(b, process.returning)
    torch.testing.assert_close(process.flow(b) @ rest, (back @ rest).T, rtol=0, atol=1e-12)
    noise = process.noise(b, process.returning)
    torch.testing.assert_close(back @ rest @ back.T + noise, rest, rtol=0, atol=1e-12)


def test_rest_backwards_is_the_published_half_step():
    """Mean e^{2gB}[(1-2gB)x + 4g^2 B v], e^{2gB}[-B x + (1+2gB) v] with B < 0, and its covariance, g = f = 1."""
    t, s = DAMPED.points([0.6, 0.47])
    u = double([[[0.4], [-0.3]]])
    law = DAMPED.relaxed(u, t, s)
    b = float(s.clock - t.clock)
    x, v = 0.4, -0.3
    mean = math.exp(2 * b) * double([(1 - 2 * b) * x + 4 * b * v, -b * x + (1 + 2 * b) * v])
    torch.testing.assert_close(law.mean[0, :, 0], mean, rtol=0, atol=1e-14)
    e = math.exp(4 * b)
    xx, xv = e * (1 / e - 1 + 4 * b - 8 * b**2), -4 * b**2 * e
    vv = e * (-(1 - 1 / e) / 4 - b - 2 * b**2)
    torch.testing.assert_close(law.root @ law.root.T, double([[xx, xv], [xv, vv]]), rtol=1e-11, atol=1e-15)


def test_without_auxiliary_variables_it_is_the_vp_process():
    linear, gaussian_ = vp(), Gaussian(LinearVP())
    x0, xt = torch.randn(4, 3).double(), torch.randn(4, 3).double()
    t, s = double([0.9, 0.5, 0.3, 0.02]), double([0.7, 0.1, 0.2, 0.01])
    ours, theirs = linear.marginal(x0, t), gaussian_.marginal(x0, t)
    torch.testing.assert_close(ours.mean[:, 0], theirs.mean, rtol=0, atol=1e-12)
    torch.testing.assert_close(ours.root[:, :, 0], theirs.std, rtol=1e-11, atol=0)
    for eta in (0.0, 1.0):
        ours, theirs = linear.posterior(xt[:, None], x0, t, s, eta), gaussian_.posterior(xt, x0, t, s, eta)
        torch.testing.assert_close(ours.mean[:, 0], theirs.mean, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(ours.root[:, :, 0], theirs.std, rtol=1e-10, atol=1e-12)
    for noise in (0.0, 0.5, 1.0):
        found = linear.reverse(xt[:, None], x0, t, noise)[:, 0]
        torch.testing.assert_close(found, gaussian_.reverse(xt, x0, t, noise), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(linear.diffusion(t, xt[:, None])[:, 0], gaussian_.diffusion(t, xt), rtol=1e-10, atol=0)
    torch.testing.assert_close(linear.kernel(t).snr.log(), gaussian_.schedule.log_snr(t), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("name", PROCESSES)
def test_posterior_composed_with_marginal_is_marginal(name, eta):
    process, k = PROCESSES[name], len(PROCESSES[name].drift)
    t, s = double([0.9, 0.5, 0.3, 0.02, 0.4]), double([0.7, 0.01, 0.29, 0.01, 0.0])
    x0 = double([[0.7], [-1.2], [0.1], [2.0], [0.5]])
    zero = torch.zeros(5, k, 1, dtype=torch.float64)
    constant = process.posterior(zero, x0, t, s, eta)
    columns = []
    for i in range(k):
        one = zero.clone()
        one[:, i] = 1
        columns.append(process.posterior(one, x0, t, s, eta).mean - constant.mean)
    keep = torch.cat(columns, -1)
    at, target = process.marginal(x0, t), process.marginal(x0, s)
    torch.testing.assert_close(constant.mean + keep @ at.mean, target.mean, rtol=0, atol=1e-10)
    spread = keep @ at.root @ at.root.mT @ keep.mT + constant.root @ constant.root.mT
    torch.testing.assert_close(spread, target.root @ target.root.mT, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", PROCESSES)
def test_posterior_is_bayes_rule(name):
    """log q(u_s | u_t, x_0) = log q(u_t | u_s) + log q(u_s | x_0) - log q(u_t | x_0), at every u_s."""
    process, k = PROCESSES[name], len(PROCESSES[name].drift)
    generator = torch.Generator().manual_seed(0)
    x0 = torch.randn(6, 2, generator=generator, dtype=torch.float64)
    us, ut = torch.randn(2, 6, k, 2, generator=generator, dtype=torch.float64)
    t, s = torch.full((6,), 0.6).double(), torch.full((6,), 0.35).double()
    posterior = process.posterior(ut, x0, t, s).log_prob(us)
    joint = process.transition(us, s, t).log_prob(ut) + process.marginal(x0, s).log_prob(us)
    torch.testing.assert_close(posterior, joint - process.marginal(x0, t).log_prob(ut), rtol=1e-8, atol=1e-8)


def test_posterior_at_clean_data_is_the_data():
    x0 = double([[0.3, -0.4]])
    law = DAMPED.posterior(torch.randn(1, 2, 2).double(), x0, DAMPED.point(0.2), DAMPED.point(0.0))
    assert torch.equal(DAMPED.data(law.mean), x0)
    assert float(law.root[0].abs().max()) == 0 and DAMPED.point(0.0).is_clean


def mixture():
    return Mixture(double([[-0.7, 0.2], [0.5, 0.6], [0.1, -0.9]]), double([[0.05, 0.1], [0.1, 0.02], [0.0, 0.2]]))


@pytest.mark.parametrize("name", ["critical", "third order"])
def test_score_is_the_gradient_of_the_density(name):
    process = PROCESSES[name]
    oracle, t = mixture().denoiser(process), double([0.15, 0.4, 0.9])
    u = torch.randn(3, len(process.drift), 2, generator=torch.Generator().manual_seed(1)).double().requires_grad_()
    (gradient,) = torch.autograd.grad(oracle.log_prob(u, t).sum(), u)
    score = process.score(u, oracle(u, t).mean, t)
    torch.testing.assert_close(score, gradient, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", ["critical", "third order"])
def test_density_of_gaussian_data_is_closed(name):
    """x_0 ~ N(0.3, 0.2): u_t is normal, of mean 0.3 c and covariance 0.2 c c^T + S."""
    process = PROCESSES[name]
    u = torch.randn(5, len(process.drift), 1, generator=torch.Generator().manual_seed(2)).double()
    t = double([0.05, 0.2, 0.5, 0.8, 1.0])
    oracle, kernel = gaussian(double([0.3]), 0.2).denoiser(process), process.kernel(t)
    covariance = 0.2 * kernel.gain[:, :, None] * kernel.gain[:, None] + kernel.covariance
    law = torch.distributions.MultivariateNormal(0.3 * kernel.gain, covariance)
    torch.testing.assert_close(oracle.log_prob(u, t), law.log_prob(u[..., 0]), rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", ["critical", "third order"])
def test_flow_and_reverse_keep_the_density(name):
    """Fokker-Planck: d log p/dt = -div v - v . grad log p, for the flow; the reverse SDE's drift has g^2/2 more score."""
    process = PROCESSES[name]
    oracle = mixture().denoiser(process)
    u = torch.randn(4, len(process.drift), 2, generator=torch.Generator().manual_seed(3)).double()
    t, h = torch.full((4,), 0.3, dtype=torch.float64), 1e-5
    rate = (oracle.log_prob(u, t + h) - oracle.log_prob(u, t - h)) / (2 * h)

    def velocity(u):
        return process.velocity(u, oracle(u, t).mean, t)

    with torch.enable_grad():
        jacobian = torch.autograd.functional.jacobian(lambda u: velocity(u).sum(0), u)
    divergence = torch.einsum("jkbjk->b", jacobian)
    score = process.score(u, oracle(u, t).mean, t)
    torch.testing.assert_close(rate, -divergence - (velocity(u) * score).flatten(1).sum(1), rtol=1e-6, atol=1e-6)
    g = process.diffusion(t, u)
    difference = process.reverse(u, oracle(u, t).mean, t, 1.0) - velocity(u)
    torch.testing.assert_close(difference, -0.5 * g**2 * score, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_signal_falls_by_what_the_score_of_the_noisy_parts_tells(name):
    """d snr/dt = -beta |Q^(1/2) S^-1 c|^2: matching only the score where noise enters loses nothing of the bound."""
    process, h = PROCESSES[name], 1e-5
    for t in (0.2, 0.5, 0.8):
        low, here, high = process.points([t - h, t, t + h])
        pulled = here.precision @ here.gain
        slope = -float(here.beta * (pulled @ process.spread @ pulled))
        assert float(high.snr - low.snr) / (2 * h) == pytest.approx(slope, rel=1e-6)


def test_samples_have_the_moments_of_their_law():
    x0 = torch.full((1, 100_000), 0.7, dtype=torch.float64)
    law = DAMPED.marginal(x0, double([0.3]))
    u = law.sample(Rng.from_seeds([4]))[0]
    kernel = DAMPED.kernel(double(0.3))
    covariance = torch.cov(u)
    torch.testing.assert_close(u.mean(1), 0.7 * kernel.gain, rtol=0, atol=5e-3)
    torch.testing.assert_close(covariance, kernel.covariance, rtol=0.02, atol=2e-3)
    assert DAMPED.prior((3, 2, 4)).sample(Rng.from_seeds(range(3))).shape == (3, 2, 2, 4)


def test_divergence_of_correlated_normals():
    generator = torch.Generator().manual_seed(0)
    roots = [root(m @ m.mT) for m in torch.randn(2, 3, 2, 2, generator=generator, dtype=torch.float64)]
    means = torch.randn(2, 3, 2, 1, generator=generator, dtype=torch.float64)
    a, b = (Correlated(m, r) for m, r in zip(means, roots, strict=True))
    theirs = [
        torch.distributions.MultivariateNormal(m[..., 0], scale_tril=r) for m, r in zip(means, roots, strict=True)
    ]
    torch.testing.assert_close(a.kl(b), torch.distributions.kl_divergence(*theirs), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(a.log_prob(b.mean), theirs[0].log_prob(means[1][..., 0]), rtol=1e-10, atol=1e-10)
    with pytest.raises(UsageProblem, match="Normal"):
        a.kl(Normal(means[0], 1.0))


def test_root_of_what_is_known_in_part():
    full = torch.randn(5, 3, 3, generator=torch.Generator().manual_seed(0)).double()
    full = full @ full.mT
    torch.testing.assert_close(root(full), torch.linalg.cholesky(full), rtol=1e-9, atol=1e-12)
    part = double([[0, 0, 0], [0, 4, 2], [0, 2, 1]])
    assert torch.equal(root(part), double([[0, 0, 0], [0, 2, 0], [0, 1, 0]]))


def test_what_cannot_be_is_refused():
    for options in ({"mass": 0.0}, {"gamma": 2.0}, {"floor": -1.0}, {"beta": (0.0, 1.0)}):
        with pytest.raises(UsageProblem, match=next(iter(options))):
            CriticallyDamped(**options)
    still, noisy = double([[0, 1], [-1, 0]]), torch.diag(double([0, 1]))
    with pytest.raises(UsageProblem, match="come to rest"):
        LinearSDE(still, noisy, noisy)
    with pytest.raises(UsageProblem, match="share"):
        LinearSDE(DAMPED.drift, double([[1, 1], [1, 1]]), noisy)
    x = torch.zeros(1, 1)
    with pytest.raises(UsageProblem, match="eta is"):
        DAMPED.posterior(x[:, None].expand(1, 2, 1), x, DAMPED.point(0.5), DAMPED.point(0.4), 0.5)
