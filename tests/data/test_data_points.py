"""Tables of places and angles: what is read, what is refused, what is built in."""

import math

import numpy as np
import pytest
import torch

from unnoise.data import load, points
from unnoise.data.charts import charts
from unnoise.errors import Problem, UsageProblem


def table(tmp_path, text, name="places.csv"):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


ROWS = [(35.8142, 5.23026), (-18.7111, -45.3489), (10.0207, 122.974), (90.0, 200.0)]


@pytest.mark.parametrize(
    "text",
    [
        "# where they were\n" + "\n".join(f"{a},{b}" for a, b in ROWS),
        "lat,long\n" + "\n".join(f"{a},{b}" for a, b in ROWS),
        '"Longitude";"name";"Latitude"\n' + "\n".join(f'{b};"x";{a}' for a, b in ROWS),
        "\ufeffid\tlng\tlatitude\n\n" + "\n".join(f"7\t{b}\t{a}" for a, b in ROWS) + "\n# the end\n",
        "\n".join(f"  {a:e}   {b:e}" for a, b in ROWS),
    ],
)
def test_every_way_to_write_a_table_gives_the_same_points(tmp_path, text):
    path = table(tmp_path, text)
    data = {split: load(path, split) for split in ("train", "held-out")}
    found = torch.cat([d.batch(range(len(d))).x for d in data.values()])
    assert len(found) == 4 and data["train"].shape == (3,) and data["train"].kind == "points"
    assert data["train"].manifold == "sphere" and data["train"].facts.held_out == len(data["held-out"])
    back = charts("sphere")[0].table(found)
    expected = {(round(a, 3), round((b + 180) % 360 - 180, 3) if a < 90 else 0.0) for a, b in ROWS}
    assert {(round(a, 3), round(b, 3) if a < 89.99 else 0.0) for a, b in back.tolist()} == expected


def test_a_place_is_where_it_should_be():
    poles = charts("sphere")[0].points(torch.tensor([[90.0, 12.0], [0.0, 0.0], [0.0, 90.0]]))
    torch.testing.assert_close(poles, torch.tensor([[0.0, 0, 1], [1, 0, 0], [0, 1, 0]]), atol=1e-6, rtol=0)
    angles = charts("torus-2")[0].points(torch.tensor([[60.0, -90.0]]))
    torch.testing.assert_close(angles, torch.tensor([[0.5, math.sqrt(3) / 2, 0, -1]]), atol=1e-6, rtol=0)


def test_angles_are_read_by_their_names(tmp_path):
    data = load(table(tmp_path, "psi,phi\n" + "\n".join(f"{i},{-i}" for i in range(10, 30))), "train")
    assert data.manifold == "torus-2" and data.shape == (4,)
    phi, psi = charts("torus-2")[0].table(data.batch(range(len(data))).x).unbind(1)
    torch.testing.assert_close(phi, -psi)
    assert phi.max() < 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no row"),
        ("# nothing\n", "holds no row"),
        ("lat,lon\n", "a header and no row"),
        ("lat,lon\n1,2\n3,x\n4,5", "line 3 of .* has 'x' for its longitude"),
        ("lat,lon\n1,2\n3\n4,5", "line 3 of .* has '' for its longitude"),
        ("lat,lon\n1,2\nnan,3", "line 3 .* beyond 90"),
        ("1,2\n100,3", "line 2 .* latitude of 100, beyond 90 degrees"),
        ("a,b\n1,2", "has the columns a, b, but one latitude and one longitude"),
        ("lat,latitude,lon\n1,2,3", "has the columns lat, latitude, lon"),
        ("1,2", "holds one row"),
    ],
)
def test_what_is_no_table_is_told_in_a_sentence(tmp_path, text, words):
    with pytest.raises(Problem, match=words) as caught:
        load(table(tmp_path, text), "train")
    assert "\n" not in str(caught.value) and "places.csv" in str(caught.value)


def test_other_files_and_options_are_refused(tmp_path):
    (tmp_path / "bytes.csv").write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(Problem, match="no text in UTF-8"):
        load(tmp_path / "bytes.csv")
    with pytest.raises(UsageProblem, match="have no size"):
        load("airports", size=3)
    with pytest.raises(UsageProblem, match="--channels is for images"):
        load("torsions", channels=3)
    with pytest.raises(Problem, match="cannot be read"):
        points.load(tmp_path / "none.csv", "train")


def test_a_changed_table_is_read_again_and_has_another_fingerprint(tmp_path):
    path = table(tmp_path, "lat,lon\n" + "\n".join(f"{i},{i}" for i in range(40)))
    before = load(path)
    table(tmp_path, "lat,lon\n" + "\n".join(f"{i},{-i}" for i in range(41)))
    assert load(path).fingerprint != before.fingerprint and len(load(path)) != len(before)


def test_the_splits_share_no_row_and_do_not_depend_on_its_content(tmp_path):
    text = "lat,lon\n" + "\n".join(f"{i % 7},{i % 5}" for i in range(1000))  # places that come again
    train, held = (load(table(tmp_path, text), split) for split in ("train", "held-out"))
    assert len(train) + len(held) == 1000 and 150 < len(held) < 250
    seen = {tuple(row) for row in train.batch(range(len(train))).x.tolist()}
    assert all(tuple(row) in seen for row in held.batch(range(len(held))).x.tolist())


@pytest.mark.parametrize("name", points.BUILT_IN)
def test_built_in_points_lie_on_their_manifold(name):
    from unnoise.manifolds import manifold

    for split in ("train", "held-out"):
        data = load(name, split)
        x = data.batch(range(len(data))).x
        where = manifold(data.manifold)
        assert (where.project(x) - x).abs().max() < 1e-6 and data.shape == (where.ambient,)


def test_the_airports_are_on_land_mostly_and_in_america_often():
    data = load("airports")
    lat, lon = charts("sphere")[0].table(data.batch(range(len(data))).x).unbind(1)
    usa = (lat > 25) & (lat < 50) & (lon > -125) & (lon < -66)
    assert 0.3 < usa.double().mean() < 0.7
    antarctic = lat < -60
    assert antarctic.double().mean() < 0.005


def test_the_torsions_show_helices_and_sheets():
    data = load("torsions")
    phi, psi = charts("torus-2")[0].table(data.batch(range(len(data))).x).unbind(1)
    helix = ((phi + 63).abs() < 30) & ((psi + 43).abs() < 30)
    sheet = ((phi + 120).abs() < 50) & ((psi - 135).abs() < 40)
    forbidden = ((phi - 60).abs() < 30) & ((psi + 60).abs() < 30)
    assert helix.double().mean() > 0.3 and sheet.double().mean() > 0.2
    assert float(forbidden.double().mean()) < 0.01
    assert np.isclose(float((phi < 0).double().mean()), 0.93, atol=0.05)
