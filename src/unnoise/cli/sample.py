"""`unnoise sample RUN`: pictures, or thousands of files."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..errors import UsageProblem, unknown
from .known import KnownForm, known
from .parse import parse
from .show import Counter


@dataclass(frozen=True)
class SamplingForm:
    """How to sample: the paper's own way, but for what is given."""

    sampler: str | None = None
    """Another sampler, by name."""
    grid: str | None = None
    """Another grid of times, by name."""
    steps: int | None = None
    """Another number of steps."""
    nfe: int | None = None
    """At most so many evaluations of the denoiser for each image: by what `unnoise tune` found for them, if it did and no
    sampler, grid or option is given, else by as many steps as that allows."""
    guidance: float | None = None
    """Weight of classifier-free guidance: 1 plainly conditional, 0 unconditional, more exaggerates."""
    classifier: float | None = None
    """Weight of guidance by the model's classifier, if it has one: 0 none, 1 as it is, more exaggerates."""
    threshold: Literal["none", "clip", "dynamic"] | None = None
    """What becomes of guesses outside [-1, 1]."""
    option: tuple[str, ...] = ()
    """Options of the sampler and the grid, as name=value."""
    label: str | None = None
    """Samples of this class only, by name or number; all in turn if left out."""
    prompt: str | None = None
    """What a model that takes words is asked for: a caption, the beginning of a text; or a file: of a sound to be spoken, of a
    picture to be completed or enlarged."""
    start: str | None = None
    """Of models that go from data to data: the data set whose held-out images, or other rows, they go from."""
    weights: str = "ema"
    """ema, model (as trained, without averaging), or ema-power-..."""
    step: int | None = None
    """The checkpoint of this step; the newest if left out."""
    batch_size: int = 64
    """Images at a time, a multiple of 16. It does not change the images."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Of the network's arithmetic; auto takes what the device computes fastest."""


@dataclass(frozen=True)
class Sample:
    """Draw samples from a run. Image i is that of seed SEED + i, whatever the batch size or the number of processes.

    The same command again completes what is missing. OUT/grid.png shows the first hundred.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """A folder that `unnoise train` made."""
    count: int = 64
    """Number of images."""
    seed: int = 0
    """Seed of the first image."""
    format: Literal["png", "txt", "wav", "csv", "npz", "grid"] | None = None
    """A file for each sample, named by its seed (png; of text txt, of sound wav; of points, one csv); 500 samples a file
    (npz); or only the sheet."""
    out: Path | None = None
    """Where the images go; RUN/samples/..., named by the configuration, if left out."""
    trajectory: Literal["gif", "grid"] | None = None
    """Show the way from noise to data, too: of eight samples, as a film or as a sheet."""
    how: Annotated[SamplingForm, arg(name="")] = field(default_factory=SamplingForm)
    known: Annotated[KnownForm, arg(name="")] = field(default_factory=KnownForm)


def run(argv: list[str]) -> None:
    form = parse(Sample, gathered(argv), "sample", _description() if {"-h", "--help"} & set(argv) else None)
    from ..crew import crew, on_main
    from ..generate import save_trajectory, trajectory

    model, sampling, label, precision = prepare(form.run, form.how)
    guidance = known(form.known, model)
    state = crew()
    picture = sample_to(
        model, form.out, form.count, form.seed, sampling, label, precision, form.format, form.how, guidance=guidance
    )
    if form.trajectory and state.is_main_process:
        end = "gif" if form.trajectory == "gif" else "png"
        states = trajectory(
            model,
            range(form.seed, form.seed + 8),
            sampling,
            24 if end == "gif" else 10,
            label=label,
            prompt=form.how.prompt,
            start=form.how.start,
            guidance=guidance[0],
        )
        film = save_trajectory(states, picture.with_name(f"trajectory.{end}"))
    on_main(state, lambda: None)
    if state.is_main_process:
        source = model.source or {}
        print(f"{form.count:,} samples of {form.run}, step {source['step']:,}, {source['weights']} weights")
        if form.how.nfe is not None:
            print(f"  by     {walker(model, sampling, form.how.nfe)}")
        print(f"  sheet  {picture}")
        if form.format != "grid":
            print(f"  files  {_files(model, picture.parent, form.format)}")
        if form.trajectory:
            print(f"  way    {film}")


def _files(model, folder: Path, format: str | None) -> Path:
    from ..kinds import kind_of

    kind = kind_of(model.spec)
    if format == "npz":
        return folder / "shards"
    return folder / (f"samples.{kind.suffix}" if kind.single else kind.name)


def sample_to(
    model, out, count, seed, sampling, label, precision, format, how, visible=True, guidance=((), None)
) -> Path:
    """`generate`, with a bar, and a sentence when it is interrupted; `out` None: a folder of the configuration's own."""
    from ..crew import crew
    from ..generate import generate
    from ..kinds import kind_of
    from ..training import Interrupted
    from .failures import Terminated

    state, format = crew(), format or kind_of(model.spec).suffix
    if out is None:
        what = [model.source["sha256"], sampling.describe(), label, seed, precision, format]
        key = json.dumps([*what, *(more for more in (guidance[1], how.prompt, how.start) if more is not None)])
        mark = hashlib.sha256(key.encode()).hexdigest()[:6]
        out = Path(model.source["path"]) / "samples" / f"{sampling.step.name}-{sampling.grid.steps}-{format}-{mark}"
    with Counter("sampling", count, visible and state.is_main_process) as counter:
        ranks = state.num_processes
        try:
            return generate(
                model, out, count, seed=seed, sampling=sampling, label=label, prompt=how.prompt, start=how.start,
                format=format, precision=precision,
                batch_size=how.batch_size, on_images=lambda done: counter(min(count, done * ranks)),
                guidance=guidance[0], known=guidance[1],
            )  # fmt: skip
        except (KeyboardInterrupt, Terminated) as stop:
            number = 15 if isinstance(stop, Terminated) else 2
            raise Interrupted(f"stopped; what was done is in {out}: the same command goes on", number) from None


def prepare(run: Path, how: SamplingForm) -> tuple[Any, Any, int | None, str | None]:
    """The model, the sampling, the label and the precision that were asked for."""
    from ..model import Model

    model = Model.load(run, how.weights, how.step)
    if how.prompt is not None:
        model.asked([0], None, how.prompt)  # what the model does not understand is told at once
    model.recipe.begin(model.spec, [0], how.start)
    own = model.recipe.sampling()
    pairs = dict(_pair(text) for text in how.option)
    sampling = own.changed(how.sampler, how.grid, how.steps, how.guidance, how.threshold, pairs, how.classifier)
    check_guidance(model, how.guidance, run, how.classifier)
    if how.nfe is not None:
        sampling = _for_evaluations(model, sampling, how, how.nfe)
    precision = None if how.precision == "auto" else how.precision
    return model, sampling, _label(model, how.label), precision


def check_guidance(model: Any, weight: float | None, run: Path, classifier: float | None = None) -> None:
    """Refuses weights of guidance that a model has no use for."""
    if classifier and not getattr(model.recipe, "classifier", False):
        raise UsageProblem(
            f"--classifier needs a model with a classifier, as adm trains one; {run} ({model.recipe.slug}) has none"
        )
    if weight not in (None, 1.0) and not getattr(model.recipe, "drop", 0):
        raise UsageProblem(
            f"--guidance needs a model that was also trained without labels, as cfg is; {run} ({model.recipe.slug}) was not"
        )


def _for_evaluations(model: Any, sampling: Any, how: SamplingForm, nfe: int) -> Any:
    """The sampling of --nfe: what was tuned for these weights, or as many steps as cost no more."""
    import warnings

    from ..tuning import kept

    if how.steps is not None:
        raise UsageProblem("--nfe and --steps both say how long the way is; leave one out")
    if nfe < 1:
        raise UsageProblem(f"--nfe is {nfe}, but a sampler needs at least 1 evaluation")
    if (how.sampler, how.grid, how.option) == (None, None, ()):
        tuned = kept(model.source["path"], nfe, sampling)
        if tuned is not None and tuned.run["sha256"] == model.source["sha256"]:
            return tuned.sampling
        if tuned is not None:
            warnings.warn(
                f"what was tuned for {nfe} evaluations belongs to other weights ({tuned.run['weights']} of step "
                f"{tuned.run['step']}), so it is left out; run `unnoise tune` again",
                stacklevel=2,
            )
    found = sampling.within(nfe)
    if found is None:
        raise UsageProblem(
            f"not one step of the sampler {sampling.step.name} costs {nfe} evaluations or less; take more"
        )
    return found


def walker(model: Any, sampling: Any, evaluations: int) -> str:
    """Which sampler was taken for a number of evaluations, in words."""
    from ..tuning import kept

    tuned, steps = kept(model.source["path"], evaluations, sampling), sampling.grid.steps
    name = f"{sampling.step.name} on {sampling.grid.name}"
    if tuned is not None and tuned.sampling == sampling:
        name = f"what was tuned ({name})"
    return f"{name}: {steps} steps, {sampling.step.evaluations(steps)} evaluations"


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise UsageProblem(f"--option takes name=value, such as eta=0.5, not {text!r}")
    return name.replace("-", "_"), value


def _label(model: Any, text: str | None) -> int | None:
    if text is None:
        return None
    classes = model.spec.classes if model.recipe.labelled else None
    if classes is None:
        raise UsageProblem("this model was trained without labels; leave --label out")
    names = [name.lower() for name in classes]
    if text.lower() in names:
        return names.index(text.lower())
    if text.isdigit() and int(text) < len(classes):
        return int(text)
    raise unknown("label", text, [f"{i} {name}" if name != str(i) else name for i, name in enumerate(classes)])


def gathered(argv: list[str], option: str = "--option") -> list[str]:
    """The same words, the values of a repeated option brought together."""
    rest, values, taking = [], [], False
    for word in argv:
        if word == option or word.startswith(f"{option}="):
            taking = True
            values += [word.partition("=")[2]] if "=" in word else []
        elif taking and not word.startswith("-"):
            values.append(word)
        else:
            taking = False
            rest.append(word)
    return [*rest, option, *values] if values else rest


def _description() -> str:
    """The help, with what samplers and grids there are."""
    from dataclasses import fields
    from inspect import cleandoc

    from ..samplers import GRIDS, SAMPLERS

    def lines(table: dict[str, Any]) -> str:
        return "\n".join(
            f"  {name}: {', '.join(f'{f.name}={_plain(f)}' for f in fields(kind) if f.name != 'steps')}"
            for name, kind in table.items()
        )

    samplers, grids = lines(SAMPLERS), lines(GRIDS)
    about = cleandoc(Sample.__doc__ or "")
    return f"{about}\n\nSamplers and their options:\n{samplers}\n\nGrids and their options:\n{grids}"


def _plain(field: Any) -> str:
    from dataclasses import MISSING

    value = field.default if field.default is not MISSING else field.default_factory()
    return str(getattr(value, "name", value))
