"""Walks of tokens that jump: exact where they must be, of first order where positions wait for each other."""

import math

import pytest
import torch

from unnoise.denoisers import clamped, prompted
from unnoise.errors import Problem, UsageProblem
from unnoise.oracles import Joint, MarkovChain
from unnoise.oracles.walks import walk_output
from unnoise.processes import AbsorbGraph, GeometricTotal, Jump, LogLinear, UniformGraph
from unnoise.recipe import Spec
from unnoise.rng import Rng, stream
from unnoise.samplers import DDIM, Ancestral, Euler, TauLeaping, Uniform, sample

N = 3
GRAPHS = {"uniform": UniformGraph(N), "absorb": AbsorbGraph(N)}
STEPS = {"analytic": Ancestral(), "tau-leaping": TauLeaping()}


def joint(length):
    return Joint(torch.rand((N,) * length, generator=stream(3, 2), dtype=torch.float64) ** 2)


def output(step, law, process, steps, guide=lambda d: d):
    return walk_output(law, process, step, Uniform(steps)(process), guide)


def distance(a, b):
    return float((a - b).abs().sum() / 2)


@pytest.mark.parametrize("noise", [LogLinear(), GeometricTotal(1e-4, 5.0)], ids=["log-linear", "geometric"])
@pytest.mark.parametrize("name", GRAPHS)
def test_analytic_step_of_one_token_is_exact_at_any_number_of_steps(name, noise):
    law, process = joint(1), Jump(GRAPHS[name], noise)
    for steps in (1, 3, 10):
        assert distance(output(Ancestral(), law, process, steps), law.log_weights.exp()) < 1e-13


LINEAR, GEOMETRIC = LogLinear(1e-2), GeometricTotal(1e-3, 4.0)


@pytest.mark.parametrize(
    ("name", "step", "length", "noise"),
    [
        ("uniform", "tau-leaping", 1, GEOMETRIC),
        ("uniform", "analytic", 2, LINEAR),
        ("absorb", "analytic", 2, LINEAR),
        ("absorb", "tau-leaping", 2, LINEAR),
    ],
)
def test_errors_fall_as_one_over_the_steps(name, step, length, noise):
    law, process = joint(length), Jump(GRAPHS[name], noise)
    true = law.log_weights.exp().flatten()
    errors = [distance(output(STEPS[step], law, process, steps), true) for steps in (64, 128, 256)]
    slopes = [math.log2(a / b) for a, b in zip(errors, errors[1:], strict=False)]
    assert all(0.9 < slope < 1.1 for slope in slopes), (errors, slopes)


def test_tau_leaping_of_one_token_is_exact_where_the_struck_fraction_is_linear_in_time():
    """p_t is then a straight line, and its slope, which the rates give, the same everywhere."""
    law = joint(1)
    for graph in GRAPHS.values():
        assert distance(output(TauLeaping(), law, Jump(graph, LogLinear(0.1)), 256), law.log_weights.exp()) < 1e-13


def test_infilling_of_an_absorbing_process_is_the_conditional_law():
    """One position known, one to fill: exact at any number of steps. With two to fill, as the steps grow."""
    process = Jump(GRAPHS["absorb"], LogLinear(1e-9))
    law = joint(2)
    guide = clamped(torch.tensor([0, 2]), torch.tensor([False, True]))
    wanted = law.log_weights.exp()[:, 2] / law.log_weights.exp()[:, 2].sum()
    for steps in (1, 5):
        found = output(Ancestral(), law, process, steps, guide).reshape(N, N)
        torch.testing.assert_close(found[:, 2], wanted, rtol=1e-7, atol=1e-7)
        assert found[:, :2].sum() < 1e-12
    law = joint(3)
    guide = clamped(torch.tensor([0, 2, 0]), torch.tensor([False, True, False]))
    wanted = law.log_weights.exp()[:, 2] / law.log_weights.exp()[:, 2].sum()
    errors = [
        distance(output(Ancestral(), law, process, steps, guide).reshape(N, N, N)[:, 2], wanted) for steps in (8, 64)
    ]
    assert errors[1] < errors[0] / 6 < 0.02


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", GRAPHS)
def test_walks_end_in_tokens_that_depend_on_their_seed_alone(name, step):
    chain = MarkovChain(torch.rand(N, N, generator=stream(5), dtype=torch.float64).softmax(1), 7)
    denoiser = chain.denoiser(Jump(GRAPHS[name], LogLinear()))
    x = sample(denoiser, STEPS[step], Uniform(6, end=1e-5), (5, 7))
    assert x.dtype == torch.int64 and x.shape == (5, 7) and x.min() >= 0 and x.max() < N
    one = sample(denoiser, STEPS[step], Uniform(6, end=1e-5), (1, 7), rng=Rng.from_seeds([3]))
    assert torch.equal(one[0], x[3])


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", GRAPHS)
def test_walks_have_the_law_of_the_data(name, step):
    law = joint(2)
    x = sample(law.denoiser(Jump(GRAPHS[name], LogLinear())), STEPS[step], Uniform(60), (3000, 2))
    share = torch.bincount(x[:, 0] * N + x[:, 1], minlength=N * N) / len(x)
    assert distance(share, law.log_weights.exp().flatten()) < 0.04  # of 3000 true samples: 0.02


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("name", GRAPHS)
def test_known_tokens_are_kept_by_every_walk(name, step):
    chain = MarkovChain(torch.rand(N, N, generator=stream(5), dtype=torch.float64).softmax(1), 9)
    denoiser = chain.denoiser(Jump(GRAPHS[name], LogLinear(0.2)))  # a prior with many letters, which contradict
    known = torch.arange(9) % 2 == 0
    x0 = chain.sample(Rng.from_seeds(range(40)))
    x = sample(clamped(x0, known)(denoiser), STEPS[step], Uniform(4), (40, 9))
    assert torch.equal(x[:, known], x0[:, known]) and not torch.equal(x, x0)


def test_prompts_are_places_and_gaps():
    spec = Spec((8,), kind="text", alphabet=tuple(" abc"))
    chain = MarkovChain(torch.full((4, 4), 0.25), 8)
    guide = prompted(spec, "ab_c a")
    x = sample(guide(chain.denoiser(Jump(AbsorbGraph(4), LogLinear()))), Ancestral(), Uniform(3), (30, 8))
    words = ["".join(spec.alphabet[i] for i in row) for row in x]
    assert all(word[:2] == "ab" and word[3:6] == "c a" for word in words)
    assert len({word[2] for word in words}) > 1 and len({word[6:] for word in words}) > 3
    with pytest.raises(UsageProblem, match="shorten"):
        prompted(spec, "abcabcabc")
    with pytest.raises(Problem, match="'z'"):
        prompted(spec, "az")
    low = Spec((2,), kind="text", alphabet=("_", "a"))  # where the gap is a letter, it is a letter
    x = sample(
        prompted(low, "_")(MarkovChain(torch.full((2, 2), 0.5), 2).denoiser(Jump(AbsorbGraph(2), LogLinear()))),
        Ancestral(), Uniform(2), (20, 2),
    )  # fmt: skip
    assert (x[:, 0] == 0).all()


def test_pairs_that_do_not_fit_are_refused_when_built():
    denoiser = joint(1).denoiser(Jump(GRAPHS["absorb"], LogLinear()))
    with pytest.raises(UsageProblem, match="one chain only"):
        sample(denoiser, DDIM(), Uniform(2), (1, 1))
    with pytest.raises(UsageProblem, match="needs a"):
        sample(denoiser, Euler(), Uniform(2), (1, 1))
    with pytest.raises(UsageProblem, match="fit a mask"):
        clamped(torch.zeros(3), torch.ones(2).bool())
