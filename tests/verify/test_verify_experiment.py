"""A result is kept for an experiment until its code changes, that of its helpers and constants included."""

import importlib.util
import json
from dataclasses import replace
from itertools import count

import pytest

from unnoise.papers import find
from unnoise.verify import Claim, Finding
from unnoise.verify.experiment import fingerprint
from unnoise.verify.lab import Lab
from unnoise.verify.report import verify

SOURCE = '''
COUNT = 200
UNUSED = 1


def stated(text):
    return lambda f: f


def unused():
    return 2


def helper(lab):
    """How many."""
    return COUNT * lab


@stated("better")
def better(lab):
    # what is measured
    return [helper(lab) for _ in range(2)]
'''


@pytest.fixture
def version(tmp_path):
    """version(old, new) -> the fingerprint of `better` in the file above with these words changed."""
    number = count()

    def of(old="", new="", conditions=((0, 1),)):
        assert old in SOURCE
        path = tmp_path / f"experiment_{next(number)}.py"
        path.write_text(SOURCE.replace(old, new) if old else SOURCE)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return fingerprint(module.better, *conditions)

    return of


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"better"', '"better than before"'),
        ("# what is measured", "# the measure"),
        ("How many.", "Another sentence."),
        ("[helper(lab) for", "[\n        helper(lab) for"),
        ("UNUSED = 1", "UNUSED = 2"),
        ("return 2", "return 3"),
    ],
)
def test_words_and_what_is_not_used_do_not_count(version, old, new):
    assert version(old, new) == version()


@pytest.mark.parametrize(
    ("old", "new"), [("range(2)", "range(3)"), ("COUNT = 200", "COUNT = 400"), ("COUNT * lab", "COUNT + lab")]
)
def test_code_helpers_and_constants_count(version, old, new):
    assert version(old, new) != version()


def test_conditions_count(version):
    assert version(conditions=((0, 1),)) != version(conditions=((0, 2),))


def test_a_kept_result_is_told_in_the_words_of_today(tmp_path, monkeypatch):
    ddpm, info, measured = find("ddpm"), find("ddpm").info, []

    def better(lab):
        measured.append(lab)
        return Finding.over_seeds([0.5, 0.25], {})

    def told(statement, source):
        claims = [Claim("better", statement, source, better)]
        monkeypatch.setattr(ddpm, "info", replace(info, claims=claims, checks=[]))
        lab = Lab(tmp_path, (0, 1), say=lambda text: None)
        return verify("ddpm", lab, results=None, say=lambda text: None)["claims"]

    (before,), (after,) = told("a is better", "table 2"), told("a beats b", "table 1")
    assert len(measured) == 1
    assert (after["statement"], after["source"]) == ("a beats b", "table 1")
    same = before.keys() - {"statement", "source"}
    assert {k: after[k] for k in same} == json.loads(json.dumps({k: before[k] for k in same}))
