"""Score samples: every metric, with the count, the floor and an interval beside it.

The *floor* is the metric of held-out images in place of the samples: what a perfect model would score at this count,
since most of these metrics are not zero (or one) for finite sets, even of the same law.

The *interval* is a bootstrap without replacement: the metric of random halves of the samples, centred on the value. A
half drawn without replacement varies about the whole as much as the whole varies about the law, and has no
duplicates, which would be their own nearest neighbours; it is centred because a half has another bias. It says how
the value would vary with other samples of the same model (not with another training). Measured on Gaussians its width
is right far from the floor, and up to twice too wide at the floor, where the estimates are far from normal.

References: Shao and Wu 1989, delete-d jackknife; Politis and Romano 1994, subsampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor

from ..errors import UsageProblem
from ..kinds import About, kind_of
from ..rng import stream
from . import measures
from .images import Images, to_uint8
from .measures import Measure, Statistic
from .named import Features
from .named import features as named_features
from .report import Report, Row

MOST_FAKES = 5_000  # of precision, recall, density and coverage, which keep three tables of distances: 600 MB


def interval(
    statistic: Statistic, value: Sequence[float], count: int, *, draws: int, confidence: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The ends (names,) of the interval described above, from `draws` random halves of `count` rows."""
    half = count // 2
    halves = (torch.randperm(count, generator=rng)[:half] for _ in range(draws))
    found = torch.tensor([statistic(rows) for rows in halves], dtype=torch.float64)
    spread = (found - found.mean(0)) * math.sqrt(half / (count - half))
    tails = torch.tensor([(1 - confidence) / 2, (1 + confidence) / 2], dtype=torch.float64)
    low, high = torch.tensor(value, dtype=torch.float64) + spread.quantile(tails, dim=0)
    return low, high


def _rows(
    names: Sequence[str],
    build: Callable[[Tensor], Measure],
    features: str,
    samples: Tensor,
    held_out: Tensor,
    reference: Tensor,
    *,
    draws: int,
    confidence: float,
    rng: torch.Generator,
) -> list[Row]:
    """One row for each of `names`; with a sentence in place of numbers where there are too few images."""
    better = "lower"
    try:
        measure = build(reference)
        better = measure.better
        for kind, side in (("samples", samples), ("held-out images", held_out), ("training images", reference)):
            if len(side) < measure.needs:
                raise UsageProblem(f"too few {kind}: {len(side)} are here, and this needs at least {measure.needs}")
    except UsageProblem as problem:
        return [Row(name, features, better, len(samples), note=str(problem)) for name in names]
    on_samples, notes = measure.on(samples), measure.notes
    value = on_samples(torch.arange(len(samples)))
    floor = measure.on(held_out)(torch.arange(len(held_out)))
    low = high = [None] * len(names)
    if draws and len(samples) >= 2 * measure.needs:
        ends = interval(on_samples, value, len(samples), draws=draws, confidence=confidence, rng=rng)
        least, most = torch.tensor(measure.low).double(), torch.tensor(measure.high).double()
        low, high = (end.clamp(least, most).tolist() for end in ends)
    elif draws:
        notes = [f"{note}; no interval below {2 * measure.needs} samples" for note in notes]
    return [
        Row(name, features, measure.better, len(samples), *_finite(numbers), len(held_out), note)
        for name, numbers, note in zip(names, zip(value, low, high, floor, strict=True), notes, strict=True)
    ]


def _finite(numbers: Iterable[float | None]) -> tuple[float | None, float | None, float | None, float | None]:
    """Value, low, high and floor, with None for what does not exist, such as a ratio to zero: JSON has no NaN."""
    value, low, high, floor = (n if n is not None and math.isfinite(n) else None for n in numbers)
    return value, low, high, floor


def _choose(images: Tensor, count: int | None, generator: torch.Generator) -> Tensor:
    """`count` of the images (all of them by default) in random order: data and samples often come sorted by class."""
    return images[torch.randperm(len(images), generator=generator)[:count]]


def evaluate(
    samples: Images,
    train: Images,
    held_out: Images,
    *,
    features: str | Features | Sequence[str | Features] = "classifier",
    seed: int = 0,
    bootstrap: int = 100,
    confidence: float = 0.9,
    equal_counts: bool = True,
    reference: int | None = 10_000,
    k: int = 5,
    projections: int = 256,
    about: About | None = None,
) -> Report:
    """Every metric of `samples` against `train`, each with its floor from `held_out` and its interval.

    Images are (N, C, H, W), uint8 or floats in [-1, 1], any counts. Frechet, kernel, precision, recall, density and
    coverage look at `features` (one or several, see `unnoise.metrics.named`); sliced Wasserstein looks at them and
    at the pixels; the nearest training neighbour is sought among all of `train`, in pixels.

    seed           chooses subsets, projections and bootstrap halves; the same call gives the same report
    bootstrap      halves drawn for an interval that covers `confidence`; 0 for none
    equal_counts   use only as many samples as there are held-out images, so that value and floor are at one count
    about          of what kind the examples are, as they are stored, where they are no images: all metrics then look at the
                   kind's own vectors (`Kind.numbers`)
    reference      the most training images that the distances between sets use (the nearest neighbour uses all);
                   precision, recall, density and coverage use as many as there are samples, at most 5,000

    Raises UsageProblem for images of another shape or range; a metric that has too few images says so in its row.
    """
    kind = None if about is None or about.kind == "images" else kind_of(about)
    if kind is None:
        samples, train, held_out = (
            to_uint8(x, name) for x, name in ((samples, "samples"), (train, "train"), (held_out, "held_out"))
        )
        pixels = named_features("pixels")
    else:
        samples, train, held_out = (torch.as_tensor(x) for x in (samples, train, held_out))
        pixels = features = Features(kind.looks, lambda x: kind.numbers(torch.as_tensor(x), about))  # type: ignore[arg-type]
    if not samples.shape[1:] == train.shape[1:] == held_out.shape[1:]:
        shapes = ", ".join(f"{tuple(side.shape[1:])}" for side in (samples, train, held_out))
        raise UsageProblem(f"samples, train and held_out must be images of one shape, not {shapes}")
    given, generator = len(samples), stream(seed, 1)
    count = min(given, len(held_out)) if equal_counts else given
    samples, held_out = _choose(samples, count, generator), _choose(held_out, count, generator)
    chosen = _choose(train, reference, generator)

    rows: list[Row] = []

    def add(names: tuple[str, ...], build: Callable[[Tensor], Measure], on: Features, sides: Sequence[Tensor]) -> None:
        bootstrap_stream = stream(seed, 2)
        rows.extend(_rows(names, build, on.name, *sides, draws=bootstrap, confidence=confidence, rng=bootstrap_stream))

    def sliced(x: Tensor) -> Measure:
        return measures.sliced(x, projections, stream(seed, 3))

    asked = [features] if isinstance(features, str | Features) else features
    wanted = [f if isinstance(f, Features) else named_features(f, tuple(train.shape[1:])) for f in asked]
    for space in wanted:
        sides = [space(side) for side in (samples, held_out, chosen)]
        add(("frechet",), measures.frechet, space, sides)
        add(("kernel_cubic",), measures.kernel_cubic, space, sides)
        add(("kernel_rbf",), measures.kernel_rbf, space, sides)
        few = [side[: min(len(chosen), MOST_FAKES)] for side in sides]  # never more fakes than reals
        add(("precision", "recall", "density", "coverage"), lambda x: measures.prdc(x, k), space, few)
        if space.name != pixels.name:
            add(("sliced_wasserstein",), sliced, space, sides)
    sides = [pixels(side) for side in (samples, held_out, chosen)]
    add(("sliced_wasserstein",), sliced, pixels, sides)
    sides[2] = pixels(train) if len(chosen) < len(train) else sides[2]
    neighbours = ("nearest_train_distance", "nearest_train_ratio", "nearest_train_closer")
    add(neighbours, lambda x: measures.nearest(x, sides[1]), pixels, sides)

    notes = []
    if count < given:
        notes.append(
            f"{count:,} of the {given:,} samples were used, as many as there are held-out images, "
            "so that value and floor are at one count"
        )
    elif count > len(held_out):
        notes.append(
            f"the floor is of {len(held_out):,} images, fewer than the samples: "
            "a Frechet or Wasserstein floor is too high"
        )
    return Report(rows, count, len(chosen), seed, bootstrap, confidence, notes)
