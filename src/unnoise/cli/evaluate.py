"""`unnoise eval RUN | FOLDER | FILE.npz`: numbers, each with its floor, its count and its interval."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import Positional, arg

from ..errors import UsageProblem
from .parse import parse
from .sample import SamplingForm, gathered, prepare, sample_to
from .show import print_json


@dataclass(frozen=True)
class Eval:
    """Score samples against training and held-out images: distances, precision and recall, memorisation.

    Of a run, samples are drawn first (and kept: another eval uses them again) and RUN/eval.json is written. The floor is
    what held-out images score in the place of samples: what a perfect model would.
    """

    what: Annotated[Positional[Path], arg(metavar="RUN|FOLDER|NPZ")]
    """A run, a folder of images, or an .npz file of uint8 images."""
    data: str | None = None
    """The data set to compare with; a run knows its own."""
    count: int = 2000
    """Samples to draw, or to read."""
    seed: int = 0
    """Seed of the first sample; also chooses subsets and projections."""
    features: tuple[str, ...] = ()
    """What distances look at: classifier:NAME, pixels, inception, package.module:function; several are allowed. The
    classifier of the data set if left out, pixels where it has none."""
    bootstrap: int = 100
    """Random halves for an interval; 0 for none."""
    reference: int = 10_000
    """Most training images that distances between sets use."""
    unequal: bool = False
    """Use all samples, even if there are more than held-out images."""
    json: bool = False
    """Print JSON for machines."""
    how: Annotated[SamplingForm, arg(name="")] = field(default_factory=SamplingForm)


def run(argv: list[str]) -> None:
    form = parse(Eval, gathered(argv), "eval")
    if form.count < 2 or form.bootstrap < 0 or form.reference < 2:
        raise UsageProblem("--count and --reference must be 2 or more, --bootstrap 0 or more")
    from ..crew import crew

    is_run = (form.what / "run.json").exists()
    images, about, name, fingerprint, spec = _of_run(form) if is_run else _of_files(form)
    if not crew().is_main_process:
        return
    report = score(images, name, form.features, fingerprint=fingerprint, seed=form.seed, bootstrap=form.bootstrap,
                   reference=form.reference, equal_counts=not form.unequal, spec=spec)  # fmt: skip
    result = {"what": str(form.what), "data": name, **about, **report.as_dict()}
    if is_run:
        write_result(form.what / "eval.json", result)
    if form.json:
        print_json(result)
        return
    from rich.console import Console

    Console().print(report.table())
    if is_run:
        print(f"written to {form.what / 'eval.json'}")


def _of_run(form: Eval) -> tuple[Any, dict[str, Any], str, str | None, Any]:
    """Samples of a run as they are stored, what they are, its data, the fingerprint of those, and their spec."""
    from ..data.stored import read_shards
    from ..kinds import kind_of
    from ..training import Run

    model, sampling, label, precision = prepare(form.what, form.how)
    folder = sample_to(model, None, form.count, form.seed, sampling, label, precision, "npz", form.how).parent
    recorded = Run.open(form.what).config["data"]
    about = {"run": model.source, "sampling": sampling.describe(), "label": label, "samples": str(folder)}
    known = recorded["fingerprint"] if form.data is None else None
    samples = read_shards(folder, kind_of(model.spec).array, form.count)
    return samples, about, form.data or model.recipe.data, known, model.spec


def _of_files(form: Eval) -> tuple[Any, dict[str, Any], str, str | None, Any]:
    from ..data.stored import read_images

    if form.data is None and (form.what.is_dir() or form.what.is_file()):
        raise UsageProblem(f"{form.what} is not a run, so say what to compare it with: --data NAME or FOLDER")
    for name, default in vars(SamplingForm()).items():
        if form.what.exists() and getattr(form.how, name) != default:
            option = name.replace("_", "-")
            raise UsageProblem(
                f"--{option} is for samples of a run, and {form.what} holds images already; leave it out"
            )
    return read_images(form.what, form.count), {}, str(form.data), None, None


def score(
    images: Any, name: str, features: tuple[str, ...] = (), fingerprint: str | None = None, spec: Any = None, **how: Any
) -> Any:
    """The report of uint8 images (count, channel, height, width) against a data set, brought to their size; with a `spec`, of
    samples of its kind, as they are stored."""
    from ..data import load, load_like
    from ..metrics import evaluate

    if spec is not None and spec.kind != "images":
        train, held_out = (load_like(name, spec, split) for split in ("train", "held-out"))
        if features:
            raise UsageProblem(f"--features is for images, and this model makes {spec.kind}; leave it out")
        how["about"] = spec
    else:
        channels, height, width = images.shape[1:]
        train, held_out = (
            load(name, split, size=(height, width), channels=channels) for split in ("train", "held-out")
        )
        how["features"] = list(features) or default_features(train.name, images)
    print(f"scoring {len(images):,} {train.kind} against {train.name}", file=sys.stderr, flush=True)
    report = evaluate(images, _some(train), _some(held_out), **how)
    if fingerprint is not None and fingerprint != train.fingerprint:
        report.notes.append(f"{train.name} has changed since this run was trained on it")
    return report


def default_features(data: str, images: Any) -> str:
    """The classifier that was trained on this data set, if it takes such images; else pixels."""
    from ..metrics import shipped

    for name, card in shipped().items():
        if data in (name, *card["data"]) and tuple(card["image_shape"]) == tuple(images.shape[1:]):
            return f"classifier:{name}"
    return "pixels"


def _some(data: Any, most: int = 50_000) -> Any:
    """All rows, or `most` of them at random: folders and hub sets may be larger than memory."""
    import torch

    from ..data import to_uint8
    from ..rng import stream

    if len(data) <= most and data.kind == "images":
        return data.images()
    rows = torch.arange(len(data)) if len(data) <= most else torch.randperm(len(data), generator=stream(0))[:most]
    found = data.pixels.take(rows)
    return to_uint8(found, data.levels) if data.kind == "images" else found


def write_result(path: Path, result: dict[str, Any]) -> None:
    """JSON with where it comes from, whole or not at all."""
    from ..disk import write_json
    from ..training import provenance

    write_json(path, {**result, **provenance()})
