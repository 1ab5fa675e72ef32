"""The report: numbers equal those of the plain functions, floors and intervals mean what they say, any count works."""

import io
import json
import math
from dataclasses import asdict, astuple

import numpy as np
import pytest
import torch
from rich.console import Console

from unnoise.errors import UsageProblem
from unnoise.metrics import (
    RBF,
    evaluate,
    features,
    frechet_distance,
    kernel_distance,
    median_bandwidth,
    memorisation,
    precision_recall_density_coverage,
    sliced_wasserstein,
)
from unnoise.metrics.evaluation import interval
from unnoise.metrics.measures import frechet, kernel_cubic, prdc, sliced
from unnoise.rng import stream


def blobs(n, seed, shift=0.0):
    """Small smooth pictures: a random brightness and a random gradient each."""
    g = stream(seed)
    a, b, noise = torch.randn(n, 1, 1, 1, generator=g), torch.randn(n, 1, 1, 1, generator=g), 0.1
    ramp = torch.linspace(-1, 1, 4)
    return (0.2 * a + 0.2 * b * ramp + noise * torch.randn(n, 1, 4, 4, generator=g) + shift).clamp(-1, 1)


TRAIN, HELD_OUT = blobs(400, 0), blobs(150, 1)


def test_numbers_are_those_of_the_plain_functions():
    samples = blobs(150, 2, shift=0.1)
    report = evaluate(samples, TRAIN, HELD_OUT, features="pixels", bootstrap=0)
    x, train, fresh = (features("pixels")(side) for side in (samples, TRAIN, HELD_OUT))
    assert report["frechet[pixels]"].value == pytest.approx(frechet_distance(x, train), rel=1e-9)
    assert report["frechet"].floor == pytest.approx(frechet_distance(fresh, train), rel=1e-9)
    assert report["kernel_cubic"].value == pytest.approx(kernel_distance(x, train), rel=1e-9)
    h = report["kernel_rbf"].value
    assert h == pytest.approx(kernel_distance(x, train, RBF(median_bandwidth(train, 400))), rel=1e-9)
    assert report["sliced_wasserstein"].value == pytest.approx(sliced_wasserstein(x, train, seed=0), rel=0.05)
    summary = memorisation(x, train, fresh)
    assert report["nearest_train_ratio"].value == pytest.approx(summary.ratio)
    assert report["nearest_train_closer"].value == pytest.approx(summary.closer)
    assert (report["nearest_train_ratio"].floor, report["nearest_train_ratio"].low) == (1, None)


def test_equal_counts_of_reals_and_fakes_in_precision_and_its_kin():
    x, y = torch.randn(60, 3, generator=stream(1)).double(), torch.randn(200, 3, generator=stream(2)).double()
    found = prdc(y, 5).on(x)(torch.arange(60))
    assert found == astuple(precision_recall_density_coverage(y[:60], x, 5))
    report = evaluate(blobs(50, 7), TRAIN, HELD_OUT, features="pixels", bootstrap=5, reference=30)
    assert (report["precision"].count, report["coverage"].floor_count, report["frechet"].count) == (30, 30, 50)


def test_each_measure_of_a_subset_is_the_plain_function_of_the_subset():
    x, y = torch.randn(60, 3, generator=stream(3)).double(), torch.randn(90, 3, generator=stream(4)).double()
    rows = torch.randperm(60, generator=stream(5))[:25]
    assert frechet(y).on(x)(rows)[0] == pytest.approx(frechet_distance(x[rows], y), rel=1e-10)
    assert kernel_cubic(y).on(x)(rows)[0] == pytest.approx(kernel_distance(x[rows], y), rel=1e-9)
    assert sliced(y, 32, stream(6)).on(x)(rows)[0] == pytest.approx(
        sliced_wasserstein(x[rows], y, 32, seed=6), rel=1e-10
    )
    expected = asdict(precision_recall_density_coverage(y[rows], x[rows], 3))
    assert prdc(y[:60], 3).on(x)(rows) == pytest.approx(tuple(expected.values()))


def test_samples_as_good_as_data_score_the_floor_and_others_do_not():
    good, shifted = blobs(150, 3), blobs(150, 3, shift=0.3)
    grainy = good + 0.4 * torch.randn(good.shape, generator=stream(8))
    good, shifted, grainy = (
        evaluate(x, TRAIN, HELD_OUT, features="pixels", bootstrap=50) for x in (good, shifted, grainy)
    )
    for name in ("frechet", "kernel_cubic", "kernel_rbf", "sliced_wasserstein"):
        assert good[name].low <= good[name].floor <= good[name].high
        assert shifted[name].low > shifted[name].floor and shifted[name].low > good[name].high
    assert grainy["frechet"].low > good["frechet"].high
    for name in ("precision", "density"):
        assert grainy[name].high < good[name].low


def test_copies_are_found():
    report = evaluate(TRAIN[:100], TRAIN, HELD_OUT, features="pixels", bootstrap=20, reference=50)
    assert report["nearest_train_ratio"].value == 0 and report["nearest_train_closer"].value == 1


@pytest.mark.parametrize("law", ["far", "near"])
def test_the_interval_is_as_wide_as_the_metric_varies(law):
    """Over repeated samples, the half-sample deviation must be that of the metric itself."""
    rng, shift, n = np.random.default_rng(0), {"far": 1.0, "near": 0.15}[law], 200
    reference = torch.tensor(rng.normal(size=(2000, 4)))
    scale = torch.tensor([1.0, 1.5, 0.5, 1.0], dtype=torch.float64)
    measure, values, widths = frechet(reference), [], []
    for i in range(150):
        statistic = measure.on(scale * torch.tensor(rng.normal(size=(n, 4))) + shift)
        value = statistic(torch.arange(n))
        values.append(value[0])
        if i < 20:
            low, high = interval(statistic, value, n, draws=100, confidence=0.9, rng=stream(i))
            widths.append((high - low).item())
    expected = np.quantile(values, 0.95) - np.quantile(values, 0.05)
    assert np.mean(widths) == pytest.approx(expected, rel=0.25)


def test_an_interval_of_a_mean_is_the_textbook_one():
    """For a mean, half-sampling has exactly the variance of the mean; odd counts too."""
    x = torch.randn(101, generator=stream(9), dtype=torch.float64)
    mean = x.mean().item()
    low, high = interval(lambda r: (x[r].mean().item(),), (mean,), 101, draws=8000, confidence=0.9, rng=stream(1))
    half = 1.6449 * x.std().item() / math.sqrt(101)
    assert (low.item(), high.item()) == pytest.approx((mean - half, mean + half), abs=0.06 * half)


def test_the_same_call_gives_the_same_report():
    first, again, other = (
        evaluate(blobs(60, 5), TRAIN, HELD_OUT, features="pixels", seed=s, bootstrap=10).as_dict() for s in (1, 1, 2)
    )
    assert first == again != other


@pytest.mark.parametrize("count", [1, 2, 3, 5, 6, 12, 16, 17, 34])
def test_any_count(count):
    report = evaluate(blobs(count, 6), TRAIN, HELD_OUT, features="pixels", bootstrap=5)
    json.dumps(report.as_dict(), allow_nan=False)
    row = report["frechet"]
    if count < 17:
        assert row.value is None and f"too few samples: {count} are here, and this needs at least 17" in row.note
    else:
        assert row.value is not None and (row.low is None) == (count < 34)
    assert (report["precision"].value is None) == (count < 6) and report["precision"].better == "higher"
    assert report["nearest_train_ratio"].value > 0


def test_few_training_or_held_out_images():
    report = evaluate(blobs(50, 7), TRAIN[:10], HELD_OUT, features="pixels", bootstrap=5)
    assert "too few training images: 10" in report["frechet"].note
    report = evaluate(blobs(50, 7), TRAIN, HELD_OUT[:4], features="pixels", bootstrap=5)
    assert report.count == 4 and "4 of the 50 samples were used" in report.notes[0]
    report = evaluate(blobs(50, 7), TRAIN, HELD_OUT[:20], features="pixels", bootstrap=5, equal_counts=False)
    row = report["frechet"]
    assert (row.count, row.floor_count) == (50, 20) and "too high" in report.notes[0]
    same = torch.zeros(20, 1, 4, 4)
    report = evaluate(same, same, same, features="pixels", bootstrap=5)
    assert report["frechet"].value == 0 and "two examples that differ" in report["kernel_rbf"].note
    json.dumps(report.as_dict(), allow_nan=False)


def test_names_say_which_features_and_the_table_shows_them():
    samples = torch.randint(256, (80, 1, 8, 8), generator=stream(0), dtype=torch.uint8)
    report = evaluate(samples, samples, samples, features=["classifier", "pixels"], bootstrap=3)
    names = [row.name for row in report.rows]
    assert len(set(names)) == len(names) and all("[" in name for name in names)
    assert {"frechet[classifier:digits]", "frechet[pixels]", "sliced_wasserstein[pixels]"} <= set(names)
    with pytest.raises(KeyError, match="names 2 rows"):
        report["frechet"]
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(report.table())
    text = console.export_text()
    assert "on classifier:digits" in text and "90% interval" in text and "floor" in text and "80 samples" in text


def test_images_of_different_shapes():
    with pytest.raises(UsageProblem, match="one shape"):
        evaluate(blobs(5, 0), torch.zeros(5, 3, 4, 4), HELD_OUT)
