"""What is shipped is what the script made, and the script makes it again."""

import importlib.util
import json
import os
from pathlib import Path

import numpy as np
import pytest

from unnoise.data.builtin import SHIPPED, atlas
from unnoise.errors import Problem

SCRIPT = Path(__file__).parents[2] / "scripts" / "prepare_data.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("prepare_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shipped_files_are_those_of_the_manifest(script):
    manifest = json.loads((SHIPPED / "manifest.json").read_text())
    made = {
        p.relative_to(SHIPPED).as_posix() for p in SHIPPED.rglob("*.*") if p.suffix in (".png", ".json", ".bz2", ".npz")
    }
    assert made == {*manifest, "manifest.json"}
    for name, hashes in manifest.items():
        file = (SHIPPED / name).read_bytes()
        assert script.hashlib.sha256(file).hexdigest() == hashes["sha256"], name
        assert script.content(name, file) == hashes["content"], name


def test_a_sheet_is_read_back_tile_by_tile(script, tmp_path):
    for shape in ((7, 4, 5), (7, 4, 5, 3)):
        tiles = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        (tmp_path / "a.png").write_bytes(script.sheet(tiles, columns=3, blank=0))
        back = atlas(tmp_path / "a.png", 7, 4, 5).permute(0, 2, 3, 1).numpy()
        assert np.array_equal(back.reshape(shape), tiles)


def test_a_wrong_archive_is_refused(script, tmp_path):
    (tmp_path / "emojibase-data-17.0.0.tgz").write_bytes(b"something else")
    with pytest.raises(Problem, match="not the expected file"):
        script.archive(script.TEXT, tmp_path, tmp_path)


def test_the_script_makes_the_same_again(script, tmp_path):
    """Runs where UNNOISE_PACKAGES names a folder with the archives; about 15 seconds."""
    packages = os.environ.get("UNNOISE_PACKAGES")
    if not packages:
        pytest.skip("set UNNOISE_PACKAGES to a folder that holds the downloaded packages")
    manifest = script.prepare(tmp_path, Path(packages))
    shipped = json.loads((SHIPPED / "manifest.json").read_text())
    assert {n: h["content"] for n, h in manifest.items()} == {n: h["content"] for n, h in shipped.items()}
    assert script.prepare(tmp_path / "again", Path(packages)) == manifest  # and to the last bit here
    assert all((tmp_path / n).read_bytes() == (tmp_path / "again" / n).read_bytes() for n in manifest)
