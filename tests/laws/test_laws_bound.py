"""Law 8: the variational bound against closed forms.

For Gaussian data with its exact denoiser every term is a quadratic of x_0 and of one noise: four points with the right
second moments give its expectation exactly.
"""

import math

import laws_parts as parts
import pytest
import torch

from unnoise.denoisers import NetworkDenoiser, relation
from unnoise.errors import UsageProblem
from unnoise.laws import Normal
from unnoise.likelihood import Discretised, bits_per_dim, decoder_nats, variational_bound
from unnoise.objectives import Bound, UniformSteps
from unnoise.oracles import gaussian
from unnoise.processes import Gaussian
from unnoise.rng import Rng
from unnoise.samplers import Ancestral, Integers
from unnoise.schedules import FromBetas, cosine_betas, linear_betas

STD = 0.5
X0 = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]], dtype=torch.float64) * STD
NATS = math.log(2)


class FourPoints(Rng):
    """Noise of +-1, independent of the sign of X0."""

    def __init__(self):
        super().__init__([()] * 0)

    def __len__(self):
        return 4

    def normal(self, *event, dtype=torch.float64):
        return torch.tensor([1.0, -1.0, 1.0, -1.0], dtype=dtype)[:, None].expand(4, *event)


def oracle(schedule):
    return gaussian(torch.zeros(1).double(), STD**2).denoiser(Gaussian(schedule))


def nats(schedule, reverse, steps):
    denoiser = oracle(schedule)
    bound = variational_bound(denoiser, reverse, Integers(steps)(denoiser.process), X0, FourPoints())
    return bound, float(bound.total.mean()) * NATS


def entropy_and_prior(schedule):
    """h(x_0) + KL(q(x_T) || N(0, 1)), nats."""
    top = Gaussian(schedule).point(1.0)
    variance = (top.alpha * STD) ** 2 + top.sigma**2
    return 0.5 * math.log(2 * math.pi * math.e * STD**2) + 0.5 * (variance - 1 - math.log(variance))


@pytest.mark.parametrize("variance, value", [("optimal", 0.725791), ("large", 0.840461), ("small", 1.295717)])
def test_bound_of_gaussian_data(variance, value):
    assert nats(FromBetas(linear_betas(1000)), Ancestral(variance=variance), 1000)[1] == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("schedule", [FromBetas(linear_betas(1000)), FromBetas(cosine_betas(200))])
@pytest.mark.parametrize("steps", [1, 5, 100])
def test_the_optimal_bound_is_tight_at_any_number_of_steps(schedule, steps):
    _, total = nats(schedule, Ancestral(variance="optimal"), steps)
    assert total == pytest.approx(entropy_and_prior(schedule), abs=1e-9)


def test_parts_sum_to_the_bound():
    bound, _ = nats(FromBetas(linear_betas(100)), Ancestral(), 100)
    torch.testing.assert_close(bound.prior + bound.steps.sum(1), bound.total)
    assert bound.steps.shape == bound.mse.shape == (4, 100)
    assert float(bound.steps[:, 1:].min()) >= 0  # divergences; the decoder comes first, a density
    assert float(bound.prior.mean()) * NATS == pytest.approx(
        0.5 * float(FromBetas(linear_betas(100)).alpha(torch.tensor(1.0)) ** 2) * (STD**2 - 1)
        - 0.5 * math.log(float(FromBetas(linear_betas(100)).sigma(torch.tensor(1.0)) ** 2)),
        abs=1e-12,
    )


@pytest.mark.parametrize("variance", ["small", "large", "optimal"])
def test_the_objective_is_the_bound_one_step_at_a_time(variance):
    """Averaged over t, T times a term is L - L_T."""
    steps = 50
    denoiser, reverse = oracle(FromBetas(linear_betas(steps))), Ancestral(variance=variance)
    objective = Bound(steps, UniformSteps(steps), reverse)
    t = (torch.arange(1, steps + 1).double() / steps).repeat_interleave(4)
    x0 = X0.repeat(steps, 1)
    process = denoiser.process
    point = process.at(t, x0)
    xt = point.alpha * x0 + point.sigma * torch.tensor([1.0, -1.0, 1.0, -1.0]).double().repeat(steps)[:, None]
    loss = objective.compare_at(denoiser, x0, xt, t, denoiser(xt, t), torch.ones_like(t))
    bound, _ = nats(FromBetas(linear_betas(steps)), reverse, steps)
    expected = (bound.total - bound.prior).mean()
    assert float(loss.per_example.mean()) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("eta", [0.3, 0.7])
def test_bound_of_chains_between_ddim_and_ddpm(eta):
    """Each term is the divergence of the chain's own posterior: zero for a denoiser that knows the data."""

    class Knows(NetworkDenoiser):
        def __init__(self, process):
            super().__init__(torch.nn.Identity(), process, parts.P.Raw("x0"))

        def forward(self, xt, t, cond=None):
            from unnoise.laws import Estimate

            return Estimate(X0)

    process = Gaussian(FromBetas(linear_betas(50)))
    bound = variational_bound(Knows(process), Ancestral(eta=eta), Integers(50)(process), X0, FourPoints())
    assert float(bound.steps[:, 1:].abs().max()) < 1e-12
    assert float(bound.mse.max()) == 0
    with pytest.raises(UsageProblem, match="deterministic"):
        variational_bound(Knows(process), Ancestral(eta=0.0), Integers(50)(process), X0, FourPoints())


def test_term_in_eps_form():
    """w_t |eps - eps_guess|^2 + const, w_t = beta^2 / (2 s^2 a (1 - abar)): 1/2 (SNR_s / SNR_t - 1) for the small variance."""
    process = Gaussian(FromBetas(linear_betas(1000)))
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar = torch.cumprod(1 - betas, 0)
    for i, large in ((10, 0.074), (100, 0.0101), (1000, 0.0102)):
        t, s = process.point(i / 1000), process.point((i - 1) / 1000)
        x0, eps, guess = X0, parts.normal(4, 1), parts.normal(4, 1, seed=1)
        xt = t.alpha * x0 + t.sigma * eps
        p, q = relation("eps", t)
        from unnoise.laws import Estimate

        estimate = Estimate((guess - p * xt) / q)
        beta, now, before = betas[i - 1], abar[i - 1], abar[i - 2]
        small = beta * (1 - before) / (1 - now)
        for variance, s2 in (("small", small), ("large", beta)):
            law = Ancestral(variance=variance).law(process, estimate, xt, t, s)
            w = beta**2 / (2 * s2 * (1 - beta) * (1 - now))
            constant = 0.5 * (small / s2 - 1 - (small / s2).log())
            expected = (w * (eps - guess) ** 2 + constant)[:, 0]
            torch.testing.assert_close(process.posterior(xt, x0, t, s).kl(law), expected, rtol=1e-8, atol=1e-10)
            if variance == "large":
                assert float(w) == pytest.approx(large, rel=0.01)
            else:
                assert float(w) == pytest.approx(0.5 * float(before / (1 - before) * (1 - now) / now - 1), rel=1e-9)


# The decoder over grey levels


@pytest.mark.parametrize("levels", [2, 17, 256])
@pytest.mark.parametrize("mean, std", [(0.1, 0.02), (0.99, 0.3), (-3.0, 0.004), (0.5, 1e-4), (0.0, 50.0)])
def test_levels_sum_to_one(levels, mean, std):
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)[:, None]
    log_prob = Discretised(levels).log_prob(Normal(torch.full_like(x, mean), std), x)
    assert float(torch.logsumexp(log_prob, 0)) == pytest.approx(0, abs=1e-12)
    single = Discretised(levels).log_prob(Normal(torch.full_like(x, mean).float(), std), x.float())
    assert float(torch.logsumexp(single, 0)) == pytest.approx(0, abs=1e-6)


def test_levels_against_the_normal_distribution_function():
    from scipy.stats import norm

    levels, mean, std = 17, 0.13, 0.21
    x = torch.linspace(-1, 1, levels, dtype=torch.float64)
    edges = [-math.inf, *[(float(a) + float(b)) / 2 for a, b in zip(x, x[1:], strict=False)], math.inf]
    expected = [norm.cdf(b, mean, std) - norm.cdf(a, mean, std) for a, b in zip(edges, edges[1:], strict=False)]
    ours = (
        Discretised(levels).log_prob(Normal(torch.full((levels, 1), mean, dtype=torch.float64), std), x[:, None]).exp()
    )
    assert ours.tolist() == pytest.approx(expected, rel=1e-9)


def test_narrow_laws_give_the_density_times_the_bin():
    mean = torch.full((1, 1), 0.2, dtype=torch.float64)
    x = torch.tensor([[-1 + 2 * 150 / 255]], dtype=torch.float64)
    law = Normal(mean, 30.0)
    assert float(Discretised(256).log_prob(law, x)) == pytest.approx(
        float(law.log_prob(x)) + math.log(2 / 255), abs=1e-8
    )


@pytest.mark.parametrize("std", [1e-6, 1e-3, 1.0, 1e3])
def test_far_tails_are_finite_with_finite_gradients(std):
    mean = torch.tensor([[-900.0], [-1.0], [0.0], [1.0], [900.0]], dtype=torch.float64, requires_grad=True)
    log_std = torch.full((5, 1), math.log(std), dtype=torch.float64, requires_grad=True)
    for value in (-1.0, 1 / 255, 1.0):
        x = torch.full((5, 1), value, dtype=torch.float64)
        log_prob = Discretised(256).log_prob(Normal(mean, log_std.exp()), x)
        gradients = torch.autograd.grad(log_prob.sum(), (mean, log_std))
        assert torch.isfinite(log_prob).all() and (log_prob <= 0).all()
        assert all(torch.isfinite(g).all() for g in gradients)
        if abs(value) < 1:  # the outermost levels reach to infinity; to the others the mean is drawn
            assert (gradients[0] * torch.sign(x - mean) >= 0).all()


def test_units():
    x = torch.zeros(2, 3, 4, 4)
    assert float(bits_per_dim(torch.tensor([48 * math.log(2)]), x)) == pytest.approx(1)
    law = Normal(torch.zeros(2, 3), 1.0)
    expected = 0.5 * 3 * math.log(2 * math.pi)
    assert decoder_nats(law, torch.zeros(2, 3), None).tolist() == pytest.approx([expected] * 2)


def test_discrete_data_cost_at_least_their_entropy():
    """Two grey levels with equal odds: one bit a dimension, reached by the exact denoiser with its best variance."""
    from unnoise.oracles import finite_set

    process = Gaussian(FromBetas(cosine_betas(400)))
    denoiser = finite_set(torch.tensor([[-1.0], [1.0]])).denoiser(process)
    x0 = torch.tensor([[-1.0], [1.0]]).double().repeat(1000, 1)
    bound = variational_bound(
        denoiser, Ancestral(variance="small"), Integers(400)(process), x0, parts.Together(2000), decoder=Discretised(2)
    )
    total = float(bound.total.mean())
    error = float(bound.total.std()) / 2000**0.5
    assert 1 - 5 * error < total < 1.05
