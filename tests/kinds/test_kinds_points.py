"""Points as files and pictures: the projection, the outlines of the land, tables that are read again."""

import numpy as np
import pytest
import torch

from unnoise.data import load
from unnoise.errors import Problem
from unnoise.kinds import kind_of
from unnoise.manifolds import manifold
from unnoise.maps import land, mollweide
from unnoise.recipe import Spec
from unnoise.rng import Rng


def spec(name):
    return Spec((manifold(name).ambient,), kind="points", manifold=name)


def test_equal_areas_look_equal():
    """The area of a cell of one degree on the map is that on the sphere: cos lat dlat dlon."""
    lat, lon = np.meshgrid(np.arange(-88, 88, 7.0), np.arange(-179, 180, 13.0))
    step = 1e-4
    x, y = mollweide(lat, lon)
    east, north = mollweide(lat, lon + step), mollweide(lat + step, lon)
    area = (east[0] - x) * (north[1] - y) - (north[0] - x) * (east[1] - y)
    np.testing.assert_allclose(area / np.radians(step) ** 2, np.cos(np.radians(lat + step / 2)), rtol=2e-4)


def test_the_map_ends_where_it_should():
    x, y = mollweide(np.array([90.0, -90, 0, 0]), np.array([50.0, 0, 180, -180]))
    np.testing.assert_allclose(y, [np.sqrt(2), -np.sqrt(2), 0, 0], atol=1e-6)
    np.testing.assert_allclose(x, [0, 0, 2 * np.sqrt(2), -2 * np.sqrt(2)], atol=1e-6)


def test_the_outlines_are_of_the_land():
    lines = land()
    assert len(lines) > 100 and all(line.shape[1] == 2 for line in lines)
    every = np.concatenate(lines)
    assert (np.abs(every) <= [180, 90]).all()
    assert all(np.abs(np.diff(line[:, 0])).max(initial=0) <= 180 for line in lines)  # none goes across the map
    florida = (np.abs(every - [-80.5, 25.5]) < 1).all(1)
    pacific = (np.abs(every - [-140, 0]) < 10).all(1)
    assert florida.any() and not pacific.any()


@pytest.mark.parametrize("name", ["sphere", "torus-2", "so3", "torus-3"])
def test_what_is_saved_is_read_again(name, tmp_path):
    about = spec(name)
    kind = kind_of(about)
    x = kind.finish(manifold(name).uniform(Rng.from_seeds(range(50))), about)
    path = kind.save(x, tmp_path / "samples.csv", about)
    torch.testing.assert_close(kind.read(path, about), x, atol=1e-6, rtol=0)
    if name in ("sphere", "torus-2", "so3"):
        again = load(path)
        assert again.manifold == name and again.facts.train + again.facts.held_out == 50
    picture = kind.sheet(x, tmp_path, about)
    assert picture == tmp_path / "grid.png" and picture.stat().st_size > 3000
    path.write_text("phi,psi\n1,x\n")
    with pytest.raises(Problem, match="is no table of points"):
        kind.read(path, about)
