"""DDGAN: two networks in turns, an implicit guess in the ordinary ancestral step, a penalty differentiated twice."""

from dataclasses import replace

import pytest
import torch

from unnoise.data import load
from unnoise.denoisers import AdversarialDenoiser
from unnoise.errors import UsageProblem
from unnoise.laws import Dirac
from unnoise.metrics import sliced_wasserstein
from unnoise.model import Model, train_model
from unnoise.networks import Discriminator, DiscriminatorOptions, UNetOptions
from unnoise.networks.discriminator import deviation
from unnoise.networks.embeddings import STYLE, Style
from unnoise.objectives import Adversarial
from unnoise.oracles import Mixture
from unnoise.papers.ddgan import DDGAN, Drawn
from unnoise.processes import Gaussian
from unnoise.recipe import Sampling, Spec
from unnoise.rng import Rng
from unnoise.samplers import DPMSolverPlus, Integers
from unnoise.schedules import FromBetas, vp_betas
from unnoise.training import TrainingOptions

SMALL = DDGAN(
    data="digits",
    flat=0,
    network=UNetOptions(channels=32, mult=(1,), blocks=1, attention=(), conditioning="add"),
    critic=DiscriminatorOptions(channels=16),
    training=TrainingOptions(
        steps=200, batch_size=64, lr=5e-4, betas=(0.5, 0.9), clip=None, ema=2000, precision="fp32"
    ),
)


def test_it_learns_digits_in_seconds(tmp_path):
    data = load("digits")
    recipe = replace(SMALL, flat=256, training=replace(SMALL.training, steps=300, lr=1e-3))
    model, result = train_model(recipe, data, tmp_path / "run", preview=False)
    assert result.steps == 300
    x = model.sample(range(200))
    assert x.shape == (200, 1, 8, 8) and x.abs().max() <= 1
    truth, untrained = data.batch(range(len(data))).x.flatten(1), Model(recipe, Spec.of(data)).sample(range(200))
    near, far = (sliced_wasserstein(y.flatten(1), truth, seed=0) for y in (x, untrained))
    assert near < 0.4 * far
    assert x.std(0).mean() > 0.2  # it has not collapsed to one picture
    torch.testing.assert_close(Model.load(tmp_path / "run").sample([2])[0], x[2], atol=2e-2, rtol=0)


def test_the_vector_and_its_seed_decide_the_guess():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        denoiser = SMALL.denoiser(Spec((1, 8, 8)))
        for p in denoiser.parameters():
            torch.nn.init.normal_(p, std=0.1)
    x, t = torch.randn(3, 1, 8, 8), torch.full((3,), 0.5)
    law = denoiser(x, t)
    a, b = law.draw(Rng.from_seeds([1, 2, 3])), law.draw(Rng.from_seeds([1, 2, 4]))
    assert torch.equal(a[:2], b[:2]) and not torch.allclose(a[2], b[2])
    with pytest.raises(UsageProblem, match="own sampler"):
        _ = law.mean


class OneNumber(torch.nn.Module):
    """An MLP on numbers side by side, the time, and the style of a vector: a generator, or a critic, of one number."""

    def __init__(self, inputs: int, latent: int = 0):
        super().__init__()
        self.style = Style(latent, layers=1) if latent else None
        layers = [
            torch.nn.Linear(inputs + 1 + STYLE * bool(latent), 64),
            torch.nn.LeakyReLU(0.2),
            torch.nn.Linear(64, 64),
        ]
        self.layers = torch.nn.Sequential(*layers, torch.nn.LeakyReLU(0.2), torch.nn.Linear(64, 1))

    def forward(self, x, t, cond=None):
        told = [] if self.style is None else [self.style(cond["latent"])]
        return self.layers(torch.cat([x, t[:, None], *told], 1))


@pytest.mark.parametrize("latent", [8, 0])
def test_guesses_of_two_modes_are_at_either_with_the_vector_and_between_without(latent):
    """Numbers near -0.7 or 0.7, two steps: the law of x_0 given any x_t has both modes, with shares that are known."""
    data = Mixture(torch.tensor([[-0.7], [0.7]]).double(), torch.full((2, 1), 0.0025).double())
    process = Gaussian(FromBetas(vp_betas(2)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        generator, critic = OneNumber(1, latent), OneNumber(2)
    critic.register_forward_hook(lambda module, args, out: out[:, 0])
    denoiser, objective = AdversarialDenoiser(generator, critic, process, latent), Adversarial(2, 0.1, 1, {})
    rates = {"critic": 3e-3, "denoiser": 1e-3}
    adam = {k: torch.optim.Adam(objective.parameters_of(denoiser, k), lr, (0.5, 0.9)) for k, lr in rates.items()}
    for step in range(300):
        for number, turn in enumerate(objective.turns):
            rng = Rng.for_step(0, step, range(128)).spawn(number)
            denoiser.zero_grad()
            objective(denoiser, data.sample(rng).float(), None, rng, turn).per_example.mean().backward()
            adam[turn].step()

    x = torch.linspace(-1.5, 1.5, 5).repeat_interleave(200)[:, None]
    t = torch.full((len(x),), 0.5)
    with torch.no_grad():
        guess, truth = (law.draw(Rng.from_seeds(range(1000))) for law in (denoiser(x, t), Drawn(data, process)(x, t)))
    at_a_mode = ((guess.abs() - 0.7).abs() < 0.25).double().mean()
    off = ((guess > 0).double() - (truth > 0).double()).view(5, 200).mean(1).abs().max()
    assert (at_a_mode > 0.85 and off < 0.25) if latent else (at_a_mode < 0.6 and off > 0.25)


def test_solvers_that_need_a_mean_are_refused():
    model = Model(SMALL, Spec((1, 8, 8)))
    with pytest.raises(UsageProblem, match="draws its guesses"):
        model.sample([0], Sampling(DPMSolverPlus(), Integers(4)))


def test_the_guess_is_a_point_without_a_vector():
    recipe = replace(SMALL, latent=0)
    denoiser = recipe.denoiser(Spec((1, 8, 8)))
    x, t = torch.randn(2, 1, 8, 8), torch.tensor([0.25, 1.0])
    assert torch.equal(denoiser(x, t).draw(Rng.from_seeds([0, 1])), denoiser(x, t).mean)
    assert denoiser.target(t).tolist() == [0.0, 3.0]


def test_each_turn_moves_its_own_network_only():
    denoiser, objective = SMALL.denoiser(Spec((1, 8, 8))), SMALL.objective(Spec((1, 8, 8)))
    critic, generator = (list(objective.parameters_of(denoiser, turn)) for turn in ("critic", "denoiser"))
    assert {id(p) for p in critic}.isdisjoint(id(p) for p in generator)
    assert len(critic) + len(generator) == len(list(denoiser.parameters()))
    x0, rng = torch.randn(8, 1, 8, 8), Rng.from_seeds(range(8))
    objective(denoiser, x0, None, rng, "critic").per_example.sum().backward()
    assert all(p.grad is not None for p in critic) and all(p.grad is None for p in generator)


def test_the_fake_is_of_its_law_and_shares_the_noise_of_the_true():
    objective, denoiser = SMALL.objective(Spec((1, 1, 1))), SMALL.denoiser(Spec((1, 8, 8)))
    rng, process = Rng.from_seeds(range(20_000)), denoiser.process
    x0 = torch.where(rng.uniform(1, 1, 1) < 0.3, -0.5, 0.9)
    t, s = torch.full((len(x0),), 0.5), torch.full((len(x0),), 0.25)
    xs = process.corrupt(x0, s, rng)
    xt = process.transition(xs, s, t).sample(rng)

    def fake(guess):
        denoiser.forward = lambda xt, t, cond: Dirac(guess)
        return objective._fake(denoiser, x0, xs, xt, t, s, None, rng)

    torch.testing.assert_close(fake(x0), xs)
    law = process.posterior(xt, torch.full_like(x0, 0.2), t, s)
    noise = ((fake(torch.full_like(x0, 0.2)) - law.mean) / law.std).flatten()
    about = torch.stack([noise, noise**2 - 1, noise * xt.flatten(), noise * x0.flatten()])
    assert (about.mean(1).abs() < 4 * about.std(1) / len(x0) ** 0.5).all()


def test_the_vector_moves_the_blocks_from_the_start():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = replace(SMALL.network, latent=100).build(1)
    style = network.embedding.style(Rng.from_seeds(range(200)).normal(100))
    moved = torch.cat(
        [m.style(style) for m in network.modules() if getattr(m, "style", None) and m is not network.embedding], 1
    )
    assert 0.1 < moved.std(0).mean() < 1


def test_the_penalty_is_the_gradient_by_differences(monkeypatch):
    """With rectifiers made smooth: differences across their kinks are no gradient."""
    smooth = lambda x, slope: slope * x + (1 - slope) * torch.nn.functional.softplus(x)  # noqa: E731
    monkeypatch.setattr(torch.nn.functional, "leaky_relu", smooth)
    torch.manual_seed(0)
    critic = DiscriminatorOptions(channels=8, mult=(2,), group=0).build(2).double()
    for p in critic.parameters():
        torch.nn.init.normal_(p, std=0.2)
    denoiser = SMALL.denoiser(Spec((1, 4, 4))).double()
    denoiser.critic = critic
    x, xt, t = torch.randn(1, 1, 4, 4).double(), torch.randn(1, 1, 4, 4).double(), torch.tensor([0.5]).double()
    with torch.no_grad():
        square = 0.0
        for i in range(16):
            bump = torch.zeros(16).double()
            bump[i] = 1e-2
            up, down = (denoiser.logits(x + s * bump.view_as(x), xt, t) for s in (1, -1))
            square += float((up - down) / 2e-2) ** 2
    penalty = Adversarial(4, 2.0, 1, {})._penalty(denoiser.float(), x.float(), xt.float(), t)
    assert square > 1e-3 and penalty.item() == pytest.approx(square, rel=1e-3)


def test_a_batch_of_one_image_betrays_itself():
    h = torch.randn(1, 3, 4, 4).expand(8, -1, -1, -1)
    assert deviation(h, 4).max() < 1e-3 and deviation(torch.randn(8, 3, 4, 4), 4).min() > 0.5
    for count in (1, 3, 6):
        assert deviation(torch.randn(count, 3, 4, 4), 4).shape == (count, 1, 4, 4)


def test_the_published_critic_halves_thrice():
    critic = DDGAN.paper().critic.build(6)
    assert isinstance(critic, Discriminator)
    seen = []
    critic.last.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    assert critic(torch.zeros(4, 6, 32, 32), torch.zeros(4)).shape == (4,)
    assert seen == [(4, 513, 4, 4)]


def test_bad_numbers_are_told():
    with pytest.raises(UsageProblem, match="steps is 0"):
        vp_betas(0)
    with pytest.raises(UsageProblem, match="gamma is -1"):
        Adversarial(4, -1.0, 1, {})


@pytest.mark.parametrize("options", [{"timesteps": 0}, {"latent": -1}, {"flat": -1}])
def test_numbers_out_of_range_are_told(options):
    with pytest.raises(UsageProblem, match="timesteps is 1 or more"):
        DDGAN(**options)
