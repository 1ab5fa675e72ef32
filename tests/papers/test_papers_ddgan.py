"""DDGAN: two networks in turns, an implicit guess in the ordinary ancestral step, a penalty differentiated twice."""

from dataclasses import replace

import pytest
import torch

from unnoise.data import load
from unnoise.errors import UsageProblem
from unnoise.metrics import sliced_wasserstein
from unnoise.model import Model, train_model
from unnoise.networks import Discriminator, DiscriminatorOptions, UNetOptions
from unnoise.networks.discriminator import deviation
from unnoise.objectives import Adversarial
from unnoise.papers.ddgan import DDGAN
from unnoise.recipe import Sampling, Spec
from unnoise.rng import Rng
from unnoise.samplers import DPMSolverPlus, Integers
from unnoise.schedules import vp_betas
from unnoise.training import TrainingOptions

SMALL = DDGAN(
    data="digits",
    network=UNetOptions(channels=32, mult=(1,), blocks=1, attention=(), conditioning="add"),
    critic=DiscriminatorOptions(channels=16),
    training=TrainingOptions(
        steps=200, batch_size=64, lr=5e-4, betas=(0.5, 0.9), clip=None, ema=2000, precision="fp32"
    ),
)


def test_it_learns_digits_in_seconds(tmp_path):
    data = load("digits")
    model, result = train_model(SMALL, data, tmp_path / "run", preview=False)
    assert result.steps == 200
    x = model.sample(range(200))
    assert x.shape == (200, 1, 8, 8) and x.abs().max() <= 1
    truth, untrained = data.batch(range(len(data))).x.flatten(1), Model(SMALL, Spec.of(data)).sample(range(200))
    near, far = (sliced_wasserstein(y.flatten(1), truth, seed=0) for y in (x, untrained))
    assert near < 0.6 * far
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


def test_the_penalty_is_the_gradient_by_differences():
    critic = DiscriminatorOptions(channels=8, mult=(2,), group=0).build(2).double()
    denoiser = SMALL.denoiser(Spec((1, 4, 4))).double()
    denoiser.critic = critic
    x, xt, t = torch.randn(1, 1, 4, 4).double(), torch.randn(1, 1, 4, 4).double(), torch.tensor([0.5]).double()
    with torch.no_grad():
        square = 0.0
        for i in range(16):
            bump = torch.zeros(16).double()
            bump[i] = 1e-3
            up, down = (denoiser.logits(x + s * bump.view_as(x), xt, t) for s in (1, -1))
            square += float((up - down) / 2e-3) ** 2
    penalty = Adversarial(4, 2.0, 1, {})._penalty(denoiser.float(), x.float(), xt.float(), t)
    assert float(penalty) == pytest.approx(square, rel=1e-3)


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
