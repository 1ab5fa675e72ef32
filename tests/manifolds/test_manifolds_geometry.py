"""Exponential maps, distances, projections and divergences, against what defines them."""

import math

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.manifolds import Rotations, Torus, divergence, manifold
from unnoise.manifolds.rotations import product
from unnoise.rng import Rng

NAMES = ("sphere", "sphere-3", "torus-1", "torus-3", "so3")
SEEDS = Rng.from_seeds(range(300))


def pair(where, dtype=torch.float64):
    rng = SEEDS.spawn(1)
    x, y = where.uniform(rng).to(dtype), where.uniform(rng).to(dtype)
    v = where.tangent(x, rng.normal_like(x))
    return x, y, v / v.norm(dim=1, keepdim=True)


@pytest.mark.parametrize("name", NAMES)
def test_exp_and_log_are_inverse_and_measure_the_distance(name):
    where = manifold(name)
    x, y, v = pair(where)
    torch.testing.assert_close(where.exp(x, where.log(x, y)), y, atol=1e-12, rtol=0)
    torch.testing.assert_close(where.log(x, where.exp(x, 0.7 * v)), 0.7 * v, atol=1e-12, rtol=0)
    torch.testing.assert_close(where.distance(x, y), where.distance(y, x), atol=1e-12, rtol=0)
    far = 2.0 * v / v.abs().max() if name == "torus-3" else 3.0 * v  # no circle is gone round by more than half
    torch.testing.assert_close(where.distance(x, where.exp(x, far)), far.norm(dim=1), atol=1e-12, rtol=0)
    assert where.log(x, x).abs().max() < 1e-12
    halfway = where.exp(x, where.log(x, y) / 2)
    torch.testing.assert_close(where.distance(x, halfway), where.distance(halfway, y), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_geodesic_stays_and_begins_with_its_velocity(name):
    where = manifold(name)
    x, _, v = pair(where)
    step = 1e-4
    speed = (where.exp(x, step * v) - where.exp(x, -step * v)) / (2 * step)
    torch.testing.assert_close(speed, v, atol=1e-7, rtol=0)
    bend = (where.exp(x, step * v) + where.exp(x, -step * v) - 2 * x) / step**2
    assert where.tangent(x, bend).abs().max() < 1e-6  # it turns only as the manifold does
    torch.testing.assert_close(where.project(where.exp(x, 50 * v)), where.exp(x, 50 * v), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_the_projection_on_the_tangent_space_has_its_dimension(name):
    where = manifold(name)
    x, y, v = pair(where)
    u = where.tangent(x, y)
    torch.testing.assert_close(where.tangent(x, u), u, atol=1e-12, rtol=0)
    torch.testing.assert_close(where.tangent(x, v), v, atol=1e-12, rtol=0)
    trace = sum(where.tangent(x, e.expand_as(x))[:, i] for i, e in enumerate(torch.eye(where.ambient).to(x)))
    torch.testing.assert_close(trace, torch.full_like(trace, where.dim), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_a_frame_is_orthonormal_and_spans_the_tangent_space(name):
    where = manifold(name)
    x, y, _ = pair(where)
    x[0], x[1] = where.project(torch.eye(where.ambient).to(x)[-1] + 1e-9), -x[2] if "so3" not in name else x[2]
    frame = where.frame(x)
    assert frame.shape == (where.dim, *x.shape)
    gram = torch.einsum("ibk,jbk->bij", frame, frame)
    torch.testing.assert_close(gram, torch.eye(where.dim).to(x).expand_as(gram), atol=1e-12, rtol=0)
    within = (frame * (frame * y).sum(-1, keepdim=True)).sum(0)
    torch.testing.assert_close(within, where.tangent(x, y), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_projection_finds_the_nearest_point(name):
    where = manifold(name)
    x, y, _ = pair(where)
    off = x + 0.3 * y.roll(1, 0)
    near = where.project(off)
    torch.testing.assert_close(where.project(near), near, atol=1e-12, rtol=0)
    for other in (x, y, where.exp(near, 0.01 * where.tangent(near, y))):
        assert ((off - near).norm(dim=1) <= (off - other).norm(dim=1) + 1e-12).all()


@pytest.mark.parametrize("name", NAMES)
def test_the_uniform_law_has_no_direction(name):
    where = manifold(name)
    x = where.uniform(Rng.from_seeds(range(8000)))
    size = float(x[0].square().sum()) / where.ambient  # of each coordinate, by symmetry
    assert x.mean(0).abs().max() < 5 * math.sqrt(size / 8000)
    covariance = x.T @ x / len(x)
    assert (covariance - size * torch.eye(where.ambient)).abs().max() < 6 * size / math.sqrt(8000)


def test_rotations_are_rotations():
    where = Rotations()
    x, y, _ = pair(where)
    for r in (where.matrix(x), where.matrix(where.exp(x, where.log(x, y) * 0.3))):
        torch.testing.assert_close(r.mT @ r, torch.eye(3, dtype=r.dtype).expand_as(r), atol=1e-12, rtol=0)
        torch.testing.assert_close(torch.linalg.det(r), torch.ones(len(r), dtype=r.dtype), atol=1e-12, rtol=0)
    angle = 1.1
    turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0], [math.sin(angle), math.cos(angle), 0], [0, 0, 1]])
    ends = where.point(torch.stack([torch.eye(3), turn]))
    assert abs(float(where.distance(ends[:1], ends[1:])) - angle) < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_single_precision_stays_on_the_manifold(name):
    where = manifold(name)
    x = where.uniform(SEEDS.spawn(2)).float()
    for _ in range(10):
        x = where.walk(x, 0.5, SEEDS.spawn(3), 20)
    assert x.dtype == torch.float32 and (where.project(x.double()) - x).abs().max() < 1e-6


@pytest.mark.parametrize("name", NAMES)
def test_where_networks_are_computed_in_half_precision_points_are_not(name):
    where = manifold(name)
    x, y, v = pair(where, torch.float32)

    def made():
        return where.exp(x, v.float()), where.log(x, y), where.tangent(x, y), where.frame(x), where.project(x + y / 9)

    plain = made()
    with torch.autocast("cpu", torch.bfloat16):
        for a, b in zip(made(), plain, strict=True):
            assert a.dtype == torch.float32
            torch.testing.assert_close(a, b, atol=0, rtol=0)


@pytest.mark.parametrize("name", ("sphere", "sphere-3", "so3"))
def test_divergence_of_a_projected_constant(name):
    """P_x a is the gradient of <a, x>, an eigenfunction of the first degree."""
    where = manifold(name)
    x, a, _ = pair(where)
    values, found = divergence(where, lambda z: where.tangent(z, a), x, where.frame(x))
    torch.testing.assert_close(values, where.tangent(x, a))
    first = where.eigenvalue(torch.tensor(1.0))
    torch.testing.assert_close(found, -first * (a * x).sum(1), atol=1e-12, rtol=0)


def test_divergence_does_not_ask_how_a_field_goes_on_beside_the_manifold():
    where = manifold("sphere")
    x, a, _ = pair(where)
    for power in (0, 1, 5):

        def field(z, power=power):
            return z.norm(dim=1, keepdim=True) ** power * where.tangent(z, a)

        _, found = divergence(where, field, x, where.frame(x))
        torch.testing.assert_close(found, -2 * (a * x).sum(1), atol=1e-12, rtol=0)


def test_rotating_fields_have_no_divergence_and_angles_have_their_own():
    spin = torch.tensor([[0, -1, 2], [1, 0, -3], [-2, 3, 0]], dtype=torch.float64)
    where = manifold("sphere")
    x, _, _ = pair(where)
    assert divergence(where, lambda z: z @ spin.T, x, where.frame(x))[1].abs().max() < 1e-12
    torus = Torus(3)
    x, _, _ = pair(torus)
    _, found = divergence(torus, lambda z: torus.vector(z, torus.angles(z).sin() * 2), x, torus.frame(x))
    torch.testing.assert_close(found, 2 * torus.angles(x).cos().sum(1), atol=1e-10, rtol=0)


@pytest.mark.parametrize("name", ("sphere", "torus-3", "so3"))
def test_random_directions_measure_the_divergence_on_average(name):
    where = manifold(name)
    x, a, _ = pair(where)

    def field(z):
        return where.tangent(z, a * z.roll(1, 1).exp())

    exact = divergence(where, field, x, where.frame(x))[1]
    for draw in (lambda r: 2.0 * r.integers(2, 400, where.ambient) - 1, lambda r: r.normal(400, where.ambient)):
        z = draw(SEEDS.spawn(5)).double().transpose(0, 1)
        error = divergence(where, field, x, z)[1] / 400 - exact
        assert error.mean().abs() < 5 * error.std() / math.sqrt(len(x)) and error.std() < 0.5


@pytest.mark.parametrize("name", ("sphere-1", "torus-0", "plane", "so4", "torus", "sphere-x"))
def test_manifolds_that_are_none_are_told_in_a_sentence(name):
    with pytest.raises(UsageProblem) as caught:
        manifold(name)
    assert "\n" not in str(caught.value)


def test_quaternions_and_angles_are_other_names_of_rotations():
    where = Rotations()
    x, y, _ = pair(where)
    half = torch.diag_embed(torch.tensor([[1.0, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, 1]], dtype=torch.float64))
    x = torch.cat([x, where.point(half)])  # half turns, of which the real part is 0
    q = where.quaternion(x)
    torch.testing.assert_close(where.turned(q), x, atol=1e-12, rtol=0)
    torch.testing.assert_close(
        2 * q[:, 0].abs().clamp(max=1).acos(), where.distance(x, x[-1:].expand_as(x)), atol=1e-7, rtol=0
    )
    both = where.point(where.matrix(x[:300]) @ where.matrix(y))
    torch.testing.assert_close(where.turned(product(q[:300], where.quaternion(y))), both, atol=1e-12, rtol=0)
    angles = where.turns(x)
    torch.testing.assert_close(where.turning(angles), x, atol=1e-12, rtol=0)
    assert angles[:, 1].abs().max() <= math.pi / 2


def test_angles_turn_as_scipys_do():
    from scipy.spatial.transform import Rotation

    where = Rotations()
    x, _, _ = pair(where)
    theirs = Rotation.from_matrix(where.matrix(x).numpy())
    torch.testing.assert_close(where.turns(x), torch.from_numpy(theirs.as_euler("xyz").copy()), atol=1e-9, rtol=0)
    quaternion = torch.from_numpy(theirs.as_quat(canonical=True).copy()).roll(1, 1)  # theirs have the real part last
    torch.testing.assert_close(where.quaternion(x), quaternion, atol=1e-9, rtol=0)
