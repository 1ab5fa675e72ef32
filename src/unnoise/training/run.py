"""The folder of a run, whole at every instant.

run.json                 what was run: the caller's configuration, and where it comes from
metrics.jsonl            one JSON object for each step, or for each few
checkpoints/step-00001000/{model,ema,objective,optimizer}.safetensors, state.json
pictures/                the loss curve, previews
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path

from torch import Tensor, nn

from .. import disk
from ..errors import Problem, UsageProblem
from .checkpoint import check, load_into, read_state, read_tensors, write_checkpoint
from .journal import Journal
from .provenance import provenance

try:
    import fcntl
except ImportError:  # Windows: runs are not locked there
    fcntl = None


class Run:
    """A run folder. Make one with `Run.create`, or find one with `Run.open`."""

    def __init__(self, path: str | Path, config: Mapping):
        self.path, self.config = Path(path), dict(config)
        self.journal = Journal(self.path / "metrics.jsonl")
        self.pictures = self.path / "pictures"
        self.resume_command = f"unnoise train --resume {self.path}"

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @classmethod
    def create(cls, path: str | Path, config: Mapping) -> Run:
        """A new run folder. `config` (anything JSON can hold) is kept in run.json beside the provenance."""
        path = Path(path)
        config = {**provenance(), **config}
        text = json.dumps(config, indent=1)
        config = json.loads(text)
        if int(os.environ.get("RANK", "0")):  # of several processes, the first makes the folder
            return cls(path, config)
        if (path / "run.json").exists():
            raise UsageProblem(f"{path} holds a run already; resume it, or choose another folder")
        if path.exists() and (not path.is_dir() or any(path.iterdir())):
            raise UsageProblem(f"{path} exists and is not an empty folder; choose another place for the run")
        with disk.disk_errors(f"the run folder {path}", "choose another place for the run"):
            path.parent.mkdir(parents=True, exist_ok=True)
            aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
            try:
                aside.chmod(0o755)
                disk.write_file(aside / "run.json", text.encode())
                (aside / "pictures").mkdir()
                (aside / "checkpoints").mkdir()
                os.replace(aside, path)
            except BaseException:
                shutil.rmtree(aside, ignore_errors=True)
                raise
            disk.sync(path.parent)
        return cls(path, config)

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """The run in a folder."""
        path = Path(path)
        if not path.is_dir():
            raise UsageProblem(f"there is no run at {path}; name a folder that `unnoise train` has made")
        if not (path / "run.json").exists():
            raise UsageProblem(f"{path} is not a run folder (it has no run.json); name one that `unnoise train` made")
        try:
            config = json.loads((path / "run.json").read_text("utf-8"))
            if not isinstance(config, dict):
                raise ValueError
        except (OSError, ValueError):
            raise Problem(f"{path / 'run.json'} cannot be read as JSON; restore it, or train again") from None
        return cls(path, config)

    def checkpoint_path(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """The steps that have a checkpoint, whole or not, in order."""
        found = (path.name.removeprefix("step-") for path in (self.path / "checkpoints").glob("step-*"))
        return sorted(int(step) for step in found if step.isdigit())

    def latest(self, *, deep: bool = False) -> Path | None:
        """The newest whole checkpoint, None if there is none yet; warns of newer ones that are damaged.

        Sizes are always checked, hashes when `deep`. Raises a Problem if there are checkpoints and all are damaged.
        """
        damage = None
        for step in reversed(self.steps()):
            folder = self.checkpoint_path(step)
            try:
                (check if deep else read_state)(folder)
                return folder
            except Problem as problem:
                damage = problem
                warnings.warn(f"{problem}; looking for an older checkpoint", stacklevel=2)
        if damage is not None:
            raise Problem(f"every checkpoint of {self.path} is damaged; train again in a new folder") from damage
        return None

    def load(self, denoiser: nn.Module, weights: str = "ema", step: int | None = None) -> dict:
        """Fill `denoiser` from the newest whole checkpoint (or that of `step`) and return the checkpoint's state.

        `weights`: "ema", "model" (the weights as trained), or a power profile such as "ema-power-0.100".
        """
        folder = self.latest() if step is None else self.checkpoint_path(step)
        if folder is None:
            raise Problem(f"the run {self.path} has no checkpoint yet; train it first")
        if not folder.is_dir():
            raise UsageProblem(f"the run {self.path} has no checkpoint of step {step}; it has {self.steps()}")
        state = read_state(folder)
        known = sorted({file.removesuffix(".safetensors") for file in state["files"]} - {"objective", "optimizer"})
        if weights not in known:
            raise UsageProblem(f"checkpoint {folder} holds no {weights!r}; it holds: {', '.join(known)}")
        load_into(denoiser.state_dict(), read_tensors(folder, weights), f"checkpoint {folder}")
        return state

    def save(
        self, files: Mapping[str, Mapping[str, Tensor]], state: Mapping, keep: int = 2, keep_every: int = 0
    ) -> Path:
        """Write the checkpoint of `state["step"]`, then remove those that are neither newest nor kept for ever."""
        folder = self.checkpoint_path(state["step"])
        write_checkpoint(folder, files, state)
        older = [step for step in self.steps() if step < state["step"]]
        for step in older[: max(0, len(older) + 1 - keep)]:
            if not (keep_every and step % keep_every == 0):
                disk.remove_folder(self.checkpoint_path(step))
        return folder

    @contextmanager
    def locked(self):
        """Inside, no other process trains here. The system frees the lock of a process that died, however it died."""
        with disk.disk_errors(f"the run folder {self.path}"):
            file = open(self.path / "lock", "a+")  # noqa: SIM115
        with file:
            try:
                if fcntl is not None:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                file.seek(0)
                owner = file.read().strip() or "unknown"
                raise Problem(
                    f"the run {self.path} is being trained by process {owner}; wait for it, or stop it, then resume"
                ) from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            disk.sweep(self.path)
            disk.sweep(self.path / "checkpoints")
            try:
                yield
            finally:
                file.truncate(0)
