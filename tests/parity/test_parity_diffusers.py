"""The same model output through diffusers' schedulers and through ours, element by element.

Their betas are float32, so agreement as shipped ends at about 1e-5; given their tables in float64 it is 1e-10. Where they
differ by a fault, the test says which.
"""

import numpy as np
import parity_numbers as free
import pytest
import torch

from unnoise.denoisers import EDM, NetworkDenoiser, clip, dynamic_threshold, guided, relation
from unnoise.denoisers.denoiser import Denoiser
from unnoise.laws import Estimate
from unnoise.processes import Gaussian
from unnoise.processes.gaussian import CLEAN
from unnoise.samplers import DDIM, Ancestral, Churn, Euler, Heun, Integers, Karras, sample
from unnoise.schedules import EDM as EDMSchedule
from unnoise.schedules import FromBetas, Rectified, cosine_betas, linear_betas

diffusers = pytest.importorskip("diffusers")

CHAIN = Gaussian(FromBetas(linear_betas(1000)))
SHAPE = (3, 2, 4, 4)
SHIPPED, EXACT = 2e-5, 1e-10


def in_double(scheduler):
    """Their scheduler on the same betas in float64."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    scheduler.betas, scheduler.alphas = betas, 1 - betas
    scheduler.alphas_cumprod = torch.cumprod(1 - betas, 0)
    scheduler.one = scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    return scheduler


def point(index: int):
    """Our point of diffusers' timestep: theirs count from 0, and below 0 is clean data."""
    return CHAIN.point((index + 1) / 1000) if index >= 0 else CLEAN


def guess(xt, eps, t, guidance=()) -> Estimate:
    class Fixed(Denoiser):
        process = CHAIN

        def forward(self, xt, t, cond=None):
            return Estimate((xt - here.sigma * eps) / here.alpha)

    here = t
    return guided(Fixed(), list(guidance))(xt, torch.full((len(xt),), t.t, dtype=torch.float64))


def close(ours, theirs, tolerance=SHIPPED):
    scale = theirs.abs().max().clamp(min=1)
    assert float((ours - theirs.double()).abs().max() / scale) < tolerance


@pytest.mark.parametrize("schedule, ours", [("linear", linear_betas), ("squaredcos_cap_v2", cosine_betas)])
def test_betas(schedule, ours):
    theirs = diffusers.DDPMScheduler(1000, beta_schedule=schedule).betas
    torch.testing.assert_close(ours(1000).float(), theirs, rtol=2e-5, atol=1e-7)


@pytest.mark.parametrize("n", [1, 5, 10, 20, 50, 100, 250, 300, 1000])
@pytest.mark.parametrize("theirs, ours", [("leading", "leading"), ("trailing", "trailing"), ("linspace", "both")])
def test_timesteps(theirs, ours, n):
    scheduler = diffusers.DDPMScheduler(1000, timestep_spacing=theirs)
    scheduler.set_timesteps(n)
    chosen = [i - 1 for i in reversed(Integers(n, ours).indices(1000))]
    if (theirs, n) == ("linspace", 1):
        assert scheduler.timesteps.tolist() == [0] and chosen == [999]  # one step from the cleanest end is no sampler
        return
    assert scheduler.timesteps.tolist() == chosen


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(
    "variance, ours", [("fixed_small", "small"), ("fixed_large", "large"), ("learned_range", "learned")]
)
@pytest.mark.parametrize("clipped", [False, True])
def test_ddpm(variance, ours, clipped, spacing, double):
    scheduler = diffusers.DDPMScheduler(1000, variance_type=variance, clip_sample=clipped, timestep_spacing=spacing)
    if double:
        in_double(scheduler)
    scheduler.set_timesteps(20)
    for i, index in enumerate(scheduler.timesteps.tolist()):
        xt, eps, v = (free.normal(*SHAPE, seed=3 * i + k) for k in range(3))
        v = torch.tanh(v)
        t, s = point(index), point(int(scheduler.previous_timestep(index)))
        if s.is_clean and index > 0:
            continue  # see the next test
        output = torch.cat([eps, v], 1) if ours == "learned" else eps
        theirs = scheduler.step(output, index, xt, generator=torch.Generator().manual_seed(i)).prev_sample
        noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        estimate = guess(xt, eps, t, [clip()] if clipped else [])
        law = Ancestral(variance=ours).law(CHAIN, Estimate(estimate.mean, fraction=(v + 1) / 2), xt, t, s)
        close(law.mean if s.is_clean else law.mean + law.std * noise, theirs, EXACT if double else SHIPPED)


def test_diffusers_ddpm_adds_noise_to_clean_data():
    """It leaves the noise out at timestep 0 only, and trailing timesteps end above it: the large variance stays in."""
    scheduler = in_double(
        diffusers.DDPMScheduler(1000, variance_type="fixed_large", clip_sample=False, timestep_spacing="trailing")
    )
    scheduler.set_timesteps(20)
    last = int(scheduler.timesteps[-1])
    xt, eps = free.normal(*SHAPE), free.normal(*SHAPE, seed=1)
    theirs = scheduler.step(eps, last, xt, generator=torch.Generator().manual_seed(0)).prev_sample
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = point(last)
    assert last == 49 and t.sigma > 0.17
    close(guess(xt, eps, t).mean + t.sigma * noise, theirs, EXACT)


def test_fixed_small_log_gives_a_deviation_where_a_variance_is_promised():
    scheduler = diffusers.DDPMScheduler(1000, variance_type="fixed_small_log")
    t, s = point(500), point(499)
    std = float(CHAIN.posterior(torch.zeros(1, 1), torch.zeros(1, 1), t, s).std)
    assert float(scheduler._get_variance(500)) == pytest.approx(std, rel=1e-4)
    assert float(diffusers.DDPMScheduler(1000)._get_variance(500)) == pytest.approx(std**2, rel=1e-4)


@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("mode", ["free", "clipped", "clipped, raw noise"])
def test_ddim(mode, eta, spacing, double):
    """The three ways to clip: not at all; x_0 and the noise it implies; x_0 alone."""
    scheduler = diffusers.DDIMScheduler(1000, clip_sample=mode != "free", timestep_spacing=spacing)
    if double:
        in_double(scheduler)
    scheduler.set_timesteps(10)
    step = Ancestral(eta=eta, keep_eps=mode == "clipped, raw noise")
    for i, index in enumerate(scheduler.timesteps.tolist()):
        xt, eps = free.normal(*SHAPE, seed=2 * i), free.normal(*SHAPE, seed=2 * i + 1)
        noise = free.normal(*SHAPE, seed=100 + i)
        theirs = scheduler.step(
            eps, index, xt, eta=eta, use_clipped_model_output=mode == "clipped", variance_noise=noise
        ).prev_sample
        t, s = point(index), point(index - 100)
        law = step.law(CHAIN, guess(xt, eps, t, [] if mode == "free" else [clip()]), xt, t, s)
        close(law.mean + law.std * noise, theirs, EXACT if double else SHIPPED)


def test_diffusers_ddim_forgets_its_own_linspace():
    """It steps by T // n whatever the timesteps are, so with linspace it lands beside the next one."""
    scheduler = diffusers.DDIMScheduler(1000, clip_sample=False, timestep_spacing="linspace")
    scheduler.set_timesteps(10)
    xt, eps = free.normal(*SHAPE), free.normal(*SHAPE, seed=1)
    first, second = scheduler.timesteps.tolist()[:2]
    theirs = scheduler.step(eps, first, xt).prev_sample
    t = point(first)
    estimate = guess(xt, eps, t)
    close(DDIM().law(CHAIN, estimate, xt, t, point(first - 100)).mean, theirs)
    right = DDIM().law(CHAIN, estimate, xt, t, point(second)).mean
    assert float((right - theirs).abs().max()) > 0.01


def test_ddim_clips_by_default():
    assert diffusers.DDIMScheduler().config.clip_sample and diffusers.DDPMScheduler().config.clip_sample


def test_ddim_inversion():
    scheduler = diffusers.DDIMInverseScheduler(1000, clip_sample=False, timestep_spacing="leading")
    scheduler.set_timesteps(10)
    for index in scheduler.timesteps.tolist()[1:]:
        x, eps = free.normal(*SHAPE, seed=index), free.normal(*SHAPE, seed=index + 1)
        theirs = scheduler.step(eps, index, x).prev_sample
        start, end = point(index - 100), point(index)
        close(DDIM().law(CHAIN, guess(x, eps, start), x, start, end).mean, theirs)


def test_dynamic_threshold():
    scheduler = diffusers.DDPMScheduler(
        thresholding=True, dynamic_thresholding_ratio=0.98, sample_max_value=1e6, clip_sample=False
    )
    x = free.normal(*SHAPE) * torch.tensor([0.2, 1.0, 5.0]).reshape(3, 1, 1, 1)

    class Fixed(Denoiser):
        process = CHAIN

        def forward(self, xt, t, cond=None):
            return Estimate(xt)

    ours = guided(Fixed(), [dynamic_threshold(98)])(x, torch.ones(3)).mean
    torch.testing.assert_close(ours, scheduler._threshold_sample(x), rtol=1e-12, atol=1e-12)


def test_marginal_and_velocity():
    scheduler = diffusers.DDPMScheduler(1000)
    x0, eps = free.normal(*SHAPE), free.normal(*SHAPE, seed=1)
    index = torch.tensor([0, 400, 999])
    t = (index + 1).double() / 1000
    law = CHAIN.marginal(x0, t)
    xt = law.mean + law.std * eps
    close(xt, scheduler.add_noise(x0, eps, index))
    p, q = relation("v", CHAIN.at(t, xt))
    close(p * xt + q * x0, scheduler.get_velocity(x0, eps, index), 5e-5)


# Solvers in sigma


def edm_points(sigmas):
    """Our points of given noise levels in EDM's process, with clean data at the end."""
    process = Gaussian(EDMSchedule())
    return lambda _: [*process.points([float(s) / 80 for s in sigmas[:-1]]), CLEAN]


def test_karras_sigmas():
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(18)
    ours = torch.tensor([p.ratio for p in Karras(18)(Gaussian(EDMSchedule()))])
    torch.testing.assert_close(ours.float(), scheduler.sigmas, rtol=1e-5, atol=0)


class Network(torch.nn.Module):
    def forward(self, x, t, cond=None):
        return torch.tanh(1.3 * x + t.reshape(-1, *[1] * (x.ndim - 1)))


def test_edm_euler():
    """Preconditioning, grid and step together."""
    scheduler, network = diffusers.EDMEulerScheduler(), Network()
    scheduler.set_timesteps(18)
    start = 80 * free.normal(*SHAPE).float()
    x = start
    for t in scheduler.timesteps:
        x = scheduler.step(network(scheduler.scale_model_input(x, t), t[None]), t, x).prev_sample
    denoiser = NetworkDenoiser(network, Gaussian(EDMSchedule()), EDM(0.5))
    ours = sample(denoiser, Euler(), Karras(18), SHAPE, start=start.double(), dtype=torch.float64)
    close(ours, x)


class Eps(Denoiser):
    """x_0 from a noise estimate that is a fixed function of x and sigma."""

    def __init__(self):
        super().__init__()
        self.process = Gaussian(EDMSchedule())

    def forward(self, xt, t, cond=None):
        sigma = (80 * t).reshape(-1, *[1] * (xt.ndim - 1))
        return Estimate(xt - sigma * noise_estimate(xt, sigma))


def noise_estimate(x, sigma):
    return torch.tanh(x / (1 + sigma)) + 0.3 * torch.cos(x / (0.5 + sigma))


@pytest.mark.parametrize("theirs, ours", [("EulerDiscreteScheduler", Euler()), ("HeunDiscreteScheduler", Heun())])
@pytest.mark.parametrize("karras", [False, True])
def test_sigma_solvers(theirs, ours, karras):
    scheduler = getattr(diffusers, theirs)(
        1000, beta_start=1e-4, beta_end=0.02, timestep_spacing="trailing", use_karras_sigmas=karras
    )
    scheduler.set_timesteps(12)
    start = float(scheduler.sigmas[0]) * free.normal(*SHAPE).float()
    x = start
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        sigma = scheduler.sigmas[i]
        x = scheduler.step(noise_estimate(x, sigma), t, x).prev_sample
    levels = scheduler.sigmas.unique().flip(0)
    out = sample(Eps(), ours, edm_points(levels.tolist()), SHAPE, start=start.double(), dtype=torch.float64)
    close(out, x)


def test_euler_in_sigma_is_ddim():
    """Of the variance-preserving chain, as diffusers' Euler is of the same."""
    scheduler = diffusers.EulerDiscreteScheduler(1000, beta_start=1e-4, beta_end=0.02, timestep_spacing="trailing")
    scheduler.set_timesteps(12)
    start = free.normal(*SHAPE)

    class Chain(Denoiser):
        process = CHAIN

        def forward(self, xt, t, cond=None):
            c = CHAIN.at(t, xt)
            return Estimate((xt - c.sigma * noise_estimate(xt / c.alpha, c.sigma / c.alpha)) / c.alpha)

    ours = sample(Chain(), DDIM(), Integers(12, "trailing"), SHAPE, start=start, dtype=torch.float64)
    x = (start / CHAIN.point(1.0).alpha).float()
    for i, t in enumerate(scheduler.timesteps):
        scheduler.scale_model_input(x, t)
        x = scheduler.step(noise_estimate(x, scheduler.sigmas[i]), t, x).prev_sample
    close(ours, x, 1e-4)  # float32 states of size 150


def test_heuns_default_chain_is_another_one():
    assert float(diffusers.HeunDiscreteScheduler().betas[-1]) == pytest.approx(0.012)
    assert float(diffusers.EulerDiscreteScheduler().betas[-1]) == pytest.approx(0.02)


def test_churn():
    """The same noise from the same generator, for a guess that does not look at its input: diffusers asks the network
    before the noise is added, at the wrong level; ours is asked at the raised one."""
    scheduler = diffusers.EDMEulerScheduler()
    scheduler.set_timesteps(10)
    target = free.normal(*SHAPE)
    levels: list[float] = []

    class Constant(Denoiser):
        process = Gaussian(EDMSchedule())

        def forward(self, xt, t, cond=None):
            levels.append(80 * float(t[0]))
            return Estimate(target)

    start = 80 * free.normal(*SHAPE, seed=1)
    x, generator, theirs = start, torch.Generator().manual_seed(5), []
    for t in scheduler.timesteps:
        scheduler.scale_model_input(x, t)
        x = scheduler.step(
            target, t, x, 4.0, 0.05, 50.0, 1.003, generator=generator, pred_original_sample=target
        ).prev_sample
        theirs.append(x)
    sigmas, ours = scheduler.sigmas.tolist(), []
    sample(
        Constant(),
        Churn(Euler(), s_churn=4.0, s_min=0.05, s_max=50.0, s_noise=1.003),
        edm_points(sigmas),
        SHAPE,
        start=start,
        rng=free.OneStream(len(target), torch.Generator().manual_seed(5)),
        dtype=torch.float64,
        watch=lambda i, point, x: ours.append(x),
    )
    for a, b in zip(ours[1:], theirs, strict=True):
        close(a, b)
    inside = [0.05 <= s <= 50 for s in sigmas[:-1]]
    assert levels == pytest.approx([s * (1.4 if i else 1) for s, i in zip(sigmas, inside, strict=False)], rel=1e-6)


def test_flow_matching_euler():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(1000)
    scheduler.set_timesteps(12)
    process = Gaussian(Rectified())
    start = free.normal(*SHAPE)
    field = lambda x, t: torch.sin(2 * x) - t * x  # noqa: E731

    class Flow(Denoiser):
        def __init__(self):
            super().__init__()
            self.process = process

        def forward(self, xt, t, cond=None):
            t = t.reshape(-1, 1, 1, 1)
            return Estimate(xt - t * field(xt, t))

    x = start.float()
    for i, t in enumerate(scheduler.timesteps):
        x = scheduler.step(field(x, scheduler.sigmas[i]), t, x).prev_sample
    grid = lambda p: [*p.points(scheduler.sigmas[:-1].tolist()), CLEAN]  # noqa: E731
    close(sample(Flow(), Euler(), grid, SHAPE, start=start, dtype=torch.float64), x)


def test_a_whole_ddpm_walk():
    """Twenty steps with the same noises, clipping on, from the same start."""
    scheduler = in_double(diffusers.DDPMScheduler(1000, variance_type="fixed_large", timestep_spacing="leading"))
    scheduler.set_timesteps(20)
    start = free.normal(*SHAPE)
    network = lambda x, t: torch.tanh(1.5 * x) + t  # noqa: E731

    class Chain(Denoiser):
        process = CHAIN

        def forward(self, xt, t, cond=None):
            c = CHAIN.at(t, xt)
            return Estimate((xt - c.sigma * network(xt, t.reshape(-1, 1, 1, 1))) / c.alpha)

    x, generator = start, torch.Generator().manual_seed(9)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, (t + 1).double() / 1000), t, x, generator=generator).prev_sample
    rng = free.OneStream(len(start), torch.Generator().manual_seed(9))
    denoiser = guided(Chain(), [clip()])
    ours = sample(
        denoiser,
        Ancestral(variance="large"),
        Integers(20, "leading"),
        SHAPE,
        start=start,
        rng=rng,
        dtype=torch.float64,
    )
    close(ours, x, EXACT)


def test_float32_betas_are_the_difference():
    """With our chain built from their rounded betas the last bits agree too: the tolerance above is theirs."""
    scheduler = diffusers.DDPMScheduler(1000, clip_sample=False)
    theirs = np.cumprod(1 - scheduler.betas.double().numpy())
    ours = (Gaussian(FromBetas(scheduler.betas.double())).schedule.alpha(torch.arange(1, 1001) / 1000.0) ** 2).numpy()
    assert np.abs(ours / theirs - 1).max() < 1e-4  # t = i/1000 in float32 here
    exact = FromBetas(scheduler.betas.double()).alpha(torch.arange(1, 1001).double() / 1000) ** 2
    assert np.abs(exact.numpy() / theirs - 1).max() < 1e-12
