"""`unnoise train PAPER`: a new run, or one that goes on."""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Sequence
from dataclasses import field, fields, make_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..errors import UsageProblem, unknown
from .parse import parse
from .show import clock

USAGE = """usage: unnoise train PAPER [--data X] [--preset laptop|paper] [--out DIR] [options]
       unnoise train --resume RUN [--steps N] [options]

PAPER is one of: {papers}.
X is a data set (`unnoise data list`), a folder of images or sounds, a text or a .csv of points, or hf:owner/name.

`unnoise train PAPER --help` shows all options with that paper's defaults; add --preset paper for the published ones.
`accelerate launch -m unnoise train PAPER ...` trains on several processes, GPUs or machines.
"""


def slugs() -> list[str]:
    """The names of all papers; torch is not imported for it."""
    folder = Path(__file__).parents[1] / "papers"
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules([str(folder)]))


def run(argv: list[str]) -> None:
    resume, slug = _value(argv, "--resume"), argv[0] if argv and not argv[0].startswith("-") else None
    if resume is None and (slug is None or slug in ("-h", "--help")):
        if not {"-h", "--help"} & set(argv):
            raise UsageProblem(f"which paper? `unnoise train PAPER`, PAPER one of {', '.join(slugs())}")
        print(USAGE.format(papers=", ".join(slugs())), end="")
        return
    if slug is not None and slug not in slugs():
        raise unknown("paper", slug, slugs())
    if resume is None:
        begin(argv, str(slug))
    else:
        go_on(argv, resume, slug)


def begin(argv: list[str], slug: str) -> None:
    """Train a new run."""
    from ..crew import crew, on_main
    from ..data import absolute, load
    from ..kinds import takes
    from ..papers import find
    from ..recipe import Spec

    form = _parse(argv, find(slug).preset(_value(argv, "--preset") or "laptop"), slug)
    recipe = replace(form.recipe, data=absolute(form.recipe.data))
    data = load(recipe.data, size=_size(form.size), channels=form.channels, rate=form.rate)
    takes(recipe.takes, slug, recipe.data, data.kind)
    recipe.denoiser(Spec.like(data))  # what cannot be built is told before there is a folder
    state = crew()
    out = on_main(state, lambda: str(_new_folder(form.out, slug, recipe.data)))
    _train(recipe, data, Path(out), state)


def go_on(argv: list[str], path: str, slug: str | None) -> None:
    """Train a run on: its own recipe and data; more steps or other training options if asked."""
    from ..crew import crew
    from ..data import load_like
    from ..model import described
    from ..training import Run

    run = Run.open(path)
    before, spec = described(run)
    if slug is not None and slug != before.slug:
        raise UsageProblem(f"{path} is a run of {before.slug}, not of {slug}; leave the paper out")
    form = _parse([before.slug, *argv[slug is not None :]], before, before.slug)
    recipe = form.recipe
    for given in (f.name for f in fields(recipe) if f.name != "training"):
        if getattr(recipe, given) != getattr(before, given):
            raise UsageProblem(
                f"--{given.replace('_', '-')} cannot change when a run goes on; leave it out, or start a new run"
            )
    for name in ("preset", "out", "size", "channels", "rate"):
        if _value(argv, f"--{name}") is not None:
            raise UsageProblem(f"--{name} does not go with --resume: the run keeps what it was begun with")
    if recipe.training.steps != before.training.steps and recipe.training.minutes == before.training.minutes:
        recipe = replace(recipe, training=replace(recipe.training, minutes=None))
    data = load_like(recipe.data, spec)
    _train(recipe, data, run.path, crew())


def _parse(argv: list[str], recipe: Any, slug: str) -> Any:
    """The command line as a dataclass whose defaults are those of `recipe`."""
    form = make_dataclass(
        "Train",
        [
            ("paper", Annotated[Positional[Literal[slug]], arg(metavar="PAPER", help="What to train.")]),  # type: ignore
            ("preset", _told(Literal[type(recipe).presets], "Which defaults: minutes on two cores, or the published ones."),
             "laptop"),
            ("out", _told(Path | None, "The folder of the run; runs/PAPER-DATA-N, N a new number, if left out."), None),
            ("resume", _told(Path | None, "Go on with this run: its recipe, its data."), None),
            ("size", _told(tuple[int, ...] | None, "Pixels of an image, or height and width; length of a text or a sound."),
             None),
            ("channels", _told(int | None, "1 makes all images grey, 3 colour."), None),
            ("rate", _told(int | None, "Hz to which sounds are brought."), None),
            ("recipe", Annotated[type(recipe), arg(name="")], field(default=recipe)),
        ],
    )  # fmt: skip
    info = type(recipe).info
    return parse(form, argv, "train", f"{info.title} ({info.year}). {info.summary}", pairs=True, more=slug)


def _told(kind: Any, text: str) -> Any:
    return Annotated[kind, arg(help=text)]


def _value(argv: Sequence[str], option: str) -> str | None:
    """The value of an option that decides which options there are, read before all others."""
    for i, word in enumerate(argv):
        if word == option:
            if i + 1 == len(argv) or argv[i + 1].startswith("--"):
                raise UsageProblem(f"{option} takes a value, and there is none")
            return argv[i + 1]
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
    return None


def _size(size: tuple[int, ...] | None) -> int | tuple[int, int] | None:
    if size is None or len(size) == 2:
        return size  # type: ignore[return-value]
    if len(size) != 1:
        raise UsageProblem(f"--size takes one number of pixels, or height and width, not {len(size)} numbers")
    return size[0]


def _new_folder(out: Path | None, slug: str, data: str) -> Path:
    """The folder of a new run: the one asked for, which must hold none, or the next number under runs/."""
    if out is not None:
        if (out / "run.json").exists():
            raise UsageProblem(f"{out} holds a run already: `unnoise train --resume {out}`, or another --out")
        return out
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(data.removeprefix("hf:")).name).strip("-.") or "data"
    return next_number(Path("runs"), f"{slug}-{name}")


def next_number(folder: Path, stem: str) -> Path:
    """folder/stem-N with the smallest N beyond all that are there."""
    found = [re.fullmatch(re.escape(stem) + r"-(\d+)", path.name) for path in folder.glob(f"{stem}-*")]
    return folder / f"{stem}-{max((int(match[1]) for match in found if match), default=0) + 1}"


def _train(recipe: Any, data: Any, out: Path, state: Any) -> None:
    from ..kinds import kind_of
    from ..model import train_model

    say = partial(print, flush=True) if state.is_main_process else (lambda text: None)
    kinds = f", {len(data.classes)} classes" if data.classes and recipe.conditional else ""
    say(f"{recipe.slug} on {data.name}: {len(data):,} {data.kind} of {kind_of(data).describe(data)}{kinds}")
    say(f"run folder {out}")
    for name, stage in recipe.earlier().items():
        say(f"first, its {name}: {stage if isinstance(stage, str) else f'{stage.training.steps:,} steps'}")
    model, result = train_model(recipe, data, out)
    parameters = sum(p.numel() for p in model.denoiser.parameters())
    loss = "" if result.loss is None else f", last loss {result.loss:.4g}"
    say(
        f"{result.steps:,} steps ({result.images:,} images) in {clock(result.seconds)}{loss}, {parameters:,} parameters"
    )
    for name, path in leavings(out, result).items():
        say(f"  {name:<9}{path}")
    say(f"next: unnoise sample {out}")


def leavings(out: Path, result: Any) -> dict[str, Path]:
    """What a person looks at after a training."""
    previews = sorted((out / "pictures").glob("samples-*"))
    found = {"weights": result.checkpoint, "loss": out / "pictures" / "loss.png"}
    return found | ({"preview": previews[-1]} if previews else {})
