"""A model: a recipe, the data it is for, and a denoiser. What is trained, loaded, sampled from and measured."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .denoisers import Denoiser, Guidance, classifier_free, classifier_guidance, guided
from .disk import disk_errors, write_file
from .errors import Problem, UsageProblem
from .kinds import kind_of, takes
from .papers import find
from .processes import Gaussian
from .recipe import THRESHOLDS, Recipe, Sampling, Spec
from .rng import Rng
from .runtime import autocast, best_precision, default_device
from .samplers import sample
from .samplers.loop import Watch
from .spaces import in_data
from .stages import check_stages, run_stages
from .training import Result, Run, TrainingOptions, train


class Model:
    """A recipe's denoiser on data of a spec."""

    def __init__(self, recipe: Recipe, spec: Spec, denoiser: Denoiser[Any] | None = None, seed: int = 0):
        self.recipe, self.spec = recipe, spec
        self.source: dict[str, Any] | None = None  # the run, step and weights that `load` found
        if denoiser is None:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                denoiser = recipe.denoiser(spec)
        self.denoiser = denoiser

    @classmethod
    def load(cls, path: str | Path, weights: str = "ema", step: int | None = None) -> Model:
        """The model of a run folder. Raises Problem or UsageProblem where there is none, or it is damaged.

        `weights`: "ema" (those trained last, where the run keeps no average), "model", or "ema-power-..."; `step`: of the
        checkpoint, the newest by default.
        """
        run = Run.open(path)
        recipe, spec = described(run)
        if weights == "ema" and recipe.training.ema is None:
            weights = "model"
        model = cls(recipe, spec)
        state = run.load(model.denoiser, weights, step)
        sha256 = state["files"][f"{weights}.safetensors"]["sha256"]
        model.source = {"path": str(run.path), "step": state["step"], "weights": weights, "sha256": sha256}
        model.denoiser.eval()
        return model

    def labels(self, seeds: Sequence[int], label: int | None = None) -> dict[str, Tensor] | None:
        """The condition of each sample: `label`, or the classes in turn by seed. None for unconditional models."""
        if not self.recipe.labelled:
            if label is not None:
                raise UsageProblem("this model was trained without labels; leave --label out")
            return None
        count = self.spec.num_classes or 0
        if label is not None and not 0 <= label < count:
            raise UsageProblem(f"label {label} is none of the model's {count} classes, 0 to {count - 1}")
        return {"label": torch.tensor([seed % count if label is None else label for seed in seeds])}

    def asked(
        self, seeds: Sequence[int], label: int | None = None, prompt: str | Sequence[str] | None = None
    ) -> tuple[dict[str, Tensor] | None, tuple[Guidance, ...]]:
        """The conditions of samples by label and by prompt, and the guidance that the prompt asks for. Several prompts are one
        for each seed."""
        cond = self.labels(seeds, label)
        if prompt is None:
            told = self.recipe.unprompted(self.spec, seeds)
            return (cond if told is None else (cond or {}) | told), ()
        if not isinstance(prompt, str):
            each = [self.asked([seed], label, text) for seed, text in zip(seeds, prompt, strict=True)]
            if any(guidance or told is None for told, guidance in each):
                raise UsageProblem(f"{self.recipe.slug} takes one prompt at a time; sample for each by itself")
            rows = [told or {} for told, _ in each]
            return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}, ()
        said, guidance = self.recipe.prompt(self.spec, prompt)
        if said is not None:
            cond = (cond or {}) | {name: value.expand(len(seeds), *value.shape) for name, value in said.items()}
        return cond, guidance

    def guided(self, sampling: Sampling, guidance: Sequence[Guidance] = ()) -> Denoiser:
        """The denoiser with the guidance and the thresholding of a sampling, and between them any further guidance."""
        free = [classifier_free(sampling.guidance)] if sampling.guidance != 1 else []
        pull = [classifier_guidance(sampling.classifier)] if sampling.classifier else []
        if sampling.threshold != "none":
            in_data(self.denoiser, "a threshold")
        return guided(self.denoiser, [*free, *guidance, *THRESHOLDS[sampling.threshold](), *pull])

    def sample(
        self,
        seeds: Sequence[int],
        sampling: Sampling | None = None,
        *,
        label: int | None = None,
        prompt: str | Sequence[str] | None = None,
        start: str | None = None,
        guidance: Sequence[Guidance] = (),
        watch: Watch | None = None,
        device: torch.device | str | None = None,
        precision: str | None = None,
    ) -> Tensor:
        """Samples as a model sees them (images in [-1, 1]), one for each seed; sample i depends on seed i alone.

        `prompt`: words, or a file's name, for models that take them (`Recipe.prompt`), one for all or one for each seed;
        `start`: of models that go from data to data, the set whose held-out rows they go from (`Recipe.begin`).
        `guidance`: what the samples must follow besides, such as `measured(inpainting(image, known))`.
        """
        sampling = sampling or self.recipe.sampling()
        if label is not None and not self.recipe.conditional and not sampling.classifier:
            raise UsageProblem("only a classifier leads this model to a label; give guidance by it (--classifier 1)")
        device = torch.device(device or default_device())
        cond, followed = self.asked(seeds, label, prompt)
        first, led = self.recipe.begin(self.spec, seeds, start)
        denoiser = self.guided(sampling, [*led, *followed, *guidance]).to(device).eval()
        if cond is not None:
            cond = {name: value.to(device) for name, value in cond.items()}
        with autocast(device, precision or best_precision(device)):
            rng = Rng.from_seeds(seeds, device=device)
            space = self.denoiser.space
            shape = (len(seeds), *space.shape(self.spec.shape))
            seen = None if watch is None else lambda i, point, z: watch(i, point, space.decode(z))
            told = space.told(cond)
            z = sample(denoiser, sampling.step, sampling.grid, shape, cond=told, rng=rng, start=first, watch=seen)
            with torch.no_grad():
                return self.recipe.completed(space.decode(z), cond or {})


class Conditioned:
    """A data set whose batches carry the conditions that `condition` makes of them: a recipe's, for its network."""

    def __init__(self, data, condition: Callable):
        self.data, self.condition, self.fingerprint = data, condition, data.fingerprint

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices):
        batch = self.data.batch(indices)
        return _Seen(batch.x, self.condition(batch))


class _Seen:
    __slots__ = ("cond", "x")

    def __init__(self, x: Tensor, cond):
        self.x, self.cond = x, cond


def train_model(
    recipe: Recipe,
    data,
    out: str | Path,
    *,
    preview: bool = True,
    on_step: Callable[[dict], object] | None = None,
    within: Run | None = None,
) -> tuple[Model, Result]:
    """Train a recipe on a data set (`unnoise.data.load`) into a new run folder, or go on with the one that is there.

    A run that goes on keeps its recipe and data; of the training options, all but the seed and the batch size may change
    (more steps, another learning rate), and the change is written down. What the recipe builds on is trained first (stages.py);
    `within` is the run of which this one is a stage. Raises Problem or UsageProblem.
    """
    takes(recipe.takes, recipe.slug, data.name, data.kind)
    recipe = recipe.fitted(data)
    if (Path(out) / "run.json").exists():
        run = Run.open(out)
        model = _continued(run, recipe, data)
    else:
        spec = Spec.of(data)
        check_stages(recipe, spec)
        model = Model(recipe, spec, seed=recipe.training.seed)
        config = {
            "paper": recipe.slug,
            "recipe": recipe.as_dict(),
            "spec": asdict(spec),
            "data": {"name": data.name, "split": data.split, "fingerprint": data.fingerprint},
        }
        run = Run.create(out, config)
    if within is not None:
        run.resume_command = within.resume_command
    return _train(model, data, recipe.training, run, preview, on_step)


def described(run: Run) -> tuple[Recipe, Spec]:
    """The recipe and the data of a run, as it recorded them."""
    try:
        return find(run.config["paper"]).from_dict(run.config["recipe"]), Spec(**run.config["spec"])
    except (KeyError, TypeError, AttributeError) as error:
        raise Problem(f"{run.path / 'run.json'} does not describe a model ({error}); train again") from None


def _continued(run: Run, recipe: Recipe, data) -> Model:
    """The model of a run that goes on. Raises UsageProblem where recipe or data are not the run's."""
    before, spec = described(run)
    if before.slug != recipe.slug:
        raise UsageProblem(f"{run.path} is a run of {before.slug}, not of {recipe.slug}; start a new run")
    for name, value in recipe.as_dict().items():
        if name != "training" and value != (old := before.as_dict()[name]):
            raise UsageProblem(f"{run.path} was begun with {name} {old}, not {value}; keep it, or start a new run")
    for name in ("seed", "batch_size"):
        now, old = getattr(recipe.training, name), getattr(before.training, name)
        if now != old:
            raise UsageProblem(f"{run.path} was begun with {name} {old}, not {now}; keep it, or start a new run")
    if data.fingerprint != (begun := run.config["data"]["fingerprint"]):
        raise UsageProblem(
            f"{run.path} was begun with other data (fingerprint {begun}) than {data.name} is now ({data.fingerprint}); "
            "restore them, or start a new run"
        )
    if recipe.training != before.training:
        run.config["recipe"] = json.loads(json.dumps(recipe.as_dict()))
        record(run)
    return Model(recipe, spec, seed=recipe.training.seed)


def record(run: Run) -> None:
    """Write down the changed configuration of a run."""
    if not int(os.environ.get("RANK", "0")):  # of several processes, the first writes
        with disk_errors(f"the run folder {run.path}"):
            write_file(run.path / "run.json", json.dumps(run.config, indent=1).encode())


def _train(model: Model, data, options: TrainingOptions, run: Run, preview: bool, on_step) -> tuple[Model, Result]:
    stages = run_stages(model.recipe, data, run, preview, on_step)
    objective = model.recipe.lesson(model.spec)
    model.recipe.receive(stages, model.denoiser, objective, data)
    process = getattr(model.denoiser, "process", None)  # an autoencoder has none
    begins = process is not None and (process.generates or model.recipe.begin(model.spec, [0], None)[0] is not None)

    def picture(denoiser: Any, step: int, folder: Path) -> None:
        if begins:
            draw_preview(model, denoiser, step, folder)
        elif (rows := model.recipe.pictured(denoiser, data)) is not None:
            _draw(model, rows, step, folder)

    seen = Conditioned(data, model.recipe.condition)
    result = train(objective, model.denoiser, seen, options, run, preview=picture if preview else None, on_step=on_step)
    return Model.load(run.path), result


def draw_preview(model: Model, denoiser: Denoiser, step: int, folder: Path, count: int = 40) -> None:
    """An overview of samples by the recipe's sampler, or by 25 steps of DDIM where that is long; the same seeds every time.

    Where frequencies differ in their noise DDIM magnifies each error of the guess by up to 1/alpha: there the recipe's own
    step takes 100 steps at the most.
    """
    sampling = model.recipe.sampling()
    steps = sampling.grid.steps
    if getattr(model.denoiser.process, "by_frequency", False):
        sampling = sampling.changed(steps=min(steps, 100))
    elif isinstance(model.denoiser.process, Gaussian) and (steps > 25 or (sampling.step.evaluations(steps) or 0) > 100):
        sampling = sampling.changed(sampler="ddim", steps=min(steps, 25))
    shown = Model(model.recipe, model.spec, denoiser)
    _draw(model, shown.sample(range(count), sampling), step, folder)


def _draw(model: Model, x: Tensor, step: int, folder: Path) -> None:
    kind = kind_of(model.spec)
    kind.sheet(kind.finish(x, model.spec), folder, model.spec, columns=10, name=f"samples-{step:08d}")
