"""The README says what the results say, and its Python runs."""

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text("utf-8")


def test_tables_are_those_of_the_results():
    assert runpy.run_path(str(ROOT / "scripts" / "update_readme.py"))["updated"](README) == README


def test_files_it_points_to_exist():
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_example_of_parts_runs(tmp_path, monkeypatch):
    block = [b for b in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "Mixture" in b]
    scope: dict = {}
    exec(block[0], scope)
    assert scope["x"].shape == (1000, 2)
    nearest = (scope["x"][:, None] - scope["data"].means).norm(dim=-1).min(1).values
    assert nearest.mean() == pytest.approx(0.1 * (3.14159 / 2) ** 0.5, rel=0.35)  # components of deviation 0.1
