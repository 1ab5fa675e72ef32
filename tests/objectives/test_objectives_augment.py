"""EDM's augmentation: what the network is told is what was done, and nothing is done when nothing is told."""

import pytest
import torch

from unnoise.objectives import Augmented, Loss, Objective
from unnoise.rng import Rng


class Look(Objective):
    """Keeps what it is given."""

    def forward(self, denoiser, x0, cond, rng, turn="denoiser"):
        self.x0, self.cond = x0, cond
        return Loss(torch.zeros(len(x0)))


def bend(x, probability, seeds=400):
    look = Look()
    Augmented(look, probability)(
        None, x.expand(seeds, *x.shape), {"label": torch.zeros(seeds)}, Rng.from_seeds(range(seeds))
    )
    return look


def test_only_mirrors_at_probability_zero():
    x = torch.rand(1, 8, 8)
    look = bend(x, 0.0)
    told = look.cond["augment"]
    mirrored = told[:, 0] == 1
    assert set(look.cond) == {"label", "augment"} and told.shape == (400, 9) and not told[:, 1:].any()
    assert 0.4 < mirrored.float().mean() < 0.6
    assert torch.equal(look.x0[~mirrored], x.expand_as(look.x0[~mirrored]))
    torch.testing.assert_close(look.x0[mirrored], x.flip(-1).expand_as(look.x0[mirrored]), atol=1e-5, rtol=0)


def test_area_grows_by_the_scale_that_is_told():
    matrix, told = Augmented(Look(), 1.0).draw(Rng.from_seeds(range(1000)))
    mirror = (1 - 2 * told[:, 0]) * (1 - 2 * told[:, 1])
    torch.testing.assert_close(torch.linalg.det(matrix), mirror * torch.exp2(-2 * told[:, 2]))
    assert told[:, 2].std() == pytest.approx(0.2, rel=0.1)
    torch.testing.assert_close((told[:, 3] + 1) ** 2 + told[:, 4] ** 2, torch.ones(1000, dtype=torch.float64))
    assert told[:, 7:].std() == pytest.approx(0.125, rel=0.1)


def test_a_ramp_is_bent_by_the_matrix():
    """A linear image stays linear, f(M p), wherever M p is inside: the resampling follows the matrix."""
    side = torch.linspace(-1 + 1 / 16, 1 - 1 / 16, 16)
    y, x = torch.meshgrid(side, side, indexing="ij")
    look = bend((2 * x - 3 * y)[None], 1.0, 50)
    matrix, _ = Augmented(Look(), 1.0).draw(Rng.from_seeds(range(50)))
    places = torch.stack([x, y, torch.ones_like(x)], -1).double()
    source = torch.einsum("bij,hwj->bhwi", matrix, places)
    inside = (source[..., :2].abs() < 1 - 1 / 16).all(-1)
    expected = 2 * source[..., 0] - 3 * source[..., 1]
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(look.x0[:, 0].double()[inside], expected[inside], atol=2e-4, rtol=0)


def test_each_kind_comes_as_often_as_asked():
    _, told = Augmented(Look(), 0.25).draw(Rng.from_seeds(range(4000)))
    for column in (2, 4, 7):
        assert (told[:, column] != 0).double().mean() == pytest.approx(0.25, abs=0.03)
