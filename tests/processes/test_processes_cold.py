"""Cold diffusion's parts: degradations that are what they say, and the two algorithms in the one loop."""

import pytest
import torch
import torch.nn.functional as F

from unnoise.data import held_out
from unnoise.denoisers import Restorer
from unnoise.denoisers.denoiser import Denoiser
from unnoise.errors import UsageProblem
from unnoise.laws import Dirac, Estimate
from unnoise.likelihood import check_chain, likelihood
from unnoise.model import Model
from unnoise.networks import UNetOptions
from unnoise.objectives import Bound, Restoration, UniformSteps
from unnoise.papers.cold import ColdDiffusion, degraded, restore
from unnoise.processes import Animorphosis, Blur, Cold, Colours, Degradation, Gaussian, Mask, Pixelation, Snow
from unnoise.recipe import Spec
from unnoise.rng import Rng
from unnoise.samplers import DDIM, Ancestral, Heun, Integers, Naive, Uniform, sample
from unnoise.schedules import LinearVP

TINY = UNetOptions(channels=32, mult=(1,), blocks=1, attention=())
GREY = (0.1, 0.3)  # mean and factor of the colours of grey images


def other(shape):
    return torch.linspace(-1, 1, 5)[:, None, None, None].expand(5, *shape)


DEGRADATIONS: dict[str, Degradation] = {
    "blur": Blur(6, 5, 0.8),
    "blur to colour": Blur(6, 5, 0.8, colours=Colours(GREY)),
    "mask": Mask(6, 0.4),
    "mask in the middle": Mask(6, 0.4, random=False),
    "pixelation": Pixelation((2, 4)),
    "pixelation to colour": Pixelation((2, 4), Colours(GREY)),
    "snow": Snow(6),
    "animorphosis": Animorphosis(6, other),
    "animorphosis, fixed": Animorphosis(6, other, fixed=True),
    "noise": Animorphosis(6),
}


def image(*shape, seed=0):
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.tanh(x)


class Guess(Denoiser):
    def __init__(self, process, rule):
        super().__init__()
        self.process, self.rule = process, rule

    def forward(self, xt, t, cond=None):
        return Estimate(self.rule(self.process.data(xt)))


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_no_step_changes_nothing_and_each_example_has_its_own(name):
    degradation, x = DEGRADATIONS[name], image(7, 1, 8, 8)
    along = degradation.draw(x, Rng.from_seeds(range(7)))
    torch.testing.assert_close(degradation(x, torch.zeros(7).long(), along), x, rtol=0, atol=1e-12)
    k = torch.arange(7).clamp(max=degradation.steps)
    together = degradation(x, k, along)
    assert together.shape == x.shape and together.dtype == x.dtype
    for i in range(7):
        alone = degradation(x[i : i + 1], k[i : i + 1], None if along is None else along[i : i + 1])
        torch.testing.assert_close(alone[0], together[i], rtol=0, atol=1e-12)
    last = degradation(x, torch.full((7,), degradation.steps), along)
    assert float((last - x).abs().mean()) > 0.05


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize("step", [Ancestral(), DDIM(), Naive()], ids=["improved", "ddim", "naive"])
def test_a_perfect_guess_restores_exactly(name, step):
    process, x = Cold(DEGRADATIONS[name]), image(3, 1, 8, 8)
    state = degraded(process, x)
    seen = []
    out = sample(
        Guess(process, lambda _: x), step, Integers(process.steps), x.shape, start=state, dtype=torch.float64,
        watch=lambda i, point, now: seen.append((point.t, now)),
    )  # fmt: skip
    torch.testing.assert_close(out, x, rtol=0, atol=1e-9)
    along = process.degradation.draw(x, Rng.from_seeds(range(3)))
    for t, now in seen:  # and every state on the way is D(x, t) with the same mask, snow or animal
        expected = process.degradation(x, torch.full((3,), round(t * process.steps)), along)
        torch.testing.assert_close(now, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("routine, widths", [
    ("constant", [0.7, 0.7, 0.7]), ("incremental", [0.7, 1.4, 2.1]), ("exponential", [1.0, 2.0138, 4.0552]),
    ("special", [0.35, 0.36, 0.37]),
])  # fmt: skip
@pytest.mark.parametrize("kernel", [3, 5])
def test_blur_is_the_convolutions_one_after_another(routine, widths, kernel):
    blur, x = Blur(3, kernel, 0.7, routine), image(2, 3, 8, 10)
    expected = x
    for k, width in enumerate(widths, 1):
        place = torch.arange(kernel, dtype=torch.float64) - kernel // 2
        row = torch.exp(-0.5 * (place / width) ** 2)
        taps = torch.outer(row, row) / row.sum() ** 2
        padded = F.pad(expected, [kernel // 2] * 4, mode="circular")
        expected = F.conv2d(padded, taps.expand(3, 1, kernel, kernel), groups=3)
        torch.testing.assert_close(blur(x, torch.tensor([k, k])), expected, rtol=1e-5, atol=1e-5)


def test_blur_and_pixels_end_in_one_colour():
    x = image(2, 3, 8, 8)
    for degradation in (Blur(4, 5, 1.0, colours=Colours(())), Pixelation((2, 4), Colours(()))):
        last = degradation(x, torch.full((2,), degradation.steps))
        torch.testing.assert_close(last, x.mean((2, 3), keepdim=True).expand_as(x), rtol=0, atol=1e-12)


def test_masks_multiply():
    """prod (1 - exp(-r^2 / 2 s_i^2)), written out at one pixel, and zero at the centre."""
    mask, x = Mask(5, std=0.5, first=2), torch.ones(4, 2, 9, 7, dtype=torch.float64)
    along = mask.draw(x, Rng.from_seeds(range(4)))
    left = mask(x, torch.full((4,), 3), along)
    expected = 1.0
    for i in range(3):
        expected = expected * (1 - torch.exp(-along[:, :, 4, 2] / (2 * (0.5 * (i + 2)) ** 2)))
    torch.testing.assert_close(left[:, :, 4, 2], expected)
    assert bool((left.flatten(2).min(2).values == 0).all())
    centres = mask.draw(torch.ones(500, 1, 9, 7), Rng.from_seeds(range(500))).flatten(1).argmin(1)
    assert len(set(centres.tolist())) > 60  # of 63 pixels
    assert (
        len(
            set(
                Mask(5, random=False)
                .draw(torch.ones(9, 1, 9, 7), Rng.from_seeds(range(9)))
                .flatten(1)
                .argmin(1)
                .tolist()
            )
        )
        == 1
    )


def test_snow_brightens_more_and_more():
    snow, x = Snow(10), image(20, 3, 16, 16).float() * 0.5
    along = snow.draw(x, Rng.from_seeds(range(20)))
    means = [float(snow(x, torch.full((20,), k), along).mean()) for k in range(11)]
    assert all(b > a for a, b in zip(means, means[1:], strict=False))
    share = float((along[:, 0] > 0.3).float().mean())
    assert 0.02 < share < 0.6 and float(along.min()) >= 0 and float(along.max()) <= 1
    assert float(snow(x, torch.full((20,), 10), along).abs().max()) <= 1


def test_colours_are_those_of_the_data():
    x = image(400, 3, 4, 4, seed=2) * 0.2 + torch.tensor([0.3, 0.0, -0.2])[None, :, None, None]
    x = x + 0.3 * image(400, 1, 1, 1, seed=3)  # channels that go together
    start = Colours.fit(x)
    drawn = Colours(start, symmetry=0.0).sample((20_000, 3, 2, 2), Rng.from_seeds(range(20_000)))
    assert bool((drawn == drawn[:, :, :1, :1]).all())
    colours = x.mean((2, 3))
    torch.testing.assert_close(drawn[:, :, 0, 0].mean(0).double(), colours.mean(0), rtol=0, atol=0.01)
    torch.testing.assert_close(torch.cov(drawn[:, :, 0, 0].T).double(), torch.cov(colours.T), rtol=0.1, atol=2e-3)
    noisy = Colours(start, symmetry=0.002).sample((500, 3, 8, 8), Rng.from_seeds(range(500)))
    assert float((noisy - noisy.mean((2, 3), keepdim=True)).std()) == pytest.approx(0.002, rel=0.05)


def test_algorithm_2_forgives_what_algorithm_1_compounds():
    """On blur, from a guess that is off by a constant share."""
    process, x = Cold(Blur(20, 5, 0.3)), image(5, 1, 8, 8)
    state = degraded(process, x)
    wrong = Guess(process, lambda xt: 0.9 * x + 0.1)
    errors = {
        naive: float((restore(wrong, state, x.shape, naive) - x).square().mean().sqrt()) for naive in (True, False)
    }
    assert errors[False] < 0.5 * errors[True]


def test_samples_of_seed_i():
    for name in ("blur to colour", "animorphosis", "animorphosis, fixed"):
        process = Cold(DEGRADATIONS[name])
        guess = Guess(process, lambda xt: 0.5 * xt)
        whole, alone = (
            sample(guess, Ancestral(), Integers(6), (len(seeds), 1, 8, 8), rng=Rng.from_seeds(seeds))
            for seeds in ([4, 9, 2], [9])
        )
        torch.testing.assert_close(whole[1:2], alone, rtol=0, atol=0)
        assert float((whole[0] - whole[1]).abs().max()) > 0


# The network and the loss


def test_the_network_sees_the_data_and_is_told_the_step():
    seen = []

    class Network(torch.nn.Module):
        def forward(self, x, t, cond=None):
            seen.append((x, t, cond))
            return 2 * x

    process = Cold(Mask(5))
    x = image(3, 1, 8, 8)
    state = process.corrupt(x, torch.tensor([0.2, 0.6, 1.0], dtype=torch.float64), Rng.from_seeds(range(3)))
    assert state.shape == (3, 2, 1, 8, 8)
    guess = Restorer(Network(), process, 5)(state, torch.tensor([0.2, 0.6, 1.0], dtype=torch.float64), {"label": x})
    ((shown, told, cond),) = seen
    assert torch.equal(shown, state[:, 0]) and cond is not None
    torch.testing.assert_close(told.double(), torch.tensor([0.0, 2.0, 4.0], dtype=torch.float64))
    assert torch.equal(guess.mean, 2 * state[:, 0])


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("levels", [None, 5])
def test_restoration_is_the_mean_error(norm, levels):
    process, x0 = Cold(Blur(6, 3, 1.0)), image(9, 1, 8, 8)
    objective = Restoration(UniformSteps(6), norm, levels)
    loss = objective(Guess(process, lambda xt: xt * 0.5), x0, None, Rng.for_step(1, 2, range(9)))
    rng = Rng.for_step(1, 2, range(9))
    t = UniformSteps(6).draw(process, rng)
    xt = process.degradation(x0, (t * 6).round().long())
    if levels:
        grid = torch.linspace(-1, 1, 5, dtype=torch.float64)
        xt = grid[(xt[..., None] - grid).abs().argmin(-1)]
    error = 0.5 * xt - x0
    expected = error.abs() if norm == "l1" else error**2
    torch.testing.assert_close(loss.per_example, expected.mean((1, 2, 3)), rtol=1e-6, atol=1e-6)
    assert torch.equal(loss.t, t)


# Refusals, by name


def test_there_is_no_density():
    process = Cold(Blur(6))
    guess, x = Guess(process, lambda xt: xt), image(2, 1, 8, 8)
    assert isinstance(process.posterior(x, x, process.point(0.5), process.point(0.4)), Dirac)
    for method in ("bound", "flow", "continuous", "importance"):
        with pytest.raises(UsageProblem, match="Cold process has no densities"):
            likelihood(guess, x, method)
    with pytest.raises(UsageProblem, match="Cold process has no densities"):
        Bound(6, UniformSteps(6), Ancestral())(guess, x, None, Rng.from_seeds([0, 1]))
    with pytest.raises(UsageProblem, match="Cold"):
        sample(guess, Heun(), Integers(6), x.shape)
    with pytest.raises(UsageProblem, match="Gaussian process"):
        sample(guess, Ancestral(variance="large"), Integers(6), x.shape)
    check_chain(Gaussian(LinearVP()))


@pytest.mark.parametrize(
    "build, words",
    [
        (lambda: Cold(Mask(4)).prior((1, 1, 8, 8)), "mask as set"),
        (lambda: Cold(Blur(4)).prior((1, 1, 8, 8)), "blur as set"),
        (lambda: Cold(Snow(4)).prior((1, 1, 8, 8)), "start"),
        (lambda: Pixelation((2, 3)), "divide the next"),
        (lambda: Pixelation((4,))(torch.zeros(1, 1, 6, 6), torch.ones(1).long()), "6x6"),
        (lambda: Blur(0), "1 or more"),
        (lambda: Colours(()).sample((1, 3, 8, 8), Rng.from_seeds([0])), "left to the data"),
    ],
)
def test_mistakes(build, words):
    with pytest.raises(UsageProblem, match=words):
        build()


# The naive step on noise


def test_naive_on_a_gaussian_process_draws_the_marginal_of_the_guess():
    process = Gaussian(LinearVP())
    n = 20_000
    guess = Guess(process, lambda xt: torch.full_like(xt, 0.4))
    t, s = process.points([0.8, 0.5])
    x = sample(guess, Naive(), lambda _: [t, s], (n, 1), rng=Rng.from_seeds(range(n)))
    assert float(x.mean()) == pytest.approx(s.alpha * 0.4, abs=5 * s.sigma / n**0.5)
    assert float(x.std()) == pytest.approx(s.sigma, rel=5 / (2 * n) ** 0.5)
    out = sample(guess, Naive(), Uniform(3), (5, 1))
    torch.testing.assert_close(out, torch.full((5, 1), 0.4))


@pytest.mark.parametrize("degradation", ["blur", "mask", "snow"])
def test_a_model_restores_held_out_images_by_seed(degradation):
    recipe = ColdDiffusion(data="digits", degradation=degradation, generate=False, timesteps=4, network=TINY)
    model = Model(recipe, Spec((1, 8, 8), levels=17))
    x = held_out("digits", model.spec)
    with torch.no_grad():
        wanted = restore(model.denoiser, degraded(recipe.process(), x[[5, 6]], [5, 6]), (2, 1, 8, 8))
    torch.testing.assert_close(model.sample([5, 6], precision="fp32"), wanted, atol=1e-5, rtol=0)
    again = model.sample([6], start="digits", precision="fp32")
    torch.testing.assert_close(again[0], wanted[1], atol=1e-4, rtol=0)


def test_a_model_that_makes_images_restores_those_that_are_named():
    recipe = ColdDiffusion(data="digits", timesteps=4, network=TINY, start=(0.0, 0.1))
    model = Model(recipe, Spec((1, 8, 8), levels=17))
    made, restored = model.sample([0, 1]), model.sample([0, 1], start="digits")
    assert made.shape == restored.shape and not torch.allclose(made, restored)
