"""A checkpoint: a folder of tensors (safetensors) and a state.json that tells their sizes and hashes.

It appears under its name only when it is whole; what was damaged afterwards (a copy cut short, a bad disk) is noticed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from ..disk import disk_errors, new_folder
from ..errors import Problem
from .shards import copy_into


def write_checkpoint(folder: Path, files: Mapping[str, Mapping[str, Tensor]], state: Mapping) -> None:
    """Write `files` (name -> tensors on the CPU) and `state` as a checkpoint, whole or not at all."""
    from safetensors.torch import save_file

    with disk_errors(f"the checkpoint {folder}", _ROOM), new_folder(folder) as aside:
        marks = {}
        for name, tensors in files.items():
            path = aside / f"{name}.safetensors"
            save_file(dict(tensors), path)
            marks[path.name] = {"bytes": path.stat().st_size, "sha256": _sha256(path)}
        (aside / "state.json").write_text(json.dumps({**state, "files": marks}, indent=1), "utf-8")


def read_state(folder: Path) -> dict:
    """The state of a checkpoint, the sizes of its files having been checked."""
    try:
        state = json.loads((folder / "state.json").read_text("utf-8"))
        marks = state["files"]
    except (OSError, ValueError, KeyError, TypeError):
        raise Problem(f"checkpoint {folder} is damaged: its state.json cannot be read; {_REMEDY}") from None
    for name, mark in marks.items():
        path = folder / name
        size = path.stat().st_size if path.exists() else None
        if size is None:
            raise Problem(f"checkpoint {folder} is damaged: {name} is missing; {_REMEDY}")
        if size != mark["bytes"]:
            raise Problem(f"checkpoint {folder} is damaged: {name} has {size} bytes of {mark['bytes']}; {_REMEDY}")
    return state


def read_tensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of one file of a checkpoint, checked to the last bit."""
    from safetensors.torch import load_file

    marks, file = read_state(folder)["files"], f"{name}.safetensors"
    if file not in marks:
        there = ", ".join(sorted(mark.removesuffix(".safetensors") for mark in marks))
        raise Problem(f"checkpoint {folder} holds no {name!r}; it holds: {there}")
    if _sha256(folder / file) != marks[file]["sha256"]:
        raise Problem(f"checkpoint {folder} is damaged: {file} is not what was written; {_REMEDY}")
    return load_file(folder / file)


def check(folder: Path) -> dict:
    """The state of a checkpoint, after every file has been checked to the last bit."""
    state = read_state(folder)
    for name, mark in state["files"].items():
        if _sha256(folder / name) != mark["sha256"]:
            raise Problem(f"checkpoint {folder} is damaged: {name} is not what was written; {_REMEDY}")
    return state


def load_into(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], where: str) -> None:
    """Copy `tensors` into `targets` of the same names and shapes (whole tensors, or shards of them).

    Raises a Problem that names what differs, and then changes nothing.
    """
    differences = [
        *_some("missing", targets.keys() - tensors.keys()),
        *_some("unexpected", tensors.keys() - targets.keys()),
        *_some(
            "of another shape",
            (
                f"{name} {tuple(tensors[name].shape)} for {tuple(target.shape)}"
                for name, target in targets.items()
                if name in tensors and tensors[name].shape != target.shape
            ),
        ),
    ]
    if differences:
        raise Problem(f"{where} is of another model ({'; '.join(differences)}); build the model it was trained with")
    for name, target in targets.items():
        copy_into(target, tensors[name])


def _some(what: str, names: Iterable[str]) -> list[str]:
    names = sorted(names)
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return [f"{what}: {', '.join(names[:3])}{rest}"] if names else []


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_ROOM = "free some space or choose another folder, then resume"
_REMEDY = "remove it to go back to the one before, or copy it again from where it is whole"
