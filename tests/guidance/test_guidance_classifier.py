"""Classifier guidance against mixtures whose classifier, conditional score and conditional samples are known."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from unnoise.data import load
from unnoise.denoisers import DDPM, ClassifyingDenoiser, classifier_free, classifier_guidance, clip, guided
from unnoise.errors import UsageProblem
from unnoise.laws import Estimate
from unnoise.model import train_model
from unnoise.networks import UNetOptions
from unnoise.objectives import Bound, Hybrid, UniformSteps, WithClassifier
from unnoise.oracles import Mixture, gaussian
from unnoise.papers import find
from unnoise.processes import DCT, Gaussian
from unnoise.rng import Rng
from unnoise.samplers import DDIM, SAMPLERS, Ancestral, GuidedAncestral, Integers, LogSNR, sample
from unnoise.schedules import VE, FromBetas, LinearVP, Rectified, linear_betas
from unnoise.training import TrainingOptions

EVENT = (1, 2, 2)


def mixture() -> Mixture:
    random = torch.Generator().manual_seed(3)
    means = torch.randn(4, *EVENT, generator=random) * 0.7
    variances = 0.1 + 0.3 * torch.rand(4, *EVENT, generator=random)
    return Mixture(means, variances, torch.tensor([0.4, 0.3, 0.2, 0.1]), labels=torch.tensor([0, 1, 2, 0]))


def classifier(data: Mixture, process: Gaussian):
    """log p(y | x_t), by Bayes' rule from the exact densities."""

    def log_prob(xt, t, cond):
        return data.log_prob(xt, process, t, cond["label"]) - data.log_prob(xt, process, t)

    return log_prob


def unlabelled(denoiser):
    """The oracle, deaf to labels: guidance alone must tell it."""
    from unnoise.denoisers import Guided

    return Guided(denoiser, lambda inner, xt, t, cond: inner(xt, t))


PROCESSES = {
    "VP": Gaussian(LinearVP()),
    "VE": Gaussian(VE()),
    "rectified": Gaussian(Rectified()),
    "chain": Gaussian(FromBetas(linear_betas(100))),
    "VP in the basis of cosines": Gaussian(LinearVP(), DCT()),
}
N = 12
X = torch.randn(N, *EVENT, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
T = torch.linspace(0.02, 0.98, N, dtype=torch.float64)
COND = {"label": torch.arange(N) % 3}


@pytest.mark.parametrize("name", PROCESSES)
def test_the_exact_classifier_gives_the_conditional_score(name):
    process, data = PROCESSES[name], mixture()
    xt = X * (1 + process.at(T, X).sigma)
    led = classifier_guidance(1.0, classifier(data, process))(unlabelled(data.denoiser(process)))
    want = data.denoiser(process)(xt, T, COND).mean
    torch.testing.assert_close(led(xt, T, COND).mean, want, rtol=0, atol=1e-10)
    assert float((want - data.denoiser(process)(xt, T).mean).abs().max()) > 0.1


@pytest.mark.parametrize("weight", [-1.0, 0.5, 4.0])
def test_other_weights_extrapolate_as_classifier_free_guidance_does(weight):
    process, data = PROCESSES["VP"], mixture()
    ours = classifier_guidance(weight, classifier(data, process))(unlabelled(data.denoiser(process)))(X, T, COND)
    free = classifier_free(weight)(data.denoiser(process))(X, T, COND)
    torch.testing.assert_close(ours.mean, free.mean, rtol=0, atol=1e-9)
    # in the noise: eps - sigma s g, DDIM's published form
    point = process.at(T, X)
    x = X.clone().requires_grad_()
    (g,) = torch.autograd.grad(classifier(data, process)(x, T, COND).sum(), x)
    eps = process.noise(X, data.denoiser(process)(X, T).mean, T) - point.sigma * weight * g
    torch.testing.assert_close(process.noise(X, ours.mean, T), eps, rtol=0, atol=1e-9)


SOLVERS = sorted(
    name
    for name, step in SAMPLERS.items()
    if issubclass(Gaussian, step.needs) and name not in ("guided-ancestral", "fitted", "bridge-flow")
)


@pytest.mark.parametrize("name", SOLVERS)
def test_every_sampler_is_led_to_the_conditional_samples(name):
    """The same noise through the guided and through the conditional model."""
    process, data = PROCESSES["VP"], mixture()
    step, grid = SAMPLERS[name](), LogSNR(8)
    cond = {"label": torch.tensor([0, 1, 2])}
    led = classifier_guidance(1.0, classifier(data, process))(unlabelled(data.denoiser(process)))
    one, two = (
        sample(denoiser, step, grid, (3, *EVENT), cond=cond, dtype=torch.float64)
        for denoiser in (led, data.denoiser(process))
    )
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-6)


def test_the_samples_have_the_moments_of_the_class():
    """One normal a class: the conditional flow is affine, and ten thousand steps leave only what the grid cuts off."""
    process = Gaussian(LinearVP())
    means, variances = torch.tensor([[0.8], [-0.5]]), torch.tensor([[0.09], [0.25]])
    data = Mixture(means, variances, torch.tensor([0.3, 0.7]), labels=torch.tensor([0, 1]))
    led = classifier_guidance(1.0, classifier(data, process))(unlabelled(data.denoiser(process)))
    start = torch.tensor([[0.0], [1.0], [0.0], [1.0]], dtype=torch.float64)
    cond = {"label": torch.tensor([0, 0, 1, 1])}
    x = sample(led, DDIM(), LogSNR(3000), (4, 1), cond=cond, start=start, dtype=torch.float64)
    first = LogSNR(3000)(process)[0]
    for k in (0, 1):
        zero, one = x[2 * k, 0], x[2 * k + 1, 0]
        # from N(0, 1), while the marginal there is N(alpha m, alpha^2 v + sigma^2)
        assert abs(float(zero) - float(means[k])) < 0.002 + 2 * first.alpha
        assert abs(float((one - zero) ** 2) - float(variances[k])) < 0.002


# The published ancestral sampler. Data N(0, 1) and p(y | x_0) ~ exp(a x_0): given y the data are N(a, 1), and all is affine.

TILT = 0.6


def tilted(process):
    """log p(y | x_t) = a alpha x_t, up to a function of t."""
    return lambda xt, t, cond: TILT * process.at(t, xt).alpha[:, 0] * xt[:, 0]


class Columns(Rng):
    """Row k of the batch is 1 at the k-th draw, else 0: the columns of an affine sampler."""

    def __init__(self, rows):
        super().__init__([], (0,))
        self.rows, self.next = rows, 2

    def normal(self, *event, dtype=torch.float64):
        out = torch.zeros(self.rows, *event, dtype=torch.float64)
        out[self.next] = 1
        self.next += 1
        return out.to(dtype)


def moments(denoiser, step, grid):
    points = grid(denoiser.process)
    start = torch.zeros(len(points) + 2, 1, dtype=torch.float64)
    start[1] = 1
    x = sample(denoiser, step, lambda _: points, start.shape, rng=Columns(len(start)), start=start, dtype=torch.float64)
    slopes = x[1:, 0] - x[0, 0]
    return float(x[0, 0]), float((slopes**2).sum())


@pytest.mark.parametrize("variance", ["small", "large"])
def test_the_published_ancestral_sampler_is_of_weak_order_one(variance):
    def error(steps):
        process = Gaussian(FromBetas(linear_betas(steps)))
        led = classifier_guidance(1.0, tilted(process))(gaussian(torch.zeros(1), 1.0).denoiser(process))
        mean, spread = moments(led, GuidedAncestral(variance=variance), Integers(steps))
        return abs(mean - TILT), abs(spread - 1)

    for errors in zip(*[error(n) for n in (100, 200, 400)], strict=True):  # of the mean, and of the variance
        rates = [math.log2(a / b) for a, b in pairwise(errors)]
        assert errors[-1] < 0.03 and all(0.8 < rate < 1.3 for rate in rates), (errors, rates)


@pytest.mark.parametrize("variance", ["small", "large", "optimal"])
def test_the_mean_is_shifted_by_the_variance_of_the_unguided_step(variance):
    process, data = PROCESSES["chain"], mixture()
    plain, weight = data.denoiser(process), 2.5
    led = classifier_guidance(weight, classifier(data, process))(unlabelled(plain))
    x = X.clone().requires_grad_()
    for t, s in pairwise(Integers(10)(process)):
        times = torch.full((N,), t.t, dtype=torch.float64)
        before = Ancestral(variance=variance).law(process, plain(X, times), X, t, s)
        law = GuidedAncestral(variance=variance).law(process, led(X, times, COND), X, t, s)
        (g,) = torch.autograd.grad(classifier(data, process)(x, times, COND).sum(), x)
        std = torch.as_tensor(before.std, dtype=torch.float64)
        torch.testing.assert_close(law.mean, before.mean + weight * std**2 * g, rtol=1e-12, atol=1e-12)
        assert torch.equal(torch.as_tensor(law.std, dtype=torch.float64), std)


def test_weight_nought_is_no_guidance_bitwise():
    process, data = PROCESSES["VP"], mixture()
    led = classifier_guidance(0.0, classifier(data, process))(unlabelled(data.denoiser(process)))
    for step in (DDIM(), Ancestral(), GuidedAncestral()):
        one, two = (sample(d, step, LogSNR(6), (3, *EVENT)) for d in (led, data.denoiser(process)))
        assert torch.equal(one, two)


def test_thresholds_before_and_after_the_pull():
    process, data = PROCESSES["VP"], mixture()
    pull, plain = classifier_guidance(3.0, classifier(data, process)), unlabelled(data.denoiser(process))
    raw, whole = plain(X, T).mean, guided(plain, [pull])(X, T, COND).mean
    first, last = (guided(plain, order)(X, T, COND) for order in ([clip(-0.2, 0.2), pull], [pull, clip(-0.2, 0.2)]))
    torch.testing.assert_close(first.mean - raw.clamp(-0.2, 0.2), whole - raw)
    assert torch.equal(last.mean, whole.clamp(-0.2, 0.2)) and torch.equal(last.unclipped, whole)
    for estimate in (first, last):  # the ancestral sampler starts from the unguided guess, thresholded in either case
        assert torch.equal(estimate.pull.estimate.mean, raw.clamp(-0.2, 0.2))
    torch.testing.assert_close(first.pull.gradient, last.pull.gradient)


def test_two_classifiers_add_up():
    process, data = PROCESSES["VP"], mixture()
    log_prob, plain = classifier(data, process), unlabelled(data.denoiser(process))
    twice = guided(plain, [classifier_guidance(1.0, log_prob), classifier_guidance(0.5, log_prob)])(X, T, COND)
    once = classifier_guidance(1.5, log_prob)(plain)(X, T, COND)
    torch.testing.assert_close(twice.mean, once.mean)
    torch.testing.assert_close(twice.pull.gradient, once.pull.gradient)
    assert torch.equal(twice.pull.estimate.mean, plain(X, T).mean)


def test_where_no_signal_is_left_the_guess_stays():
    process, data = PROCESSES["rectified"], mixture()
    led = classifier_guidance(1.0, classifier(data, process))(unlabelled(data.denoiser(process)))
    t = torch.ones(N, dtype=torch.float64)
    assert torch.equal(led(X, t, COND).mean, data.denoiser(process)(X, t).mean)


# A network with a classifier of its own.

NETWORK = UNetOptions(channels=8, mult=(1, 2), blocks=1, attention=(2,))


def own(conditional=False):
    torch.manual_seed(0)
    process = Gaussian(FromBetas(linear_betas(50)))
    network, classes = NETWORK.build(1, 2, 3 if conditional else None), NETWORK.build_encoder(1, 3, (8, 8))
    with torch.no_grad():
        for p in (*network.parameters(), *classes.parameters()):
            p.add_(0.1 * torch.randn_like(p))
    return ClassifyingDenoiser(network, classes, process, DDPM(process.schedule), True, conditional).eval()


@torch.no_grad()
def test_a_model_s_own_classifier_guides_it():
    denoiser = own()
    x, t, label = torch.randn(4, 1, 8, 8), torch.full((4,), 0.5), torch.tensor([0, 1, 2, -1])
    plain = denoiser(x, t, {"label": label})  # the network takes no labels, and is not given any
    led = guided(denoiser, [clip(), classifier_guidance(2.0)])(x, t, {"label": label})
    moved = (led.mean - plain.mean.clamp(-1, 1)).flatten(1).norm(dim=1)
    assert (moved[:3] > 1e-4).all() and moved[3] == 0  # no label, no pull
    assert torch.equal(led.fraction, plain.fraction)
    torch.testing.assert_close(denoiser.log_probs(x, t).exp().sum(1), torch.ones(4))
    assert not led.mean.requires_grad


def test_the_classifier_learns_in_a_turn_of_its_own():
    denoiser = own(conditional=True)
    times = UniformSteps(50)
    objective = WithClassifier(Hybrid(Bound(50, times, Ancestral(variance="learned"))), times, 3e-4, 0.05)
    assert objective.turns == ("denoiser", "classifier")
    assert objective.turn_options["classifier"] == {"lr": 3e-4, "weight_decay": 0.05}
    turns = {turn: {id(p) for p in objective.parameters_of(denoiser, turn)} for turn in objective.turns}
    assert turns["classifier"] == {id(p) for p in denoiser.classifier.parameters()}
    assert turns["denoiser"] == {id(p) for p in denoiser.network.parameters()}
    x, cond = torch.randn(6, 1, 8, 8), {"label": torch.arange(6) % 3}
    loss = objective(denoiser, x, cond, Rng.from_seeds(range(6)), "classifier")
    loss.per_example.sum().backward()
    assert all(p.grad is None for p in denoiser.network.parameters())
    assert all(p.grad is not None for p in denoiser.classifier.parameters())
    rng = Rng.from_seeds(range(6))
    t, _ = times.sample(denoiser.process, rng)
    xt = denoiser.process.corrupt(x, t, rng)
    want = -denoiser.log_prob(xt, t, cond)
    torch.testing.assert_close(loss.per_example, want)
    assert loss.t is None  # an adaptive distribution of times learns from the denoiser's losses alone


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: classifier_guidance(1.0)(mixture().denoiser(PROCESSES["VP"])), "has no classifier"),
        (lambda: classifier_guidance(1.0)(own())(torch.zeros(1, 1, 8, 8), torch.ones(1)), "there is none; give labels"),
        (lambda: GuidedAncestral(eta=0.0), "take ddim"),
        (
            lambda: next(iter(WithClassifier(Hybrid(Bound(5, UniformSteps(5), Ancestral())), UniformSteps(5), 1, 0)
                              .parameters_of(mixture().denoiser(PROCESSES["VP"]), "classifier"))),
            "has no classifier to train",
        ),
        (
            lambda: WithClassifier(Hybrid(Bound(5, UniformSteps(5), Ancestral())), UniformSteps(5), 1, 0)(
                own(), torch.zeros(1, 1, 8, 8), None, Rng.from_seeds([0]), "classifier"
            ),
            "these data have none",
        ),
    ],
)  # fmt: skip
def test_mistakes(build, says):
    with pytest.raises(UsageProblem, match=says):
        build()


def test_a_process_without_a_score_is_refused():
    from unnoise.denoisers import Denoiser
    from unnoise.processes import Process

    class Jumps(Process):
        pass

    class Guess(Denoiser):
        process = Jumps()

        def forward(self, xt, t, cond=None):
            return Estimate(xt)

    with pytest.raises(UsageProblem, match="process is Jumps"):
        classifier_guidance(1.0, lambda *a: a[0])(Guess())


@pytest.mark.parametrize("slug", ["adm", "score-sde"])
def test_a_training_moves_the_classifier_as_well(slug, tmp_path):
    """Both turns are taken at every step, whatever the objective within says of its own."""
    small = UNetOptions(channels=32, mult=(1,), blocks=1, attention=())
    recipe = replace(
        find(slug).laptop(), data="digits", classifier=True, network=small, classifier_network=small,
        training=TrainingOptions(steps=40, batch_size=64, lr=1e-3, precision="fp32"),
    )  # fmt: skip
    if slug == "score-sde":
        recipe = replace(recipe, sde="vp")
    lines: list[dict] = []
    train_model(recipe, load("digits"), tmp_path / "run", preview=False, on_step=lines.append)
    assert {"denoiser/loss", "classifier/loss"} <= set(lines[0])
    first, last = (sum(line["classifier/loss"] for line in part) / 10 for part in (lines[:10], lines[-10:]))
    assert last < first - 0.01
