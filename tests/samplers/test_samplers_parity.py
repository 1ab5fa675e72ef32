"""The named members of the family against diffusers: the same exact denoiser, the same noise levels, number by number."""

import pytest
import torch

from unnoise.oracles import Mixture
from unnoise.processes import Gaussian
from unnoise.processes.gaussian import CLEAN
from unnoise.rng import Rng, stream
from unnoise.samplers import DEIS, IPNDM, PNDM, DPMSolverMultistep, SDEDPMSolverMultistep, SingleStep, UniPC, sample
from unnoise.schedules import EDM, FromBetas, linear_betas

diffusers = pytest.importorskip("diffusers")

DATA = Mixture(torch.tensor([[-0.7, 0.1], [0.6, 0.5]]).double(), torch.tensor([[0.15, 0.2], [0.1, 0.25]]).double())
NOISE = torch.randn(8, 2, generator=stream(3), dtype=torch.float64)


def eps(x, sigma):
    """The exact noise in x_0 + sigma eps."""
    one, level = (torch.full((len(x), 1), v, dtype=torch.float64) for v in (1.0, sigma))
    return (x - DATA.estimate(x, one, level).mean) / sigma


def theirs(scheduler, steps):
    """Their states in float64, each after one step, told the exact noise level; and the levels."""
    scheduler.set_timesteps(steps)
    scheduler.sigmas = scheduler.sigmas.double()
    levels, states = scheduler.sigmas.tolist(), []
    x = NOISE * levels[0] / (1 + levels[0] ** 2) ** 0.5
    for t in scheduler.timesteps:
        level = float(scheduler.sigmas[scheduler.step_index or 0])
        x = scheduler.step(eps(x * (1 + level**2) ** 0.5, level), t, x, return_dict=False)[0]
        states.append(x)
    return states, levels


def ours(step, levels, rng=None):
    """Our states at the levels, and at clean data in the end."""
    process, seen = Gaussian(EDM(2 * levels[0])), []
    points = [*process.points([level / (2 * levels[0]) for level in levels]), CLEAN]
    start = NOISE * levels[0]
    sample(
        DATA.denoiser(process), step, lambda _: points, start.shape, start=start, dtype=torch.float64, rng=rng,
        watch=lambda i, point, x: seen.append(x),
    )  # fmt: skip
    return seen


def close(a, b):
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6)


EVEN = {"use_exponential_sigmas": True}


@pytest.mark.parametrize("spacing", [{"use_karras_sigmas": True}, EVEN, {}], ids=["karras", "exponential", "linear"])
@pytest.mark.parametrize(
    "step, name, options",
    [
        (DPMSolverMultistep(2, formula="bh2"), "DPMSolverMultistep", {"solver_order": 2, "solver_type": "midpoint"}),
        (DPMSolverMultistep(2), "DPMSolverMultistep", {"solver_order": 2, "solver_type": "heun"}),
        (DPMSolverMultistep(3, formula="published"), "DPMSolverMultistep", {"solver_order": 3}),
        (UniPC(1), "UniPCMultistep", {"solver_order": 1}),
        (UniPC(2), "UniPCMultistep", {"solver_order": 2}),
        (UniPC(3), "UniPCMultistep", {"solver_order": 3}),
        (UniPC(2, formula="bh1"), "UniPCMultistep", {"solver_order": 2, "solver_type": "bh1"}),
        (UniPC(3, formula="bh1"), "UniPCMultistep", {"solver_order": 3, "solver_type": "bh1"}),
    ],
    ids=str,
)
def test_multistep(step, name, options, spacing):
    """At every level; and at clean data, where their bh1 divides infinity by itself."""
    scheduler = getattr(diffusers, f"{name}Scheduler")(final_sigmas_type="zero", **options, **spacing)
    states, levels = theirs(scheduler, 16)
    seen = ours(step, levels[:16])
    for i in range(1, 16):
        close(seen[i], states[i - 1] * (1 + levels[i] ** 2) ** 0.5)
    if step.formula != "bh1":
        close(seen[16], states[15])


@pytest.mark.parametrize("terms", [1, 2, 3])
def test_deis(terms):
    """Their last step, which ends above clean data, is left out."""
    states, levels = theirs(diffusers.DEISMultistepScheduler(solver_order=terms, lower_order_final=False, **EVEN), 16)
    seen = ours(DEIS(terms), levels[:16])
    for i in range(1, 16):
        close(seen[i], states[i - 1] * (1 + levels[i] ** 2) ** 0.5)


@pytest.mark.parametrize(
    "order, kind, formula", [(2, "midpoint", "dpmsolver"), (2, "heun", "taylor"), (3, "heun", "taylor")]
)
def test_single_step(order, kind, formula):
    """Their stages are points of their grid: ours lie there too, since it is even in log-SNR."""
    scheduler = diffusers.DPMSolverSinglestepScheduler(
        solver_order=order, solver_type=kind, lower_order_final=False, final_sigmas_type="sigma_min", **EVEN
    )
    states, levels = theirs(scheduler, 12)
    blocks = levels[:12:order]
    seen = ours(SingleStep(order, formula=formula), blocks)
    for i in range(1, len(blocks)):
        close(seen[i], states[i * order - 1] * (1 + blocks[i] ** 2) ** 0.5)


@pytest.mark.parametrize("formula, kind", [("bh2", "midpoint"), ("exact", "heun")])
def test_sde(formula, kind):
    """SDE-DPM-Solver++ 2M with the same normal numbers."""
    scheduler = diffusers.DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++", solver_type=kind, final_sigmas_type="zero", **EVEN
    )
    z, step = torch.randn(16, 8, 2, generator=stream(4), dtype=torch.float64), scheduler.step
    numbers = iter(z)
    scheduler.step = lambda *a, **k: step(*a, variance_noise=next(numbers), **k)
    states, levels = theirs(scheduler, 16)

    class Given(Rng):
        drawn = iter(z)

        def normal_like(self, like):
            return next(self.drawn)

    seen = ours(SDEDPMSolverMultistep(formula=formula), levels[:16], Given([(i,) for i in range(8)]))
    for i in range(1, 16):
        close(seen[i], states[i - 1] * (1 + levels[i] ** 2) ** 0.5)


def test_ipndm():
    """Their network predicts v; their first point, without any signal, is left out."""
    scheduler = diffusers.IPNDMScheduler()
    scheduler.set_timesteps(12)
    alphas, sigmas = scheduler.alphas.double()[1:], scheduler.betas.double()[1:]
    scheduler.timesteps, scheduler.alphas, scheduler.betas = scheduler.timesteps[1:], alphas, sigmas
    levels = (sigmas / alphas)[:11].tolist()
    seen, x = ours(IPNDM(), levels), NOISE * sigmas[0]
    for i, t in enumerate(scheduler.timesteps[:10]):
        v = (eps(x / alphas[i], levels[i]) - sigmas[i] * x) / alphas[i]
        x = scheduler.step(v, t, x, return_dict=False)[0]
        close(seen[i + 1] * alphas[i + 1], x)


@pytest.mark.parametrize("skip", [True, False])
def test_pndm(skip):
    """PLMS and F-PNDM on integers of the chain, to the last level: their last step averages where ours is the guess."""
    steps, chain = 10, linear_betas(1000)
    scheduler = diffusers.PNDMScheduler(skip_prk_steps=skip, set_alpha_to_one=True, beta_start=1e-4, beta_end=0.02)
    scheduler.set_timesteps(steps)
    scheduler.alphas_cumprod, x, states = torch.cumprod(1 - chain, 0), NOISE, []
    for t in scheduler.timesteps:
        abar = float(scheduler.alphas_cumprod[int(t)])
        x = scheduler.step(eps(x / abar**0.5, (1 / abar - 1) ** 0.5), t, x, return_dict=False)[0]
        states.append(x)
    process, seen = Gaussian(FromBetas(chain)), []
    points = [*process.points([(1 + 100 * i) / 1000 for i in reversed(range(steps))]), CLEAN]
    sample(
        DATA.denoiser(process), PNDM("short" if skip else "F"), lambda _: points, NOISE.shape, start=NOISE, dtype=torch.float64,
        watch=lambda i, point, x: seen.append(x),
    )  # fmt: skip
    torch.testing.assert_close(seen[-2], states[-2], rtol=0, atol=1e-6)
