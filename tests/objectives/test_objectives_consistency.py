"""The consistency loss: exact where its parts are, its gradients where they belong, and what it remembers between steps."""

import math

import pytest
import torch
from torch import nn

from unnoise.denoisers import Jumping, jump
from unnoise.denoisers import preconditioning as pre
from unnoise.errors import UsageProblem
from unnoise.networks import UNetOptions
from unnoise.networks.discriminator import DiscriminatorOptions
from unnoise.objectives import Consistency, HalfLogNormal, LogNormal, Matching, balance
from unnoise.objectives.consistency import inherit
from unnoise.oracles import GaussianFlow, gaussian
from unnoise.processes import Gaussian
from unnoise.rng import Rng
from unnoise.samplers import Karras
from unnoise.schedules import EDM, LinearVP

PROCESS = Gaussian(EDM())
NETWORK = UNetOptions(channels=16, mult=(1,), blocks=1, attention=(), middle_attention=False)
MEAN = torch.full((1, 4, 4), 0.3, dtype=torch.float64)


def student(seed=0, end=0.002 / 80):
    torch.manual_seed(seed)
    network = UNetOptions(
        channels=16, mult=(1,), blocks=1, attention=(), middle_attention=False, second_time=True
    ).build(1, num_classes=None)
    nn.init.normal_(network.head.weight, std=0.1)
    for module in network.modules():  # blocks begin as the identity, which hears nothing of the times
        if hasattr(module, "conv1"):
            nn.init.normal_(module.conv1.weight, std=0.1)  # type: ignore[attr-defined]
    return Jumping(network, PROCESS, pre.EDM(0.5), end)


def objective(teacher=None, **options):
    teacher = teacher or gaussian(MEAN, 0.25).denoiser(PROCESS)
    return Consistency(
        teacher, student(1), Karras(18), options.pop("most", 5), options.pop("denoising", None), **options
    )


def images(n=6):
    return 0.3 + 0.5 * Rng.from_seeds(range(n)).normal(1, 4, 4)


# What is drawn


def test_solver_steps_are_drawn_in_proportion_to_their_number_and_levels_evenly():
    found, places = torch.zeros(6), torch.zeros(18)
    parts = objective()
    levels = torch.tensor(Karras(18).times(PROCESS), dtype=torch.float64)
    for step in range(3000):
        t, u, s, h = parts.draw(PROCESS, Rng.for_step(0, step, range(4)))
        found[h] += 1
        i, j, k = ((levels[:, None] == time).long().argmax(0) for time in (t, u, s))
        assert torch.equal(j, i + h) and bool((k >= j).all()) and bool((k <= 17).all())
        if h == 5:
            places += torch.bincount(i, minlength=18)
    share = found / 3000
    expected = torch.tensor([0.0, 1, 2, 3, 4, 5]) / 15
    assert float((share - expected).abs().max()) < 5 * (0.25 / 3000) ** 0.5
    places /= places.sum()
    assert bool((places[13:] == 0).all())
    assert float((places[:13] - 1 / 13).abs().max()) < 5 * (1 / 13 / (4 * found[5])) ** 0.5


def test_horizons():
    rng = Rng.for_step(0, 3, range(64))
    t, u, s, h = objective(horizon="local").draw(PROCESS, rng)
    assert h == 1 and bool((u < t).all()) and bool((s <= u).all()) and bool((s < u).any())
    _, u, s, _ = objective(horizon="global").draw(PROCESS, Rng.for_step(0, 3, range(64)))
    assert torch.equal(u, s)
    _, _, s, _ = objective(anywhere=False).draw(PROCESS, Rng.for_step(0, 3, range(64)))
    assert bool((s * 80 - 0.002).abs().max() < 1e-9)


def test_each_example_draws_its_own_levels():
    parts = objective()
    whole = parts.draw(PROCESS, Rng.for_step(0, 3, range(6)))
    part = parts.draw(PROCESS, Rng.for_step(0, 3, [4], total=6))
    assert all(torch.equal(a[4:5], b) for a, b in zip(whole[:3], part[:3], strict=True)) and whole[3] == part[3]


def test_half_of_the_times_are_log_normal_and_half_on_the_ramp():
    """The density integrates to 1 and gives the fraction of draws in each of ten parts of ln sigma."""
    times, count = HalfLogNormal(), 40_000

    class Together(Rng):
        def __len__(self):
            return count

        def _fill(self, draw, event, dtype):
            out = torch.empty(count, *event, dtype=dtype)
            draw(out, generator=self.shared)
            return out

    t = times.draw(PROCESS, Together([]))
    for process in (PROCESS, Gaussian(LinearVP())):
        low, high = process.schedule.time(
            torch.tensor([14.0, -2 * math.log(process.point(1.0).ratio)]).double()
        ).tolist()
        grid = torch.linspace(math.log(low), math.log(high), 400_001, dtype=torch.float64).exp()
        mass = torch.trapezoid(times.density(process, grid), grid)
        # VP's ramp lies within it; EDM's half of the log-normal is all but 1e-4 within these ends
        assert float(mass) == pytest.approx(1.0, abs=2e-3)
    edges = torch.linspace(math.log(0.01), math.log(80.0), 11, dtype=torch.float64).exp() / 80
    for a, b in zip(edges[:-1], edges[1:], strict=True):
        inside = torch.linspace(float(a), float(b), 20_001, dtype=torch.float64)
        p = float(torch.trapezoid(times.density(PROCESS, inside), inside))
        seen = float(((t >= a) & (t < b)).double().mean())
        assert seen == pytest.approx(p, abs=5 * (p * (1 - p) / count) ** 0.5 + 1e-3)
    assert isinstance(times, LogNormal)


# What is compared


def test_loss_of_exact_jumps_falls_with_the_teachers_error():
    """With exact jumps for student and target all that is left is the teacher's: second order in its steps."""
    flow = GaussianFlow(MEAN, 0.25, PROCESS)
    x, t, s = (
        images().double(),
        torch.full((6,), 0.05, dtype=torch.float64),
        torch.full((6,), 2e-4, dtype=torch.float64),
    )
    xt = PROCESS.corrupt(x, t, Rng.from_seeds(range(6)))
    parts = Consistency(gaussian(MEAN, 0.25).denoiser(PROCESS), flow, Karras(18), 5, None)
    gaps = []
    for steps in (40, 80):
        estimate, target = parts.estimate(flow, xt, t, s, None), parts.aim(flow, xt, t, s, s, steps, None)
        gaps.append(float((estimate - target).norm()))
    assert math.log2(gaps[0] / gaps[1]) == pytest.approx(2, abs=0.1)


def test_gradient_flows_through_the_target_but_not_into_it():
    """Both the student's jump and no other: as if estimate = G^-(G(x_t, t, s), s, end) were differentiated in the student alone."""
    parts, pupil = objective(distance="l2"), student()
    t, u, s = (torch.full((6,), sigma / 80, dtype=torch.float64) for sigma in (10.0, 4.0, 0.5))
    xt = PROCESS.corrupt(images(), t, Rng.from_seeds(range(6)))
    estimate, target = parts.estimate(pupil, xt, t, s, None), parts.aim(pupil, xt, t, u, s, 2, None)
    assert estimate.requires_grad and not target.requires_grad
    (estimate - target).square().mean().backward()
    assert all(p.grad is None for p in parts.target.parameters()) and all(
        p.grad is None for p in parts.teacher.parameters()
    )
    grad = pupil.network.head.weight.grad.clone()

    # by a finite difference along the gradient, with the target of before
    with torch.no_grad():
        size = grad.norm()
        ends = []
        for sign in (1, -1):
            pupil.network.head.weight += sign * 1e-3 * grad / size
            end = torch.full_like(t, 0.002 / 80)
            moved = jump(parts.target, jump(pupil, xt, t, s), s, end)
            ends.append((moved - target).double().square().mean())
            pupil.network.head.weight -= sign * 1e-3 * grad / size
    assert float((ends[0] - ends[1]) / 2e-3) == pytest.approx(float(size), rel=1e-2)


def test_where_s_is_t_nothing_is_taught():
    parts, pupil = objective(distance="l2"), student()
    t = torch.full((6,), 2.0 / 80, dtype=torch.float64)
    xt = PROCESS.corrupt(images(), t, Rng.from_seeds(range(6)))
    parts.estimate(pupil, xt, t, t, None).square().sum().backward()
    assert float(pupil.network.head.weight.grad.abs().max()) == 0


def test_denoising_pulls_as_hard_as_consistency():
    parts, pupil = objective(denoising=Matching("F", HalfLogNormal())), student()
    loss = parts(pupil, images(), None, Rng.for_step(0, 2, range(6)))
    head = pupil.network.head.weight
    pulls = [
        torch.autograd.grad(loss.terms[name].mean(), head, retain_graph=True)[0].norm()
        for name in ("consistency", "denoising")
    ]
    weight = loss.terms["balance"][0]
    assert float(weight * pulls[1]) == pytest.approx(float(pulls[0]), rel=1e-3 + 1e-4 / float(pulls[1]))
    torch.testing.assert_close(loss.per_example, loss.terms["consistency"] + weight * loss.terms["denoising"])


def test_balance_in_closed_form():
    w = nn.Parameter(torch.tensor([3.0]))
    first, second = 5 * w.square(), 2 * w.expand(4)
    assert float(balance(first, second, w)) == pytest.approx(30 / (2 + 1e-4))
    assert float(balance(first, 0 * second, w)) == 1e4
    with torch.no_grad():
        assert float(balance(5 * w.square(), w, w)) == 1


def test_the_critic_has_a_turn_of_its_own_and_gives_the_student_its_gradient():
    parts, pupil = objective(critic=DiscriminatorOptions(channels=8, mult=(1,)).build(1)), student()
    assert parts.turns == ("critic", "denoiser")
    judged = parts(pupil, images(), None, Rng.for_step(0, 2, range(6)), "critic")
    judged.per_example.sum().backward()
    assert all(p.grad is None for p in pupil.parameters())
    assert any(bool(p.grad.any()) for p in parts.critic.parameters() if p.grad is not None)
    assert {id(p) for p in parts.parameters_of(pupil, "critic")} == {id(p) for p in parts.critic.parameters()}
    assert {id(p) for p in parts.parameters_of(pupil, "denoiser")} == {id(p) for p in pupil.parameters()}
    loss = parts(pupil, images(), None, Rng.for_step(0, 2, range(6)))
    pleased = loss.per_example - loss.terms["consistency"]
    assert bool(torch.autograd.grad(pleased.sum(), pupil.network.head.weight)[0].any())


# What is remembered


def test_the_target_is_the_average_of_the_student():
    parts, pupil = objective(decay=0.9), student()
    before = [p.clone() for p in parts.target.parameters()]
    parts.follow(pupil)
    for old, new, weight in zip(before, parts.target.parameters(), pupil.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * weight)
    assert {name.split(".")[0] for name in parts.state_dict()} == {"teacher", "target"}
    assert not any(p.requires_grad for p in parts.parameters())


def test_teacher_and_target_have_no_dropout():
    parts = objective(teacher=student(2)).train()
    assert parts.training and not any(m.training for part in (parts.teacher, parts.target) for m in part.modules())


def test_an_heir_is_its_teacher_whatever_second_time_it_is_told():
    torch.manual_seed(0)
    teacher, heir = NETWORK.build(1), student(4).network
    nn.init.normal_(teacher.head.weight)
    for module in teacher.modules():
        if hasattr(module, "conv1"):
            nn.init.normal_(module.conv1.weight, std=0.1)
    inherit(heir, teacher)
    x, t = images(), torch.full((6,), 0.3)
    for toward in (None, torch.full((6,), -1.0), torch.full((6,), 2.0)):
        told = None if toward is None else {"toward": toward}
        torch.testing.assert_close(heir(x, t, told), teacher(x, t))
    with pytest.raises(UsageProblem, match="give both the same network"):
        inherit(heir, UNetOptions(channels=32, mult=(1,), blocks=1, attention=(), middle_attention=False).build(1))


def test_what_does_not_fit_is_told():
    with pytest.raises(UsageProblem, match="18 solver steps are none of 1 to 17"):
        objective(most=18)
    with pytest.raises(UsageProblem, match="unknown distance"):
        objective(distance="lpips")
    with pytest.raises(UsageProblem, match="decay is 1"):
        objective(decay=1.0)
    parts = objective(denoising=Matching("x0", HalfLogNormal()))
    with pytest.raises(UsageProblem, match="no network with a head"):
        parts(GaussianFlow(MEAN, 0.25, PROCESS), images(), None, Rng.for_step(0, 0, range(6)))
