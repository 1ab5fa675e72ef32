"""Law 3: the oracles are what they say: score of the density, mean and variance of the posterior."""

import laws_parts as parts
import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.oracles import Mixture, finite_set, gaussian
from unnoise.processes import DCT, Gaussian

NAMES = list(parts.SCHEDULES)
MIXTURES = {
    "mixture": parts.smooth_mixture(),
    "gaussian": gaussian(
        torch.tensor([0.3, -0.2], dtype=torch.float64), torch.tensor([0.25, 0.04], dtype=torch.float64)
    ),
    "finite set": finite_set(parts.normal(7, 2, seed=3), labels=torch.tensor([0, 0, 1, 1, 1, 2, 2])),
}
T = torch.linspace(0.15, 0.9, 24, dtype=torch.float64)


def states(mixture: Mixture, process: Gaussian):
    rng = parts.Together(len(T), seed=5)
    return process.corrupt(mixture.sample(rng), T, rng)


def conditions(mixture):
    yield None
    if mixture.labels is not None:
        yield {"label": torch.arange(len(T)) % (int(mixture.labels.max()) + 1)}
        yield {"label": torch.arange(len(T)) % 3 - 1 if int(mixture.labels.max()) else torch.full((len(T),), -1)}


@pytest.mark.parametrize("kind", MIXTURES)
@pytest.mark.parametrize("name", NAMES)
def test_score_is_the_gradient_of_the_log_density(name, kind):
    process, mixture = parts.process(name), MIXTURES[kind]
    xt = states(mixture, process).requires_grad_()
    for cond in conditions(mixture):
        label = None if cond is None else cond["label"]
        (gradient,) = torch.autograd.grad(mixture.log_prob(xt, process, T, label).sum(), xt)
        score = mixture.denoiser(process).score(xt, T, cond).detach()
        scale = process.at(T, xt).sigma
        torch.testing.assert_close(score * scale, gradient * scale, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("kind", MIXTURES)
@pytest.mark.parametrize("name", NAMES)
def test_variance_is_the_slope_of_the_mean(name, kind):
    """Tweedie's second formula: Var[x_0 | x_t] = sigma^2 / alpha dE[x_0 | x_t] / dx_t."""
    process, mixture = parts.process(name), MIXTURES[kind]
    denoiser, xt = mixture.denoiser(process), states(mixture, process)
    c = process.at(T, xt)
    for axis in range(2):
        x = xt.clone().requires_grad_()
        estimate = denoiser(x, T)
        (slope,) = torch.autograd.grad(estimate.mean[:, axis].sum(), x)
        expected = (c.sigma**2 / c.alpha).squeeze(1) * slope[:, axis]
        torch.testing.assert_close(estimate.variance[:, axis].detach(), expected, rtol=1e-6, atol=1e-9)


def test_density_against_torch_distributions():
    mixture, process = MIXTURES["mixture"], parts.process("rectified")
    point = process.point(0.4)
    xt = states(mixture, process)
    components = torch.distributions.Independent(
        torch.distributions.Normal(
            point.alpha * mixture.means, (point.alpha**2 * mixture.variances + point.sigma**2).sqrt()
        ),
        1,
    )
    weights = torch.distributions.Categorical(probs=torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64))
    expected = torch.distributions.MixtureSameFamily(weights, components).log_prob(xt)
    torch.testing.assert_close(mixture.log_prob(xt, process, point), expected, rtol=1e-12, atol=1e-12)


def test_mean_is_bayes_rule_by_brute_force():
    """E and Var of x_0 given x_t by quadrature over x_0, in one dimension."""
    mixture = Mixture(
        torch.tensor([[-0.7], [0.6]]).double(), torch.tensor([[0.1], [0.3]]).double(), torch.tensor([0.3, 0.7])
    )
    process = parts.process("linear VP")
    x0 = torch.linspace(-6, 6, 6001, dtype=torch.float64)[:, None]
    prior = torch.logsumexp(
        mixture.log_weights - 0.5 * (x0 - mixture.means.T) ** 2 / mixture.variances.T - 0.5 * mixture.variances.T.log(),
        1,
    )
    for t in (0.1, 0.3, 0.7):
        for xt in (-1.0, 0.2, 2.0):
            x = torch.full_like(x0, xt)
            w = torch.softmax(prior + process.marginal(x0, process.point(t)).log_prob(x), 0)[:, None]
            guess = mixture.denoiser(process)(x[:1], torch.tensor([t], dtype=torch.float64))
            mean = (w * x0).sum()
            assert float(guess.mean) == pytest.approx(float(mean), abs=1e-9)
            assert float(guess.variance) == pytest.approx(float((w * (x0 - mean) ** 2).sum()), rel=1e-7)


def test_moments_are_those_of_the_samples():
    mixture, count = MIXTURES["mixture"], 100_000
    x = mixture.sample(parts.Together(count))
    error = (x.mean(0) - mixture.mean) / (mixture.covariance.diagonal() / count).sqrt()
    assert float(error.abs().max()) < 5
    assert float((x.T.cov() - mixture.covariance).abs().max()) < 5 * (3 / count) ** 0.5 * float(
        mixture.covariance.max()
    )


def test_labels_choose_components():
    mixture = MIXTURES["finite set"]
    process = parts.process("EDM")
    x = parts.normal(3, 2)
    t = torch.full((3,), 1.0, dtype=torch.float64)  # so noisy that the guess is the mean of the class
    for label in range(3):
        guess = mixture.denoiser(process)(x, t, {"label": torch.full((3,), label)}).mean
        assert float((guess - mixture.means[mixture.labels == label].mean(0)).abs().max()) < 0.05
    null = mixture.denoiser(process)(x, t, {"label": torch.full((3,), -1)}).mean
    torch.testing.assert_close(null, mixture.denoiser(process)(x, t).mean, rtol=1e-12, atol=1e-14)


def test_a_mixture_without_classes_takes_no_labels():
    with pytest.raises(UsageProblem, match="no classes"):
        MIXTURES["gaussian"].denoiser(parts.process("EDM"))(
            torch.zeros(1, 2), torch.ones(1), {"label": torch.zeros(1).long()}
        )
    with pytest.raises(UsageProblem, match="3 components was given 2 labels"):
        Mixture(torch.zeros(3, 1), 1.0, labels=torch.zeros(2))


def test_in_a_basis_the_mixture_is_of_coordinates_and_the_guess_is_data():
    process = Gaussian(parts.SCHEDULES["linear VP"], DCT())
    flat = Gaussian(parts.SCHEDULES["linear VP"])
    mixture = gaussian(parts.normal(1, 4, 4), parts.normal(1, 4, 4, seed=1) ** 2 + 0.01)
    xt, t = parts.normal(3, 1, 4, 4, seed=2), torch.tensor([0.2, 0.5, 0.9]).double()
    guess, coordinates = mixture.denoiser(process)(xt, t), mixture.denoiser(flat)(xt, t)
    torch.testing.assert_close(process.state(guess.mean), coordinates.mean, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(mixture.denoiser(process).score(xt, t), mixture.denoiser(flat).score(xt, t))
