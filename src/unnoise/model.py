"""A model: a recipe, the data it is for, and a denoiser. What is trained, loaded, sampled from and measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from .denoisers import Denoiser, classifier_free, guided
from .errors import Problem, UsageProblem
from .papers import find
from .recipe import THRESHOLDS, Recipe, Sampling, Spec
from .rng import Rng
from .runtime import autocast, best_precision, default_device
from .samplers import sample
from .samplers.loop import Watch
from .training import Result, Run, TrainingOptions, train


class Model:
    """A recipe's denoiser on data of a spec."""

    def __init__(self, recipe: Recipe, spec: Spec, denoiser: Denoiser | None = None, seed: int = 0):
        self.recipe, self.spec = recipe, spec
        if denoiser is None:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                denoiser = recipe.denoiser(spec)
        self.denoiser = denoiser

    @classmethod
    def load(cls, path: str | Path, weights: str = "ema", step: int | None = None) -> Model:
        """The model of a run folder. Raises Problem or UsageProblem where there is none, or it is damaged."""
        run = Run.open(path)
        try:
            recipe = find(run.config["paper"]).from_dict(run.config["recipe"])
            spec = Spec(**run.config["spec"])
        except (KeyError, TypeError) as error:
            raise Problem(f"{run.path / 'run.json'} does not describe a model ({error}); train again") from None
        model = cls(recipe, spec)
        run.load(model.denoiser, weights, step)
        model.denoiser.eval()
        return model

    def labels(self, seeds: Sequence[int], label: int | None = None) -> dict[str, Tensor] | None:
        """The condition of each sample: `label`, or the classes in turn by seed. None for unconditional models."""
        if not self.recipe.conditional:
            if label is not None:
                raise UsageProblem("this model was trained without labels; leave --label out")
            return None
        count = self.spec.num_classes or 0
        if label is not None and not 0 <= label < count:
            raise UsageProblem(f"label {label} is none of the model's {count} classes, 0 to {count - 1}")
        return {"label": torch.tensor([seed % count if label is None else label for seed in seeds])}

    def sample(
        self,
        seeds: Sequence[int],
        sampling: Sampling | None = None,
        *,
        label: int | None = None,
        watch: Watch | None = None,
        device: torch.device | str | None = None,
        precision: str | None = None,
    ) -> Tensor:
        """Images in [-1, 1], one for each seed; sample i depends on seed i alone."""
        sampling = sampling or self.recipe.sampling()
        device = torch.device(device or default_device())
        cond = self.labels(seeds, label)
        guidance = [classifier_free(sampling.guidance)] if sampling.guidance != 1 else []
        denoiser = guided(self.denoiser, [*guidance, *THRESHOLDS[sampling.threshold]()]).to(device).eval()
        if cond is not None:
            cond = {name: value.to(device) for name, value in cond.items()}
        with autocast(device, precision or best_precision(device)):
            rng = Rng.from_seeds(seeds, device=device)
            shape = (len(seeds), *self.spec.shape)
            return sample(denoiser, sampling.step, sampling.grid, shape, cond=cond, rng=rng, watch=watch)


class _View:
    """A data set whose batches carry only the conditions that the recipe's network is given."""

    def __init__(self, data, recipe: Recipe):
        self.data, self.recipe, self.fingerprint = data, recipe, data.fingerprint

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices):
        batch = self.data.batch(indices)
        return _Seen(batch.x, self.recipe.condition(batch.cond))


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
) -> tuple[Model, Result]:
    """Train a recipe on a data set (`unnoise.data.load`) into a new run folder, or go on with the one that is there."""
    spec = Spec.of(data)
    model = Model(recipe, spec, seed=recipe.training.seed)
    config = {
        "paper": recipe.slug,
        "recipe": recipe.as_dict(),
        "spec": asdict(spec),
        "data": {"name": data.name, "split": data.split, "fingerprint": data.fingerprint},
    }
    run = Run.open(out) if (Path(out) / "run.json").exists() else Run.create(out, config)
    return _train(model, data, recipe.training, run, preview, on_step)


def _train(model: Model, data, options: TrainingOptions, run: Run, preview: bool, on_step) -> tuple[Model, Result]:
    objective = model.recipe.lesson(model.spec)
    picture = (lambda denoiser, step, folder: draw_preview(model, denoiser, step, folder)) if preview else None
    result = train(objective, model.denoiser, _View(data, model.recipe), options, run, preview=picture, on_step=on_step)
    run.load(model.denoiser)
    model.denoiser.eval()
    return model, result


def draw_preview(model: Model, denoiser: Denoiser, step: int, folder: Path, count: int = 40) -> None:
    """A grid of samples with at most 25 steps of the recipe's sampler, the same seeds every time."""
    from .data.pictures import grid, save_png

    sampling = model.recipe.sampling()
    if sampling.grid.steps > 25:
        sampling = sampling.changed(sampler="ddim", steps=25)
    shown = Model(model.recipe, model.spec, denoiser)
    images = shown.sample(range(count), sampling)
    save_png(grid(images, columns=10), folder / f"samples-{step:08d}.png")
