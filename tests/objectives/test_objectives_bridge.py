"""Bridge matching: what is regressed on, when each direction learns, from which pairs; and couplings of two sets."""

import pytest
import torch

from unnoise.couplings import Diffused, Paired, Unpaired, entropic, optimal, sinkhorn
from unnoise.data import Batch
from unnoise.denoisers import Bridged, Denoiser
from unnoise.errors import UsageProblem
from unnoise.laws import Estimate
from unnoise.objectives import BridgeMatching, HalfSteps, Matching, Uniform
from unnoise.oracles import independent, schroedinger
from unnoise.processes import Bridge, Gaussian
from unnoise.rng import Rng
from unnoise.samplers import EulerMaruyama
from unnoise.samplers import Uniform as Grid
from unnoise.schedules import Brownian

SIGMA = 0.7
PROCESS = Bridge(Gaussian(Brownian(SIGMA)))


class Points:
    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def batch(self, rows):
        return Batch(self.x[rows])


class Constant(Denoiser):
    """A guess that is one number, learned."""

    process = PROCESS.reference

    def __init__(self, value: float):
        super().__init__()
        self.value = torch.nn.Parameter(torch.tensor(value))

    def forward(self, xt, t, cond=None):
        return Estimate(self.value.expand_as(xt))


def halves(**changes) -> HalfSteps:
    plan = {"first": 5, "then": 4, "count": 32, "refresh": 2, "walk": EulerMaruyama(), "grid": Grid(4)}
    return HalfSteps(**{**plan, **changes})


def objective(coupling, data=None, others=None, compare="score", plan=None) -> BridgeMatching:
    found = BridgeMatching(Matching(compare, Uniform(0.05)), plan or halves(), (2,))
    found.receive(data, others, coupling)
    return found


@pytest.mark.parametrize("turn", ["backward", "forward"])
def test_the_error_is_that_of_the_papers_drift(turn):
    """Of the target x_1 - x_0 - sigma sqrt(t / (1 - t)) z forward, and -(x_1 - x_0) - sigma sqrt((1 - t) / t) z backward, with
    the z that made x_t; the score is the drift over sigma^2."""
    x0, x1 = torch.randn(2, 64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    told = objective(lambda x, cond, rng: (x, cond, x1))
    seen = {}

    class Watched(Constant):
        def forward(self, xt, t, cond=None):
            seen.update(x=xt, t=t)
            return super().forward(xt, t, cond)

    bridged = Bridged(PROCESS, Watched(0.3), Watched(0.3))
    loss = told(bridged, x0, None, Rng.from_seeds(range(64)), turn)
    x, own = seen["x"], seen["t"][:, None]
    t = own if turn == "backward" else 1 - own
    z = (x - (1 - t) * x0 - t * x1) / (SIGMA * (t * (1 - t)).sqrt())
    forward = x1 - x0 - SIGMA * (t / (1 - t)).sqrt() * z
    backward = -(x1 - x0) - SIGMA * ((1 - t) / t).sqrt() * z
    target, drift = (backward if turn == "backward" else forward), (0.3 - x) / own
    torch.testing.assert_close(loss.per_example * SIGMA**4, (drift - target).square().mean(1), rtol=1e-6, atol=1e-8)


def test_the_scaled_loss_weights_the_drift_by_sigma_squared_t():
    x0, x1 = torch.randn(2, 64, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    coupling, rng = (lambda x, cond, rng: (x, cond, x1)), lambda: Rng.from_seeds(range(64))
    bridged = Bridged(PROCESS, Constant(0.2), Constant(0.2))
    drift = objective(coupling)(bridged, x0, None, rng())
    scaled = objective(coupling, compare="eps")(bridged, x0, None, rng())
    torch.testing.assert_close(scaled.per_example, drift.per_example * SIGMA**2 * drift.t)


@pytest.mark.parametrize("turn", ["backward", "forward"])
def test_the_exact_guess_is_the_best(turn):
    """The gradient with respect to a shift and a scale of the guess vanishes at the oracle; elsewhere the loss is higher."""
    pairs = independent(torch.tensor([[-1.0, 0.2], [0.8, -0.5]]), torch.tensor([[0.5, 1.0]]), 0.2, 0.3)
    x0, x1 = pairs.sample(Rng.from_seeds(range(6000)))
    exact = pairs.denoiser(PROCESS)

    class Moved(Denoiser):
        process = PROCESS.reference

        def __init__(self, inner):
            super().__init__()
            self.inner, self.by = inner, torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))

        def forward(self, xt, t, cond=None):
            guess = self.inner(xt, t).mean
            return Estimate(guess * (1 + self.by[0]) + self.by[1])

    side = exact.towards_data if turn == "backward" else exact.towards_other
    moved = Moved(side)
    bridged = Bridged(PROCESS, *((moved, exact.towards_other) if turn == "backward" else (exact.towards_data, moved)))
    told = objective(lambda x, cond, rng: (x, cond, x1), compare="eps")

    def loss(rows=slice(None)):
        return told(bridged, x0, None, Rng.from_seeds(range(6000)).spawn(1), turn).per_example[rows]

    (gradient,) = torch.autograd.grad(loss().mean(), moved.by)
    noise = torch.stack([torch.autograd.grad(loss(slice(i, None, 8)).mean(), moved.by)[0] for i in range(8)]).std(0)
    assert bool((gradient.abs() < 4 * noise / 8**0.5).all())
    best = float(loss().mean().detach())
    for by in ([0.3, 0.0], [-0.3, 0.0], [0.0, 0.3], [0.0, -0.3]):
        with torch.no_grad():
            moved.by.copy_(torch.tensor(by))
            assert float(loss().mean()) > best


def test_directions_take_turns_of_many_steps():
    told = objective(Diffused(PROCESS.reference), Points(torch.zeros(3, 2)), Points(torch.ones(3, 2)))
    bridged = Bridged(PROCESS, Constant(0.0), Constant(1.0))
    asked = []

    class Shown:
        def __enter__(self):
            asked.append(True)
            return bridged

        def __exit__(self, *error):
            return None

    turns, refreshed = [], []
    for step in range(14):
        before = len(asked)
        turns += told.prepare(step, Shown)
        refreshed.append(len(asked) > before)
    assert turns == ["backward"] * 5 + ["forward"] * 4 + ["backward"] * 4 + ["forward"]
    assert refreshed == [False] * 5 + [True, False, True, False] * 2 + [True]
    assert set(told.parameters_of(bridged, "backward")) == {bridged.towards_data.value}
    assert set(told.parameters_of(bridged, "forward")) == {bridged.towards_other.value}


def test_pairs_begin_with_true_data_and_end_where_the_other_network_leads():
    """The way to 5 and the way to -3 are known; data are 0, others 1."""
    told = objective(None, Points(torch.zeros(3, 2)), Points(torch.ones(3, 2)))
    bridged = Bridged(PROCESS, Constant(5.0), Constant(-3.0))
    shown = lambda: torch.no_grad() if False else _Given(bridged)  # noqa: E731
    told.prepare(5, shown)  # forward learns: others are true, their partners are what the way to data made of them
    assert torch.equal(told.others, torch.ones(32, 2)) and torch.equal(told.data, torch.full((32, 2), 5.0))
    told.prepare(9, shown)
    assert torch.equal(told.data, torch.zeros(32, 2)) and torch.equal(told.others, torch.full((32, 2), -3.0))
    # and the batch of data is not looked at any more
    loss = told(bridged, torch.full((16, 2), 77.0), None, Rng.from_seeds(range(16)), "backward")
    assert float(loss.per_example.detach().max()) < 2000


class _Given:
    def __init__(self, bridged):
        self.bridged = bridged

    def __enter__(self):
        return self.bridged

    def __exit__(self, *error):
        return None


def test_mistakes_are_told():
    with pytest.raises(UsageProblem, match="both sets"):
        BridgeMatching(Matching("eps", Uniform(0.1)), halves(), (2,))(
            Bridged(PROCESS, Constant(0.0), Constant(0.0)), torch.zeros(2, 2), None, Rng.from_seeds([0, 1])
        )
    with pytest.raises(UsageProblem, match="two networks of a bridge"):
        objective(Diffused(PROCESS.reference))(Constant(0.0), torch.zeros(2, 2), None, Rng.from_seeds([0, 1]))
    with pytest.raises(UsageProblem, match="refresh is 0"):
        halves(refresh=0)
    with pytest.raises(UsageProblem, match="are no pairs"):
        Paired(Points(torch.zeros(3, 2)), Points(torch.zeros(4, 2)))


def test_pairs_of_rows_stay_pairs_and_unpaired_ones_are_spread():
    data, others = Points(torch.arange(50.0)[:, None]), Points(100 + torch.arange(50.0)[:, None])
    x0, _, x1 = Paired(data, others)(torch.zeros(64, 1), None, Rng.from_seeds(range(64)))
    assert torch.equal(x1, x0 + 100) and len(x0.unique()) > 20
    x = torch.zeros(64, 1)
    same, _, x1 = Unpaired(others)(x, None, Rng.from_seeds(range(64)))
    assert same is x and len(x1.unique()) > 20
    whole = Unpaired(others, optimal)(data.x, None, Rng.from_seeds(range(50)))[2]
    assert torch.equal(whole.flatten(), whole.flatten().sort().values)  # in one dimension the best plan sorts


def test_noised_data_have_the_law_of_the_reference():
    x0 = torch.full((4000, 1), 2.0)
    _, _, x1 = Diffused(PROCESS.reference)(x0, None, Rng.from_seeds(range(4000)))
    assert abs(float(x1.mean()) - 2) < 0.05 and abs(float(x1.std()) - SIGMA) < 0.03


def test_the_entropic_plan_has_its_marginals_and_is_the_best():
    """Of all plans with these marginals it has the least <P, cost> - reg H(P): any move along them raises it."""
    x, y = torch.randn(2, 5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    y = y[:4]
    cost = torch.cdist(x, y).square()
    plan = sinkhorn(cost, 2.0).exp()
    torch.testing.assert_close(plan.sum(0), torch.full((4,), 0.25, dtype=torch.float64), rtol=0, atol=1e-12)
    torch.testing.assert_close(plan.sum(1), torch.full((5,), 0.2, dtype=torch.float64), rtol=0, atol=1e-9)

    def value(p):
        return float((p * cost).sum() + 2.0 * (p * (p.log() - 1)).sum())

    for i in range(4):
        for j in range(3):
            move = torch.zeros(5, 4, dtype=torch.float64)
            move[i, j], move[i + 1, j + 1], move[i, j + 1], move[i + 1, j] = 1, 1, -1, -1
            for sign in (1e-5, -1e-5):
                assert value(plan + sign * move) > value(plan)


def test_the_entropic_plan_of_a_batch_tends_to_the_schroedinger_bridge():
    z = torch.zeros(1)
    exact = float(schroedinger(z, z, 1.0, 1.0, Bridge(Gaussian(Brownian(1.0)))).covariance)
    rng = Rng.from_seeds(range(400))
    x0, x1 = rng.spawn(1).normal(1), rng.spawn(2).normal(1)
    x0, x1 = ((x - x.mean()) / x.std() for x in (x0, x1))
    found = []
    for seed in range(8):
        chosen = entropic(2.0)(x0, x1, Rng([(seed, i) for i in range(400)]))
        found.append(float((x0 * x1[chosen]).mean()))
    assert abs(sum(found) / 8 - exact) < 0.04
