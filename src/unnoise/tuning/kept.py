"""What was tuned, in RUN/tuned/, beside the checkpoints: JSON, bound to the weights it was tuned for."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..disk import write_json
from ..errors import Problem
from ..recipe import Sampling
from ..training import provenance


@dataclass(frozen=True)
class Tuned:
    """The `sampling` found for so many `evaluations`, its `errors` beside those of others, the `run` (as `Model.source`), and how
    it was found."""

    evaluations: int
    sampling: Sampling
    errors: dict[str, float]
    run: dict[str, Any]
    how: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return {
            "evaluations": self.evaluations,
            "errors": self.errors,
            "sampling": json.loads(json.dumps(self.sampling.describe())),
            "run": self.run,
            **self.how,
        }

    def save(self, run: Path) -> Path:
        """Write it with the run, whole or not at all."""
        path = path_of(run, self.evaluations, self.sampling)
        write_json(path, {**self.as_dict(), **provenance()})
        return path


def path_of(run: str | Path, evaluations: int, sampling: Sampling) -> Path:
    """One file for each number of evaluations, guidance and thresholding."""
    guided = f"{sampling.guidance:g}" + (f"-classifier-{sampling.classifier:g}" if sampling.classifier else "")
    return Path(run) / "tuned" / f"{evaluations}-guidance-{guided}-{sampling.threshold}.json"


def kept(run: str | Path, evaluations: int, sampling: Sampling) -> Tuned | None:
    """What was tuned for so many evaluations with the guidance and thresholding of `sampling`, for whichever weights; None if
    nothing was. Raises Problem where the file is damaged."""
    path = path_of(run, evaluations, sampling)
    if not path.exists():
        return None
    try:
        values = json.loads(path.read_text("utf-8"))
        found = Sampling.from_dict(values["sampling"])
        how = {name: values[name] for name in ("own", "family", "latents", "reference")}
        return Tuned(values["evaluations"], found, values["errors"], values["run"], how)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, Problem) as error:
        raise Problem(f"{path} cannot be read ({error}); run `unnoise tune` again") from None
