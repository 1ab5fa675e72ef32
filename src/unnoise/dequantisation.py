"""A run's variational dequantiser: trained by its own bound on the train split, and kept with the run.

RUN/dequantisers/KEY/ is a run folder of its own. KEY names the model's weights by their hash, the data and how it is trained,
so that other weights never meet it, and the same request finds it, or goes on with it where it was interrupted.
"""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .data.dataset import DataSet
from .denoisers.denoiser import Cond, Denoiser
from .errors import UsageProblem
from .likelihood import Variational, continuous_bound
from .likelihood.clock import clock
from .model import Conditioned, Model
from .networks import UNetOptions
from .objectives.dequantisation import Dequantisation
from .rng import Rng
from .spaces import in_data
from .training import Run, TrainingOptions, train

NETWORK = UNetOptions(channels=32, mult=(1,), blocks=1, attention=(), middle_attention=False)
"""One level: how a grey is spread depends on its neighbourhood."""


def options(steps: int = 500, seed: int = 0) -> TrainingOptions:
    """Few steps, since a uniform dequantiser is where it starts."""
    return TrainingOptions(
        steps=steps, seed=seed, lr=2e-3, decay="cosine", decay_from=0.0, warmup=20, ema=None, precision="fp32",
        preview_every=0,
    )  # fmt: skip


def teach(
    dequantiser: Variational, denoiser: Denoiser, data: Any, levels: int, run: Run, training: TrainingOptions
) -> None:
    """Train a dequantiser for the density of a denoiser, into `run`, or go on with it.

    log p(y) is bounded by one noise level of VDM's bound in continuous time (`continuous_bound`), which one call of the network
    gives, and its gradient one call back. Raises UsageProblem for processes without such a bound.
    """
    still = copy.deepcopy(denoiser).eval().requires_grad_(False)

    def nats(y: Tensor, cond: Cond, rng: Rng) -> Tensor:
        return continuous_bound(still.to(y.device), y, rng, cond, draws=1).total

    train(Dequantisation(nats, levels), dequantiser, data, training, run)
    dequantiser.eval().cpu()


def dequantiser_of(
    model: Model, data: DataSet, steps: int = 500, *, seed: int = 0, unlabelled: bool = False
) -> tuple[Variational, dict[str, Any]]:
    """The dequantiser of a loaded model for the train split `data`, and what is known of it: trained now, unless it was before.

    Raises UsageProblem for a model that is of no run or data of other grey levels, Problem where what was kept is damaged.
    """
    if model.source is None:
        raise UsageProblem("a dequantiser is kept with a run, so its model must be loaded from one: Model.load(RUN)")
    if data.levels != model.spec.levels:
        raise UsageProblem(f"{data.name} has {data.levels} grey levels and this model's data {model.spec.levels}")
    in_data(model.denoiser, "a dequantiser")
    clock(model.denoiser.process, None, "bound in continuous time")  # refuses processes without one
    training = options(steps, seed)
    config = {
        "dequantiser": "variational",
        "sha256": model.source["sha256"],
        "data": {"name": data.name, "split": data.split, "fingerprint": data.fingerprint},
        "unlabelled": unlabelled,
        "network": asdict(NETWORK),
        "training": asdict(training),
    }
    key = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:12]
    path = Path(model.source["path"]) / "dequantisers" / key
    run = Run.open(path) if (path / "run.json").exists() else Run.create(path, config)
    run.resume_command = (
        f"unnoise likelihood {model.source['path']} --dequantise variational --dequantise-steps {steps}"
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        dequantiser = Variational(NETWORK.build(model.spec.shape[0], 2 * model.spec.shape[0]))
    if steps not in run.steps():
        seen = Conditioned(data, (lambda _: None) if unlabelled else model.recipe.condition)
        teach(dequantiser, model.denoiser, seen, data.levels, run, training)
    state = run.load(dequantiser, "model", steps)
    known = {"name": "variational", "steps": steps, "path": str(path), "model": config["sha256"]}
    return dequantiser.eval(), known | {"sha256": state["files"]["model.safetensors"]["sha256"]}
