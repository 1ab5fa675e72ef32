r"""Many samples on disk: streamed in constant memory, shared by processes, completed where they were left.

    OUT/sampling.json           what decides every image, and how many are asked for
    OUT/images/00000042.png     format "png": the image of seed 42 (of text "txt", of sound "wav")
    OUT/shards/00000500.npz     format "npz": `images` uint8 (500, channel, height, width), `seeds`, `labels` if any
    OUT/samples.csv             format "csv", of points: all of them, from shards
    OUT/grid.png                the first hundred on one sheet (of text, grid.txt)

An image depends on its seed, the weights and the sampling, not on the others. Kernels round differently for different
batch sizes (measured on a CPU with AMX: 2e-4 in float32, two grey levels in bfloat16, up to 0.2 where a network amplifies
it), but alike for all multiples of 16; so batches are filled up to such a multiple, and files are equal to the last bit.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .crew import crew, fail_together, on_main
from .data import to_uint8
from .data.pictures import grid, save_gif, save_png
from .data.stored import read_arrays, read_shards
from .denoisers import Guidance
from .disk import sweep, write_json, write_whole
from .errors import Problem, UsageProblem, unknown
from .kinds import kind_of
from .model import Model
from .recipe import Sampling
from .runtime import best_precision, default_device
from .training.provenance import provenance

BLOCK = 16  # see above
SHARD = 500  # images per .npz
SHOWN = 100  # images on the sheet
MOST_ON_A_GRID = 1024


def draw(model: Model, seeds: Sequence[int], sampling: Sampling, **how: Any) -> Tensor:
    """The samples of `seeds` as they are stored: images as uint8 (count, channel, height, width). `how`: label, prompt, start,
    guidance, device, precision, of `Model.sample`.

    Raises Problem where the sampler diverged.
    """
    seeds = list(seeds)
    filled = [*seeds, *range(seeds[-1] + 1, seeds[-1] + 1 + -len(seeds) % BLOCK)]
    x = model.sample(filled, sampling, **how)[: len(seeds)].cpu()
    if not torch.isfinite(x).all():
        bad = next(seed for seed, image in zip(seeds, x, strict=True) if not torch.isfinite(image).all())
        raise Problem(
            f"the sampler {sampling.step.name} diverged: the {kind_of(model.spec).one} of seed {bad} holds numbers that are "
            "not finite; "
            "take more steps, or threshold clip"
        )
    return kind_of(model.spec).finish(x, model.spec)


def generate(
    model: Model,
    out: str | Path,
    count: int = 64,
    *,
    seed: int = 0,
    sampling: Sampling | None = None,
    label: int | None = None,
    prompt: str | None = None,
    start: str | None = None,
    format: str | None = None,
    batch_size: int = 64,
    precision: str | None = None,
    on_images: Callable[[int], object] | None = None,
    guidance: Sequence[Guidance] = (),
    known: dict[str, Any] | None = None,
) -> Path:
    """Write the samples of seeds `seed` ... `seed + count - 1` to the folder `out`; what is there is not made again.

    `format`: a file for each sample, by the suffix of its kind (png, txt, wav; points: one csv), "npz", or "grid", the sheet alone.

    `guidance` is what the samples must follow besides (`Model.sample`), and `known` tells it from any other, as JSON.
    `batch_size` is rounded up to a multiple of 16. `on_images` hears how many images are done, each time some are.
    Returns the picture of the first hundred. Raises UsageProblem where `out` holds samples of another configuration, or
    step, grid and model do not fit; Problem where the disk refuses.
    """
    if count < 1 or seed < 0 or batch_size < 1:
        raise UsageProblem(f"count and batch size must be 1 or more, seed 0 or more; not {count}, {batch_size}, {seed}")
    kind = kind_of(model.spec)
    format = kind.suffix if format is None else format
    if format not in kind.formats:
        raise unknown("format", format, kind.formats)
    if format == "grid" and count > MOST_ON_A_GRID:
        raise UsageProblem(f"a grid of {count} {kind.name} is too large to be seen; take --format {kind.suffix} or npz")
    sampling, out, state = sampling or model.recipe.sampling(), Path(out), crew()
    sampling.step.check(model.denoiser.process)
    sampling.grid(model.denoiser.process)
    model.asked([seed], label, prompt)
    model.recipe.begin(model.spec, [seed], start)
    how = {
        "label": label,
        "prompt": prompt,
        "start": start,
        "precision": precision or best_precision(default_device()),
        "guidance": guidance,
    }
    manifest = {
        "run": getattr(model, "source", None),
        "sampling": sampling.describe(),
        "seed": seed,
        "label": label,
        "precision": how["precision"],
        "format": format,
        "count": count,
        "known": known,
        "prompt": prompt,
        "start": start,
    }
    on_main(state, lambda: _begin(out, manifest))
    problem = None
    try:
        part = _Part(model, out, range(seed, seed + count), sampling, how, batch_size, state, on_images)
        sheet = part.make(format)
    except Problem as error:
        problem, sheet = error, None
    if problem is not None and state.is_main_process:
        _leave_nothing(out)
    fail_together(state, problem)
    if state.is_main_process:
        first = part.first(min(count, SHOWN)) if sheet is None else sheet
        kind.sheet(first, out, model.spec, columns=columns(model, len(first), label))
        begun, _ = model.recipe.begin(model.spec, range(seed, seed + len(first)), start)
        if begun is not None:  # the same sheet of what they were made from
            kind.sheet(kind.finish(begun, model.spec), out, model.spec, name="start")
    return kind.where(out, "")


class _Part:
    """What one process does of a job: which seeds are its own depends on the job alone, so nothing need be said."""

    def __init__(self, model, out, seeds, sampling, how, batch_size, state, on_images):
        self.model, self.out, self.seeds, self.sampling, self.how = model, out, seeds, sampling, how
        self.kind, self.spec = kind_of(model.spec), model.spec
        self.batch = -(-batch_size // BLOCK) * BLOCK
        self.rank, self.ranks, self.main = state.process_index, state.num_processes, state.is_main_process
        self.on_images = on_images or (lambda done: None)
        self.done = 0

    def shares(self, size: int) -> Iterator[range]:
        """This process's stretches of `size` seeds."""
        for i, start in enumerate(range(0, len(self.seeds), size)):
            if i % self.ranks == self.rank:
                yield self.seeds[start : start + size]

    def make(self, format: str) -> Tensor | None:
        """Write this process's samples; of the sheet alone, give them back."""
        if format == "grid":
            return torch.cat([x for _, x in self.samples(self.seeds)]) if self.main else None
        self.shards() if format == "npz" or self.kind.single else self.files()
        return None

    def first(self, count: int) -> Tensor:
        """The first samples, as they lie there; where all go into one file, that file is written now."""
        if not (self.out / "shards").is_dir():
            paths = sorted((self.out / self.kind.name).glob(f"*.{self.kind.suffix}"))[:count]
            return torch.stack([self.kind.read(path, self.spec) for path in paths])
        every = read_shards(self.out, self.kind.array, None if self.kind.single else count)
        if self.kind.single:
            self.kind.save(every, self.out / f"samples.{self.kind.suffix}", self.spec)
        return every[:count]

    def samples(self, seeds: Sequence[int]) -> Iterator[tuple[list[int], Tensor]]:
        for i in range(0, len(seeds), self.batch):
            some = list(seeds[i : i + self.batch])
            yield some, draw(self.model, some, self.sampling, **self.how)
            self.tell(len(some))

    def tell(self, more: int) -> None:
        self.done += more
        self.on_images(self.done)

    def files(self) -> None:
        folder, suffix = self.out / self.kind.name, self.kind.suffix
        there = {path.name for path in folder.glob(f"*.{suffix}")} if folder.is_dir() else set()
        missing = []
        for share in self.shares(self.batch):
            missing += [seed for seed in share if f"{seed:08d}.{suffix}" not in there]
            self.tell(sum(f"{seed:08d}.{suffix}" in there for seed in share))
        for seeds, samples in self.samples(missing):
            for seed, one in zip(seeds, samples, strict=True):
                self.kind.save(one, folder / f"{seed:08d}.{suffix}", self.spec)

    def shards(self) -> None:
        for share in self.shares(SHARD):
            path = self.out / "shards" / f"{share[0]:08d}.npz"
            if path.exists() and len(read_arrays(path).get("seeds", ())) == len(share):
                self.tell(len(share))
                continue
            samples = torch.cat([x for _, x in self.samples(share)])
            arrays = {self.kind.array: samples.numpy(), "seeds": np.array(share, np.int64)}
            if (cond := self.model.labels(share, self.how["label"])) is not None:
                arrays["labels"] = cond["label"].numpy()
            with write_whole(path) as aside:
                np.savez_compressed(aside, **arrays)


def columns(model: Model, count: int, label: int | None) -> int | None:
    """Columns of a sheet: a class each, where the classes take turns and are few."""
    classes = model.spec.num_classes if model.recipe.labelled and label is None else None
    return classes if classes and classes <= 16 and count > classes else None


def _begin(out: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest of a new folder, or see that it is that of the folder."""
    path = out / "sampling.json"
    if path.exists():
        before = _manifest(path)
        for name, value in json.loads(json.dumps(manifest)).items():
            if name != "count" and not _alike(before.get(name), value):
                what = _difference(name, before.get(name), value)
                raise UsageProblem(f"{out} holds samples made with {what}; choose another --out")
        manifest = {**manifest, "count": max(manifest["count"], before["count"])}
    elif out.exists() and (not out.is_dir() or any(p for p in out.iterdir() if not p.name.startswith("."))):
        raise UsageProblem(f"{out} is not empty and holds no samples to go on with; choose another --out")
    for folder in (out, *(p for p in out.glob("*") if p.is_dir())):
        sweep(folder)
    try:
        write_json(path, {**manifest, **provenance()})
    except Problem:
        _leave_nothing(out)
        raise


def _manifest(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        raise Problem(f"{path} cannot be read; remove {path.parent}, or choose another --out") from None


def _alike(a: Any, b: Any) -> bool:
    """A run may have been moved: its weights tell."""
    if isinstance(a, dict) and isinstance(b, dict) and "sha256" in a:
        return a["sha256"] == b.get("sha256")
    return a == b


def _difference(name: str, before: Any, now: Any) -> str:
    if isinstance(before, dict) and isinstance(now, dict):
        if name == "run":
            return f"other weights (step {before.get('step')} of {before.get('path')})"
        key = next(k for k in [*before, *now] if before.get(k) != now.get(k))
        return f"{key} {before.get(key)}, not {now.get(key)}"
    return f"{name} {before}, not {now}"


def _leave_nothing(out: Path) -> None:
    """Remove the folder of a job that failed before its first image."""
    if any(p.is_file() and not p.name.startswith(".") for p in out.glob("*/*")) or any(out.glob("grid.*")):
        return
    with contextlib.suppress(OSError):
        (out / "sampling.json").unlink(missing_ok=True)
        for folder in (*out.glob("*"), out):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()


# Trajectories


def trajectory(model: Model, seeds: Sequence[int], sampling: Sampling, states: int = 10, **how: Any) -> list[Tensor]:
    """Of images: about `states` states on the way from noise to data, each uint8 (count, channel, height, width).

    States are shown at unit scale, x / sqrt(alpha^2 + sigma^2), so that processes whose noise explodes are seen, too.
    Raises UsageProblem for models of anything but images.
    """
    if model.spec.kind != "images":
        raise UsageProblem(f"a trajectory is drawn of images, and this model makes {model.spec.kind}; leave it out")
    total = len(sampling.grid(model.denoiser.process))
    chosen = {round(i * (total - 1) / max(1, states - 1)) for i in range(states)}
    found: list[Tensor] = []

    def watch(i: int, point: Any, x: Tensor) -> None:
        if i in chosen:
            scale = getattr(point, "alpha", 1.0) ** 2 + getattr(point, "sigma", 0.0) ** 2
            found.append(to_uint8(x[: len(seeds)].cpu() / scale**0.5))

    filled = [*seeds, *range(max(seeds) + 1, max(seeds) + 1 + -len(seeds) % BLOCK)]
    model.sample(filled, sampling, watch=watch, **how)
    return found


def save_trajectory(states: list[Tensor], path: Path) -> Path:
    """Write states as a film (.gif), or as a picture (.png) with a row for each sample, noise at the left."""
    if path.suffix == ".gif":
        return save_gif([grid(state) for state in states], path)
    rows = torch.stack(states, 1).flatten(0, 1)
    return save_png(grid(rows, columns=len(states)), path)
