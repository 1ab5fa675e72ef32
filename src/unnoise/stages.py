"""Stages: models that are trained before the one that builds on them, as an autoencoder is before the prior of its latents.

`Recipe.earlier` names them. Each is a recipe of its own, which the one loop trains on the same data into RUN/stages/NAME, a run
folder like any other; or the path of a run that is there already. `Recipe.receive` is given what became of them before
the main training begins. The hash of their weights is kept in run.json: a run that goes on receives what it began with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from .errors import UsageProblem
from .training import Run

if TYPE_CHECKING:
    from .model import Model
    from .recipe import Recipe, Spec


def check_stages(recipe: Recipe, spec: Spec) -> None:
    """Refuses, before anything is written, stages to be taken from runs that are not there or were for data of another shape."""
    from .model import described

    for name, stage in recipe.earlier().items():
        if not isinstance(stage, str):
            check_stages(stage, spec)
            continue
        run = Run.open(stage)
        if run.latest() is None:
            raise UsageProblem(f"the run {stage} has no checkpoint yet, so it cannot be the {name}; train it first")
        if (shape := described(run)[1].shape) != spec.shape:
            raise UsageProblem(
                f"the {name} {stage} was trained on data of shape {shape}, and these are of {spec.shape}; choose another"
            )


def run_stages(
    recipe: Recipe, data, run: Run, preview: bool, on_step: Callable[[dict], object] | None
) -> Mapping[str, Model]:
    """The models of a recipe's stages, trained now unless they were before; interrupted, `run` goes on with them."""
    from .model import Model, record, train_model

    models: dict[str, Model] = {}
    for name, stage in recipe.earlier().items():
        if isinstance(stage, str):
            models[name] = Model.load(stage)
        else:
            folder = run.path / "stages" / name
            models[name] = train_model(stage, data, folder, preview=preview, on_step=on_step, within=run)[0]
    weights = {name: (model.source or {})["sha256"] for name, model in models.items()}
    before = run.config.setdefault("stages", weights)
    if other := next((name for name in weights if before.get(name) != weights[name]), None):
        where = (models[other].source or {})["path"]
        raise UsageProblem(
            f"{run.path} was begun with other weights of its {other} than {where} holds now; restore them, or start a new run"
        )
    if weights:
        record(run)
    return models
