"""Charts: every table of numbers and the points it tells, both ways; rotations as data."""

import math

import pytest
import torch

from unnoise.data import load
from unnoise.data.charts import CHARTS, charts
from unnoise.errors import Problem
from unnoise.kinds import kind_of
from unnoise.manifolds import Rotations, manifold
from unnoise.oracles.curved import wrapped_normals
from unnoise.recipe import Spec
from unnoise.rng import Rng


@pytest.mark.parametrize("chart", CHARTS, ids=lambda c: ", ".join(c.names))
def test_points_come_back(chart):
    where = manifold(chart.manifold)
    x = where.uniform(Rng.from_seeds(range(200)))
    table = chart.table(x)
    assert table.shape == (200, len(chart.names)) and (table.abs() <= torch.tensor(chart.limits)).all()
    back = chart.points(table)
    assert back.dtype == torch.float32
    torch.testing.assert_close(back.double(), x, atol=1e-6, rtol=0)


def test_a_manifold_has_the_chart_it_is_written_in_first():
    assert [c.names[0] for c in charts("so3")] == ["w", "roll"] and charts("sphere-3") == [] == charts(None)


def written(path, header, rows):
    path.write_text("\n".join([header, *(",".join(f"{v:.9g}" for v in row) for row in rows.tolist())]))
    return path


def test_rotations_are_read_by_either_name(tmp_path):
    x = Rotations().uniform(Rng.from_seeds(range(60)))
    first, second = charts("so3")
    tables = [
        written(tmp_path / "a.csv", "w,x,y,z", first.table(x)),
        written(tmp_path / "b.csv", "qx,qy,qz,qw", -first.table(x).roll(-1, 1)),  # -q turns as q does
        written(tmp_path / "c.csv", "id,yaw,pitch,roll", torch.cat([x[:, :1], second.table(x).flip(1)], 1)),
    ]
    found = [load(table, "train") for table in tables]
    for data in found:
        assert data.manifold == "so3" and data.shape == (9,)
        torch.testing.assert_close(
            data.batch(range(len(data))).x, found[0].batch(range(len(found[0]))).x, atol=1e-6, rtol=0
        )


def test_what_is_no_rotation_is_told_in_a_sentence(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("w,x,y,z\n1,0,0,0\n0.5,0.1,0,0\n")
    with pytest.raises(Problem, match=r"line 3 of .* has w, x, y, z of length 0\.509902, but a rotation's quaternion"):
        load(path, "train")
    path.write_text("w,x,y,z\n1,0,0,0\n7,0,0,0\n")
    with pytest.raises(Problem, match=r"a w of 7, beyond 1\.01; mend it"):
        load(path, "train")


def test_built_in_rotations_follow_the_law_they_are_said_to(tmp_path):
    law, data = wrapped_normals(), load("rotations", "held-out")
    assert len(data) == data.facts.held_out and len(load("rotations")) == load("rotations").facts.train
    x = data.batch(range(2000)).x
    near = torch.stack([law.manifold.distance(c.expand(len(x), -1), x.double()) for c in law.centres]).min(0).values
    # a normal vector of three numbers is as long as the deviation times the mean of a chi of three degrees
    assert float(near.mean()) == pytest.approx(float(law.deviations.mean()) * math.sqrt(8 / math.pi), rel=0.03)
    about = Spec((9,), kind="points", manifold="so3")
    path = kind_of(about).save(x[:50], tmp_path / "samples.csv", about)
    assert path.read_text().startswith("w,x,y,z\n") and load(path, "train").manifold == "so3"
    torch.testing.assert_close(kind_of(about).read(path, about), x[:50], atol=1e-6, rtol=0)
