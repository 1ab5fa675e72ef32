"""`unnoise tune RUN`: the best grid and solver for one model and a number of evaluations."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import Positional, arg

from ..errors import UsageProblem
from .parse import parse
from .show import Counter, print_json


@dataclass(frozen=True)
class TuneForm:
    """Search grid and solver for a run's model and a number of evaluations of its network, and keep them with the run.

    Compared with a fine walk from the same noise: first a family of some hundred solvers and grids, then the noise levels and
    the coefficients of the best are fitted. What is found follows the deterministic flow, also where the run's own sampler
    draws noise. It belongs to the weights it was found for; `unnoise sample RUN --nfe N` uses it.
    """

    run: Annotated[Positional[Path], arg(metavar="RUN")]
    """A folder that `unnoise train` made."""
    nfe: int = 8
    """Evaluations of the denoiser for each sample; under guidance, one asks the network twice."""
    guidance: float | None = None
    """Another weight of classifier-free guidance than the run's own."""
    classifier: float | None = None
    """Another weight of guidance by the model's classifier than the run's own."""
    threshold: Literal["none", "clip", "dynamic"] | None = None
    """Another thresholding of guesses than the run's own."""
    latents: int = 200
    """How many samples are compared."""
    weights: str = "ema"
    """ema, model (as trained, without averaging), or ema-power-..."""
    step: int | None = None
    """The checkpoint of this step; the newest if left out."""
    json: bool = False
    """Print JSON for machines."""


def run(argv: list[str]) -> None:
    form = parse(TuneForm, argv, "tune")
    if form.nfe < 1:
        raise UsageProblem(f"--nfe is {form.nfe}, but a sampler needs at least 1 evaluation")
    if form.latents < 16:
        raise UsageProblem(f"--latents is {form.latents}, but tuning needs 16 or more")
    from ..model import Model
    from ..training import Interrupted
    from ..tuning import tune, work
    from .failures import Terminated
    from .sample import check_guidance

    model = Model.load(form.run, form.weights, form.step)
    check_guidance(model, form.guidance, form.run, form.classifier)
    total, done = work(model, form.nfe, form.latents), 0
    with Counter("tuning", total, sys.stderr is not None, "evaluations") as counter:

        def heard(more: int) -> None:
            nonlocal done
            done += more
            counter(min(done, total))

        try:
            tuned = tune(
                model, form.nfe, guidance=form.guidance, threshold=form.threshold, classifier=form.classifier,
                latents=form.latents, heard=heard,
            )  # fmt: skip
        except (KeyboardInterrupt, Terminated) as stop:
            number = 15 if isinstance(stop, Terminated) else 2
            raise Interrupted(
                f"stopped; nothing was written, and {form.run} keeps what was tuned before", number
            ) from None
        counter(total)
    path = tuned.save(form.run)
    if form.json:
        print_json(tuned.as_dict())
        return
    judged = tuned.how["latents"]["judged by"]
    print(f"{form.nfe} evaluations against {tuned.how['reference']}: mean root mean square error of {judged} samples")
    for name, error in tuned.errors.items():
        print(f"  {error:.4f}  {_told(name, tuned)}")
    print(f"  written to {path}; unnoise sample {form.run} --nfe {form.nfe} uses it")


def _told(name: str, tuned: Any) -> str:
    from ..recipe import Sampling

    if name == "tuned":
        found = tuned.sampling.step.name == "fitted"
        return "tuned: its levels and coefficients fitted" if found else "tuned: no fit was better"
    kind = Sampling.from_dict(tuned.how[name])
    about = tuned.how[name]
    inside = ", ".join(
        f"{key} {about[key]}" for key in ("variable", "coordinate", "terms", "corrector") if key in about
    )
    words = f"{kind.step.name}{f' ({inside})' if inside else ''} on {kind.grid.name}, {kind.grid.steps} steps"
    return f"{'own sampler' if name == 'own' else 'best of the family'}: {words}"
