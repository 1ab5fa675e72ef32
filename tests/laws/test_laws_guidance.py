"""Guidance: a denoiser in, a denoiser out, in the order given."""

import laws_parts as parts
import pytest
import torch
from probes import slope

from unnoise.denoisers import classifier_free, clip, dynamic_threshold, guided, relation
from unnoise.denoisers.denoiser import Denoiser
from unnoise.denoisers.guidance import drop
from unnoise.denoisers.preconditioning import KINDS
from unnoise.errors import UsageProblem
from unnoise.laws import Estimate
from unnoise.oracles import Mixture
from unnoise.processes import Gaussian
from unnoise.samplers import DDIM, Ancestral, Euler, Heun, Integers, sample
from unnoise.schedules import FromBetas, LinearVP, linear_betas

PROCESS = Gaussian(LinearVP())
N = 9
XT, T = parts.normal(N, 2), torch.linspace(0.1, 0.95, N, dtype=torch.float64)
COND = {"label": torch.arange(N) % 2}


def oracle():
    return parts.smooth_mixture().denoiser(PROCESS)


def test_weights_0_and_1_are_the_two_models_bitwise():
    conditional, unconditional = oracle()(XT, T, COND), oracle()(XT, T, drop(COND))
    assert torch.equal(guided(oracle(), [classifier_free(1)])(XT, T, COND).mean, conditional.mean)
    assert torch.equal(guided(oracle(), [classifier_free(0)])(XT, T, COND).mean, unconditional.mean)
    assert float((conditional.mean - unconditional.mean).abs().max()) > 0.1


@pytest.mark.parametrize("weight", [-1.0, 0.5, 3.0])
def test_guidance_is_the_same_in_every_kind(weight):
    """unconditional + w (conditional - unconditional), of eps, x_0, v, score or velocity."""
    point = PROCESS.with_derivatives(T, XT)
    c, u = oracle()(XT, T, COND).mean, oracle()(XT, T, drop(COND)).mean
    ours = guided(oracle(), [classifier_free(weight)])(XT, T, COND)
    for kind in KINDS:
        p, q = relation(kind, point)
        combined = (p * XT + q * u) + weight * ((p * XT + q * c) - (p * XT + q * u))
        torch.testing.assert_close((combined - p * XT) / q, ours.mean, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(ours.variance, oracle()(XT, T, COND).variance, rtol=1e-12, atol=0)


def test_one_call_of_twice_the_batch():
    seen = []

    class Look(Denoiser):
        process = PROCESS

        def forward(self, xt, t, cond=None):
            seen.append((len(xt), cond["label"].tolist()))
            assert torch.equal(xt[:N], xt[N:]) and torch.equal(t[:N], t[N:])
            return Estimate(xt, fraction=cond["label"].double()[:, None].expand_as(xt))

    guess = guided(Look(), [classifier_free(2.0)])(XT, T, COND)
    assert seen == [(2 * N, COND["label"].tolist() + [-1] * N)]
    assert torch.equal(guess.fraction[:, 0], COND["label"].double())  # the conditional model's


# The Gaussian case in closed form: p(x | c) = N(m_c, s_c^2) and p(x) = N(0, s_u^2), told apart by the label.
M, SC2, SU2 = 0.6, 0.09, 0.5


class TwoGaussians(Denoiser):
    def __init__(self, process):
        super().__init__()
        self.process = process

    def forward(self, xt, t, cond=None):
        p = self.process.at(t, xt)
        null = (cond["label"] < 0).reshape(-1, 1)
        m = torch.where(null, 0.0, M)
        v = torch.where(null, SU2, SC2)
        return Estimate(m + p.alpha * v / (p.alpha**2 * v + p.sigma**2) * (xt - p.alpha * m))


def guided_flow(weight, x, top, low, steps=1000):
    """The flow of the guided score -L (x - mu), L = w / v_c - (w - 1) / v_u, by the classical fourth-order method."""
    schedule = LinearVP()
    h = (low - top) / steps

    def velocity(x, t):
        t = torch.tensor(t, dtype=torch.float64)
        alpha, beta = schedule.alpha(t), 0.1 + 19.9 * t
        sigma2 = 1 - alpha**2
        vc, vu = alpha**2 * SC2 + sigma2, alpha**2 * SU2 + sigma2
        precision = weight / vc - (weight - 1) / vu
        assert precision > 0
        score = -(precision * x - weight * alpha * M / vc)
        return -0.5 * beta * x - 0.5 * beta * score

    for i in range(steps):
        t = top + i * h
        k1 = velocity(x, t)
        k2 = velocity(x + h / 2 * k1, t + h / 2)
        k3 = velocity(x + h / 2 * k2, t + h / 2)
        k4 = velocity(x + h * k3, t + h)
        x = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    return x


@pytest.mark.parametrize("weight", [1.0, 1.5, 3.0, 5.0])
def test_guided_flow_has_the_declared_order(weight):
    denoiser = guided(TwoGaussians(PROCESS), [classifier_free(weight)])
    x = torch.tensor([[-1.5], [0.2], [2.0]], dtype=torch.float64)
    cond = {"label": torch.zeros(3).long()}
    truth = guided_flow(weight, x, 0.9, 0.1)
    for step in (DDIM(), Euler(), Heun()):
        counts, errors = (40, 80, 160, 320), []
        for n in counts:
            grid = lambda p, n=n: p.points([0.9 - 0.8 * i / n for i in range(n + 1)])  # noqa: E731
            out = sample(denoiser, step, grid, x.shape, cond=cond, start=x, dtype=torch.float64)
            errors.append(float((out - truth).abs().max()))
        assert slope(errors, counts) == pytest.approx(step.order, abs=0.1), errors


def test_guidance_narrows_and_overshoots():
    """The sampler is affine in its start: two starts give the mean and the spread of its samples."""
    x = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
    cond = {"label": torch.zeros(2).long()}
    means, spreads = [], []
    for weight in (1.0, 1.5, 2.0, 3.0, 5.0):
        denoiser = guided(TwoGaussians(PROCESS), [classifier_free(weight)])
        grid = lambda p: p.points([1 - 0.999 * i / 400 for i in range(401)])  # noqa: E731
        out = sample(denoiser, Heun(), grid, x.shape, cond=cond, start=x, dtype=torch.float64)
        means.append(float(out[0]))
        spreads.append(float((out[1] - out[0]).abs()))
    assert means[0] == pytest.approx(M, abs=0.005) and spreads[0] == pytest.approx(SC2**0.5, rel=0.01)
    assert all(b < a for a, b in zip(spreads, spreads[1:], strict=False))
    assert all(mean > M + 0.1 for mean in means[1:])


def test_guidance_moves_mass_away_from_other_classes():
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.5]], dtype=torch.float64)
    mixture = Mixture(means, 0.3, labels=torch.arange(3))
    n = 1000
    distance = []
    for weight in (1.0, 2.0, 4.0):
        denoiser = guided(mixture.denoiser(PROCESS), [classifier_free(weight)])
        cond = {"label": torch.zeros(n).long()}
        x = sample(denoiser, DDIM(), lambda p: p.points([1 - 0.999 * i / 60 for i in range(61)]), (n, 2), cond=cond,
                   rng=parts.Together(n), dtype=torch.float64)  # fmt: skip
        distance.append(float((x[:, None] - means[1:]).norm(dim=2).min(1).values.mean()))
    assert distance[0] < distance[1] < distance[2]


# Clipping


def test_clip():
    inner = oracle()(3 * XT, T)
    guess = guided(oracle(), [clip(-0.3, 0.2)])(3 * XT, T)
    assert torch.equal(guess.mean, inner.mean.clamp(-0.3, 0.2))
    assert torch.equal(guess.unclipped, inner.mean)
    assert torch.equal(guess.variance, inner.variance)
    twice = guided(oracle(), [clip(-0.3, 0.2), clip(-0.1, 0.1)])(3 * XT, T)
    assert torch.equal(twice.unclipped, inner.mean)  # from before the first


def test_dynamic_threshold():
    class Fixed(Denoiser):
        process = PROCESS

        def forward(self, xt, t, cond=None):
            return Estimate(xt)

    x = torch.stack([torch.linspace(-0.5, 0.4, 101), torch.linspace(-4.0, 2.0, 101)]).double()
    guess = guided(Fixed(), [dynamic_threshold(90)])(x, torch.ones(2)).mean
    assert torch.equal(guess[0], x[0])  # within [-1, 1]: left alone
    s = float(x[1].abs().quantile(0.9))
    torch.testing.assert_close(guess[1], x[1].clamp(-s, s) / s)
    assert float(guess.abs().max()) == 1


def test_clipping_comes_after_the_combination():
    cond = COND
    ours = guided(oracle(), [classifier_free(4.0), clip()])(XT, T, cond)
    raw = guided(oracle(), [classifier_free(4.0)])(XT, T, cond).mean
    assert torch.equal(ours.mean, raw.clamp(-1, 1)) and torch.equal(ours.unclipped, raw)
    assert float((raw - ours.mean).abs().max()) > 0


def test_keep_eps_uses_the_noise_from_before_clipping():
    process = Gaussian(FromBetas(linear_betas(100)))
    t, s = process.points([0.5, 0.4])
    xt = parts.normal(3, 2) * 3
    raw = parts.normal(3, 2, seed=1) * 2
    guess = Estimate(raw.clamp(-1, 1), unclipped=raw)
    for eta in (0.0, 0.5, 1.0):
        fresh = eta**2 * (1 - (t.alpha / t.sigma) ** 2 / (s.alpha / s.sigma) ** 2)
        along = s.sigma * (1 - fresh) ** 0.5
        for keep, x0 in ((True, raw), (False, raw.clamp(-1, 1))):
            eps = (xt - t.alpha * x0) / t.sigma
            law = Ancestral(eta=eta, keep_eps=keep).law(process, guess, xt, t, s)
            torch.testing.assert_close(law.mean, s.alpha * raw.clamp(-1, 1) + along * eps, rtol=1e-12, atol=1e-12)


# Dropping


def test_drop():
    cond = {"label": torch.arange(6), "tokens": torch.ones(6, 3).long()}
    mask = torch.tensor([True, False] * 3)
    dropped = drop(cond, mask)
    assert dropped["label"].tolist() == [-1, 1, -1, 3, -1, 5]
    assert dropped["tokens"].tolist() == [[-1] * 3, [1] * 3] * 3  # all of an example's conditions together
    assert drop(cond)["label"].tolist() == [-1] * 6
    assert drop(None) is None
    assert cond["label"].tolist() == list(range(6))


def test_drop_rate():
    rng, count, rate = parts.Together(100_000), 100_000, 0.1
    nulls = (drop({"label": torch.zeros(count).long()}, rng.bernoulli(rate))["label"] == -1).double().mean()
    assert abs(float(nulls) - rate) < 3 * (rate * (1 - rate) / count) ** 0.5


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: guided(oracle(), [classifier_free(2)])(XT, T, None), "needs a condition"),
        (lambda: drop({"embedding": torch.zeros(3, 2)}), "embedding"),
        (lambda: dynamic_threshold(0), "percentile"),
    ],
)
def test_mistakes(build, words):
    with pytest.raises(UsageProblem, match=words):
        build()


def test_clipped_samples_stay_in_range():
    process = Gaussian(FromBetas(linear_betas(100)))
    denoiser = guided(parts.smooth_mixture().denoiser(process), [clip(-0.4, 0.4)])
    x = sample(denoiser, Ancestral(), Integers(20), (500, 2), rng=parts.Together(500), dtype=torch.float64)
    assert float(x.abs().max()) <= 0.4
