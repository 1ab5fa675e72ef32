"""Jumps along the flow: exact ones in closed form, solved ones with their order, and gamma-sampling between them."""

import math

import pytest
import torch

from unnoise.denoisers import classifier_free, clip, guided, jump
from unnoise.denoisers.denoiser import TOWARD, Denoiser
from unnoise.errors import UsageProblem
from unnoise.laws import Estimate
from unnoise.oracles import GaussianFlow, Mixture, gaussian
from unnoise.processes import Dissipating, Gaussian
from unnoise.rng import Rng, stream
from unnoise.samplers import DDIM, Ancestral, DPMSolverMultistep, Gamma, Jumps, Karras, LogSNR, Solved, Uniform, sample
from unnoise.schedules import EDM, Cosine, LinearVP, Rectified

PROCESSES = {
    "EDM": Gaussian(EDM()),
    "linear VP": Gaussian(LinearVP()),
    "rectified": Gaussian(Rectified(1e-3)),
    "dissipating": Gaussian(Dissipating(Cosine(-10.0, 10.0), (4, 4))),
}
MEAN, VARIANCE = 0.3, 0.25


def batch(*times):
    return torch.tensor(times, dtype=torch.float64)


def states(process, n, seed=3):
    shape = (n, 1, 4, 4) if process.by_frequency else (n, 2)
    return 1.5 * torch.randn(shape, generator=stream(seed, 9), dtype=torch.float64)


def flow(process):
    event = (1, 4, 4) if process.by_frequency else (2,)
    return GaussianFlow(torch.full(event, MEAN, dtype=torch.float64), VARIANCE, process)


def oracle(process):
    event = (1, 4, 4) if process.by_frequency else (2,)
    return gaussian(torch.full(event, MEAN, dtype=torch.float64), VARIANCE).denoiser(process)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_flow_of_a_gaussian_keeps_its_quantiles(name):
    """A jump takes each number to the same quantile of the marginal at s: (x - alpha m) / std is kept."""
    process = PROCESSES[name]
    x, t, s = states(process, 3), batch(0.9, 0.5, 0.2), batch(0.3, 0.1, 0.05)
    end = jump(flow(process), x, t, s)

    def standard(x, t):
        point = process.at(t, x)
        return (x - point.alpha * MEAN) / (point.alpha**2 * VARIANCE + point.sigma**2) ** 0.5

    torch.testing.assert_close(standard(end, s), standard(x, t), atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("name", PROCESSES)
def test_jumps_compose_and_stand_still(name):
    process = PROCESSES[name]
    denoiser, x = flow(process), states(process, 3)
    t, u, s = batch(0.9, 0.5, 0.4), batch(0.6, 0.3, 0.2), batch(0.1, 0.2, 0.05)
    torch.testing.assert_close(jump(denoiser, jump(denoiser, x, t, u), u, s), jump(denoiser, x, t, s))
    assert torch.equal(jump(denoiser, x, t, t), x)


@pytest.mark.parametrize("name", PROCESSES)
def test_the_guess_is_the_mean_of_the_denoiser_along_the_way(name):
    """g = int D d(1/rho) / int d(1/rho), by the trapezoidal rule on the exact path; and at s = t the denoiser itself."""
    process = PROCESSES[name]
    denoiser, x, t, s = flow(process), states(process, 1), batch(0.6), batch(0.3)
    total, along, before = 0.0, 0.0, None
    for u in torch.linspace(0.6, 0.3, 2001, dtype=torch.float64)[:, None]:
        xu = jump(denoiser, x, t, u)
        point = process.at(u, xu)
        here = process.state(oracle(process)(xu, u).mean), point.alpha / point.sigma
        if before is not None:
            total = total + (here[1] - before[1])
            along = along + (here[0] + before[0]) / 2 * (here[1] - before[1])
        before = here
    mean = process.data(along / total)
    torch.testing.assert_close(denoiser(x, t, {TOWARD: s}).mean, mean, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(denoiser(x, t).mean, oracle(process)(x, t).mean)


@pytest.mark.parametrize("name", PROCESSES)
def test_solved_jumps_converge_at_the_order_of_their_solver(name):
    process = PROCESSES[name]
    x, t, s = states(process, 3), batch(0.8, 0.5, 0.4), batch(0.2, 0.2, 0.1)
    exact = jump(flow(process), x, t, s)
    for step, order in ((None, 2), (DDIM(), 1)):
        errors = [(Solved(oracle(process), n, step).jump(x, t, s) - exact).norm().item() for n in (64, 128)]
        assert math.log2(errors[0] / errors[1]) == pytest.approx(order, abs=0.1)


def test_a_solved_jump_is_the_guess_it_gives():
    process = PROCESSES["EDM"]
    solved, x = Solved(oracle(process), 4), states(process, 2)
    t, s = batch(0.1, 0.05), batch(0.001, 0.05)
    torch.testing.assert_close(jump(solved, x, t, s), solved.jump(x, t, s))
    assert torch.equal(solved(x, t).mean, oracle(process)(x, t).mean)


def test_solved_jumps_take_the_levels_of_karras_grid():
    """From the third of 18 levels to the eighth, five steps see the denoiser at levels 3 to 7, and Heun's trials at 4 to 8."""
    process, seen = PROCESSES["EDM"], []

    class Watching(Denoiser):
        def __init__(self):
            super().__init__()
            self.process = process

        def forward(self, xt, t, cond=None):
            seen.append(80 * t.item())
            return Estimate(0.5 * xt)

    levels = [point.ratio for point in Karras(18)(process)]
    t, s = batch(levels[2] / 80), batch(levels[7] / 80)
    Solved(Watching(), 5).jump(states(process, 1), t, s)
    expected = [levels[i] for pair in zip(range(2, 7), range(3, 8), strict=True) for i in pair]
    assert seen == pytest.approx(expected, rel=1e-9)


def test_levels_of_jumps_are_those_of_one_step_more():
    process = PROCESSES["EDM"]
    for n in (1, 2, 5):
        jumps, karras = ([p.ratio for p in grid(process)] for grid in (Jumps(n), Karras(n + 1)))
        assert jumps[:-1] == pytest.approx(karras[:-2], rel=1e-12)
        assert jumps[-1] == 0


@pytest.mark.parametrize("gamma", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("name", ["EDM", "linear VP", "rectified"])
def test_exact_jumps_give_the_data_back_at_every_gamma(name, gamma):
    """Mean and variance of 40,000 numbers within five standard errors at every level, after one jump or four."""
    process, count = PROCESSES[name], 20_000
    denoiser = GaussianFlow(torch.full((count,), MEAN, dtype=torch.float64), VARIANCE, process)
    for n in (1, 4):
        points = LogSNR(n, sigma_max=20.0)(process)
        begin = process.marginal(MEAN + VARIANCE**0.5 * numbers(count, 1), points[0]).sample(Rng.from_seeds([5]))
        checked = []

        def look(i, point, x, checked=checked):
            variance = point.alpha**2 * VARIANCE + point.sigma**2
            z = (x.mean() - point.alpha * MEAN) / (variance / count) ** 0.5, x.var() / variance - 1
            assert abs(z[0]) < 5 and abs(z[1]) < 5 * (2 / count) ** 0.5
            checked.append(i)

        sample(denoiser, Gamma(gamma), lambda _, p=points: p, (1, count), start=begin, watch=look, dtype=torch.float64)
        assert len(checked) == n + 1


def numbers(count, seed):
    return torch.randn((1, count), generator=stream(seed, 12), dtype=torch.float64)


def test_gamma_draws_as_much_noise_as_it_says():
    """Of the noise at s, the fraction gamma is new: two walks of other noise end sqrt(2) gamma sigma_s apart."""
    process, count, gamma = PROCESSES["EDM"], 20_000, 0.6
    denoiser, t, s = GaussianFlow(torch.zeros(count), VARIANCE, process), *process.points([0.1, 0.02])
    begin = 8 * numbers(count, 2)
    a, b = (
        sample(denoiser, Gamma(gamma), lambda _: [t, s], (1, count), start=begin, rng=Rng.from_seeds([seed]), dtype=torch.float64)
        for seed in (0, 1)
    )  # fmt: skip
    assert float((a - b).std()) == pytest.approx(2**0.5 * gamma * s.sigma, rel=5 / (2 * count) ** 0.5)


def test_gamma_one_forgets_where_it_was():
    process = PROCESSES["EDM"]
    denoiser, t, s = GaussianFlow(torch.zeros(2), 1e-12, process), *process.points([0.1, 0.02])
    a, b = (
        sample(denoiser, Gamma(1.0), lambda _: [t, s], (1, 2), start=x, rng=Rng.from_seeds([0]), dtype=torch.float64)
        for x in (torch.ones(1, 2), -torch.ones(1, 2))
    )
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_gamma_zero_on_a_denoiser_that_does_not_jump_is_ddim():
    data = Mixture(torch.tensor([[-0.5, 0.2], [0.4, 0.1]]), torch.tensor([[0.1, 0.2], [0.05, 0.1]]))
    denoiser = data.denoiser(PROCESSES["linear VP"])
    a, b = (sample(denoiser, step, Uniform(5), (3, 2), dtype=torch.float64) for step in (Gamma(), DDIM()))
    torch.testing.assert_close(a, b)


def test_guidance_reaches_jumps():
    """Clipping holds for the guess of a jump; classifier-free guidance keeps where it goes."""
    process = PROCESSES["EDM"]

    class Labelled(GaussianFlow):
        def forward(self, xt, t, cond=None):
            assert cond is not None and TOWARD in cond
            estimate = super().forward(xt, t, cond)
            return Estimate(estimate.mean + cond["label"][:, None].to(xt.dtype))

    plain = Labelled(torch.zeros(2), VARIANCE, process)
    cond, shape = {"label": torch.tensor([2, 3])}, (2, 2)
    strong = guided(plain, [classifier_free(2.0)])
    assert strong.jumps
    one, two = (sample(d, Gamma(), Jumps(1), shape, cond=cond, dtype=torch.float64) for d in (plain, strong))
    torch.testing.assert_close(two - one, torch.tensor([[3.0, 3.0], [4.0, 4.0]], dtype=torch.float64))
    clipped = sample(guided(plain, [clip()]), Gamma(), Jumps(3), shape, cond=cond, dtype=torch.float64)
    torch.testing.assert_close(clipped, torch.ones(2, 2, dtype=torch.float64))


def test_what_does_not_fit_is_told():
    with pytest.raises(UsageProblem, match="gamma is"):
        Gamma(1.5)
    with pytest.raises(UsageProblem, match="does not jump; use gamma 0"):
        sample(oracle(PROCESSES["EDM"]), Gamma(0.5), Jumps(2), (1, 2))
    with pytest.raises(UsageProblem, match="one for each frequency; use gamma 0"):
        sample(flow(PROCESSES["dissipating"]), Gamma(0.5), Uniform(2), (1, 1, 4, 4))
    for step in (DPMSolverMultistep(), Ancestral()):
        with pytest.raises(UsageProblem, match="deterministic step that remembers none before"):
            Solved(oracle(PROCESSES["EDM"]), 4, step)
