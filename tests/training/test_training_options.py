"""Options: what is refused, and the learning rate they make."""

import dataclasses
import math

import pytest

from unnoise.errors import UsageProblem
from unnoise.training import TrainingOptions


@pytest.mark.parametrize(
    "field, value, sentence",
    [
        ("steps", 0, "steps must be a whole number, 1 or more, not 0"),
        ("batch_size", 2.5, "batch_size must be a whole number, 1 or more, not 2.5"),
        ("batch_size", True, "batch_size must be a whole number"),
        ("lr", 0.0, "lr must be a positive number, not 0.0"),
        ("lr", math.nan, "lr must be a positive number, not nan"),
        ("minutes", -1, "minutes must be a positive number, or None, not -1"),
        ("clip", math.inf, "clip must be a positive number, or None, not inf"),
        ("betas", (0.9, 1.0), r"betas must be two numbers in \[0, 1\), not \(0.9, 1.0\)"),
        ("betas", 0.9, "betas must be two numbers"),
        ("decay_from", 1.5, "decay_from must be a fraction between 0 and 1, not 1.5"),
        ("ema_power", (0.4,), "ema_power must be numbers between 0 and 0.288"),
        ("weight_decay", "much", "weight_decay must be a number, 0 or more, not 'much'"),
        ("keep", 0, "keep must be a whole number, 1 or more, not 0"),
        ("accumulate", 65, "accumulate 65 is more than batch_size 64"),
        ("precision", "bf15", r"unknown precision 'bf15' \(did you mean 'bf16'\?\); known: auto, bf16, fp16, fp32"),
        ("decay", "cosin", r"unknown decay 'cosin' \(did you mean 'cosine'"),
        ("trackers", ("tensorbord",), r"unknown tracker 'tensorbord' \(did you mean 'tensorboard'"),
    ],
)
def test_a_wrong_option_is_named(field, value, sentence):
    with pytest.raises(UsageProblem, match=f"^{sentence}"):
        TrainingOptions(**{field: value})


def test_defaults_hold():
    assert dataclasses.replace(TrainingOptions(), lr=0.1).lr == 0.1


def test_warm_up_is_linear_and_reaches_the_rate():
    options = TrainingOptions(lr=0.4, warmup=4)
    assert [options.learning_rate(step, 100) for step in range(5)] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])


def test_linear_decay():
    options = TrainingOptions(lr=1.0, decay="linear", decay_from=0.5, decay_to=0.2)
    assert [options.learning_rate(s, 100) for s in (0, 50, 75, 100)] == pytest.approx([1, 1, 0.6, 0.2])


def test_cosine_decay():
    options = TrainingOptions(lr=2.0, decay="cosine", decay_from=0.0)
    for step in range(0, 101, 10):
        assert options.learning_rate(step, 100) == pytest.approx(2 * math.cos(math.pi * step / 200) ** 2, abs=1e-12)


def test_decay_waits_until_the_length_is_known():
    assert TrainingOptions(lr=1.0, decay="linear", decay_from=0.0).learning_rate(5, None) == 1.0
