"""`unnoise demo`: the main job, from real images to scored samples, in six minutes on two cores."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import UsageProblem
from .evaluate import score, write_result
from .parse import parse
from .sample import SamplingForm, sample_to
from .show import clock, print_table
from .train import next_number

SHOWN = {
    "frechet": "Frechet distance",
    "precision": "precision (do they look real)",
    "recall": "recall (is all of the data there)",
    "nearest_train_ratio": "distance to nearest training image (1 = as new images)",
}
SCORING = 15  # seconds, about
PER_CLASS = 10


@dataclass(frozen=True)
class Demo:
    """Train a small class-conditional EDM on Fashion-MNIST, sample from it, score the samples, and show the pictures.

    Each demo has its own folder, runs/demo-1, runs/demo-2, ...; one that was interrupted goes on.
    """

    minutes: float = 6.0
    """For everything; three quarters of it for training."""
    count: int = 1000
    """Samples to score; fewer, but never less than 200, where the machine is too slow for the minutes."""
    data: str = "fashion-mnist"
    """Another data set with classes."""
    runs: Path = Path("runs")
    """Where the folders of demos are."""


def run(argv: list[str]) -> None:
    form = parse(Demo, argv, "demo")
    if not 0 < form.minutes < float("inf") or form.count < 200:
        raise UsageProblem("--minutes must be a positive number, and --count 200 or more")
    start = time.monotonic()
    from ..data import load
    from ..model import Model, train_model
    from ..papers import find

    data, recipe = load(form.data), find("edm").laptop()
    if data.classes is None:
        raise UsageProblem(f"the demo shows a row for each class, and {form.data} has none; choose another --data")
    training = replace(recipe.training, minutes=0.75 * form.minutes, checkpoint_every=200, preview_every=200)
    out = _folder(form.runs, form.data)
    print(
        f"EDM learns {data.name} ({len(data):,} images, {len(data.classes)} classes) in {0.75 * form.minutes:.3g} minutes"
    )
    print(f"watch {out / 'pictures'}", flush=True)
    _, result = train_model(replace(recipe, data=form.data, training=training), data, out)
    print(f"{result.steps:,} steps, {result.images:,} images, in {clock(result.seconds)}", flush=True)

    model = Model.load(out)
    rate = _sheet(model, out / "samples.png")
    print(f"samples, a row for each class: {', '.join(data.classes)}\n  {out / 'samples.png'}", flush=True)
    left = 60 * form.minutes - (time.monotonic() - start) - SCORING
    rows = _score(model, out, form.data, max(200, min(form.count, int(rate * left) // 100 * 100)))

    print()
    print_table(["", "samples", "held out"], rows, right=("samples", "held out"))
    print(f"\ndone in {clock(time.monotonic() - start)}")
    print(f"  samples   {out / 'samples.png'}")
    print(f"  previews  {out / 'pictures'}")
    print(f"  scores    {out / 'eval.json'}")
    print(f"next: unnoise sample {out} --label '{data.classes[-1]}'")


def _folder(runs: Path, data: str) -> Path:
    """The newest demo's, if it has not ended; else a new one."""
    new = next_number(runs, "demo")
    last = runs / f"demo-{int(new.name.rpartition('-')[2]) - 1}"
    if (last / "eval.json").exists() or not (last / "run.json").exists():
        return new
    from ..training import Run

    return last if Run.open(last).config["recipe"]["data"] == data else new


def _sheet(model: Any, path: Path) -> float:
    """Draw ten samples of each class, a row each, with its name; returns images per second."""
    import torch

    from ..data.pictures import grid, save_png
    from ..generate import draw

    classes = model.spec.classes
    sampling, start = model.recipe.sampling(), time.monotonic()
    images = draw(model, range(PER_CLASS * len(classes)), sampling)  # the classes take turns
    rate = len(images) / (time.monotonic() - start)
    by_class = torch.cat([images[i :: len(classes)] for i in range(len(classes))])
    save_png(named_rows(grid(by_class, columns=PER_CLASS), classes), path)
    return rate


def named_rows(sheet: Any, names: tuple[str, ...]) -> Any:
    """The sheet with a name at the left of each row."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(size=16)
    wide = 20 + max(round(font.getlength(name)) for name in names)
    whole = Image.new(sheet.mode, (sheet.width + wide, sheet.height), "white")
    whole.paste(sheet, (wide, 0))
    pen, high = ImageDraw.Draw(whole), (sheet.height - 2) / len(names)
    for i, name in enumerate(names):
        pen.text((wide - 8, 1 + (i + 0.5) * high), name, fill="black", font=font, anchor="rm")
    return whole


def _score(model: Any, out: Path, data: str, count: int) -> list[list[str]]:
    """Rows of a short table; the whole report goes to eval.json."""
    from ..data import load
    from ..data.stored import read_images
    from ..metrics import classify

    how, sampling = SamplingForm(), model.recipe.sampling()
    folder = sample_to(model, out / "samples", count, 0, sampling, None, None, "npz", how).parent
    images = read_images(folder, count)
    report = score(images, data, bootstrap=50)
    rows = []
    features = report.rows[0].features
    for name, label in SHOWN.items():
        row = report[f"{name}[{features}]" if name in ("frechet", "precision", "recall") else name]
        rows.append(
            [label, "-" if row.value is None else f"{row.value:.3g}", "-" if row.floor is None else f"{row.floor:.3g}"]
        )
    result = {"run": model.source, "data": data, "sampling": sampling.describe(), **report.as_dict()}
    if features.startswith("classifier:"):
        held_out = load(data, "held-out")
        found = [
            float((classify(x).argmax(1) == labels).double().mean())
            for x, labels in ((images, model.labels(range(count))["label"]), (held_out.images(), held_out.labels))
        ]
        rows.insert(0, ["recognised as their class", *(f"{share:.1%}" for share in found)])
        result["recognised"] = dict(zip(("samples", "held_out"), found, strict=True))
    write_result(out / "eval.json", result)
    return rows
