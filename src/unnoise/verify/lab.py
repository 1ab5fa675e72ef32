"""The laboratory: trains models once, keeps them, samples from them, and measures distances to held-out data.

Everything is kept under one folder by what it is (a hash of the recipe, the data and the seed), so claims share their models,
and an interrupted verification goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields, is_dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..data import load
from ..denoisers import clip
from ..disk import write_json, write_whole
from ..figures import draw
from ..likelihood import BoundTerms, Discretised, variational_bound
from ..metrics import classify, features, frechet_distance, sliced_wasserstein
from ..model import Model, train_model
from ..networks import UNetOptions
from ..recipe import Recipe, Sampling
from ..rng import Rng, stream
from ..samplers import Ancestral, Grid
from ..training.options import TrainingOptions

R = TypeVar("R", bound=Recipe)


def _key(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:16]


def chosen(options: Any) -> Any:
    """What differs from the defaults in a dataclass of options, and in those within it: an option that is added later, and left
    alone, changes nothing, so models trained before it stay known."""
    if isinstance(options, (list, tuple)):
        return [chosen(value) for value in options]
    if not is_dataclass(options):
        return options
    told = {}
    for f in fields(options):
        default = (
            f.default if f.default is not MISSING else f.default_factory() if callable(f.default_factory) else MISSING
        )
        if (value := getattr(options, f.name)) != default:
            told[f.name] = chosen(value)
    return told


class Lab:
    """Where claims are measured. `seeds` are the training seeds of claims that repeat."""

    def __init__(self, root: Path, seeds: tuple[int, ...] = (0, 1, 2), say: Callable[[str], object] = print):
        self.root, self.seeds, self.say = Path(root), seeds, say
        self.used: dict[str, float] = {}
        self.gallery = self.root / "pictures"

    @staticmethod
    @lru_cache
    def data(name: str, split: str = "train", size: int | None = None):
        """A split of a data set."""
        return load(name, split, size=size)

    def train(
        self,
        recipe: Recipe,
        seed: int = 0,
        size: int | None = None,
        limit: int | None = None,
        rows: Sequence[int] | None = None,
    ) -> Model:
        """The model that this recipe trains with this seed; trained now if it was not before.

        `size` rescales the images, `limit` keeps only the first so many of them, `rows` only these.
        """
        recipe = replace(recipe, training=replace(recipe.training, seed=seed, preview_every=0))
        data = self.data(recipe.data, "train", size)
        if limit is not None:
            data = First(data, limit)
        if rows is not None:
            data = Chosen(data, rows)
        key = _key(recipe.slug, chosen(recipe), data.fingerprint)
        path = self.root / "models" / f"{recipe.slug}-{key}"
        if not (path / "finished.json").exists():
            self.say(f"training {recipe.slug}, seed {seed}, {recipe.training.steps} steps on {data.name} ({path.name})")
            start = time.monotonic()
            train_model(recipe, data, path, preview=False)
            write_json(path / "finished.json", {"seconds": time.monotonic() - start})
        self.used[path.name] = json.loads((path / "finished.json").read_text())["seconds"]
        model = Model.load(path)
        model.path = path  # type: ignore[attr-defined]
        return model

    def digits(
        self,
        recipe: type[R],
        seed: int = 0,
        steps: int = 1500,
        limit: int | None = None,
        small: bool = False,
        **options,
    ) -> Model:
        """A recipe on the 8x8 digits with the network and the short training that the experiments share: 0.8 M parameters
        in two levels, or 0.2 M in one (`small`)."""
        network = UNetOptions(channels=32, mult=(1, 2), blocks=1, attention=(2,), dropout=0.1)
        if small:
            network = UNetOptions(channels=32, mult=(1,), blocks=1, attention=(), dropout=0.1)
        training = TrainingOptions(
            steps=steps, batch_size=64, lr=1e-3, warmup=100, decay="linear", ema=20_000, checkpoint_every=500
        )
        return self.train(recipe(data="digits", network=network, training=training, **options), seed, limit=limit)

    def samples(
        self,
        model: Model,
        count: int,
        sampling: Sampling | None = None,
        *,
        first: int = 0,
        label: int | None = None,
        prompts: Sequence[str] | None = None,
    ) -> Tensor:
        """`count` samples in [-1, 1] from seeds `first`, `first` + 1, ..., each of its own prompt if given; kept on disk."""
        sampling = sampling or model.recipe.sampling()
        said = [] if prompts is None else [list(prompts)]
        key = _key(model.path.name, sampling.describe(), count, first, label, *said)  # type: ignore[attr-defined]
        file = self.root / "samples" / f"{key}.safetensors"
        if not file.exists():
            seeds, parts = range(first, first + count), []
            for i in range(0, count, 256):
                prompt = None if prompts is None else prompts[i : i + 256]
                parts.append(model.sample(seeds[i : i + 256], sampling, label=label, prompt=prompt))
            with write_whole(file) as aside:
                save_file({"x": torch.cat(parts).contiguous()}, aside)
        return load_file(file)["x"]

    def picture(self, name: str, paint: Callable[..., object], panels: int = 1) -> str:
        """Draw a figure of the claim that is being measured (see `figures.draw`) and give its name, for the Finding."""
        draw(self.gallery / f"{name}.png", paint, panels)
        return name

    def gallery_of(self, name: str, rows: dict[str, Tensor], columns: int = 12) -> str:
        """As `picture`: images of one channel or three in [-1, 1], the first `columns` of each named row."""

        def paint(axes):
            shown = [torch.cat(list(x[:columns]), 2) for x in rows.values()]
            sheet = ((torch.cat(shown, 1).clamp(-1, 1) + 1) / 2).permute(1, 2, 0)
            axes.imshow(sheet.expand(-1, -1, 3).numpy(), interpolation="nearest")
            height = sheet.shape[0] / len(rows)
            axes.set_yticks([(i + 0.5) * height for i in range(len(rows))], list(rows))
            axes.set_xticks([])
            axes.grid(False)

        return self.picture(name, paint)

    def bits(self, model: Model, reverse: Ancestral, grid: Grid, count: int = 48) -> BoundTerms:
        """The bound of the first `count` held-out images along a grid, bits/dim, with the guess clipped as the papers do."""
        x0 = self.held_out(model.recipe.data)[:count]
        rng = Rng.from_seeds(range(len(x0))).spawn(1)
        points = grid(model.denoiser.process)
        return variational_bound(
            clip()(model.denoiser), reverse, points, x0, rng, decoder=Discretised(model.spec.levels)
        )

    def held_out(self, name: str, size: int | None = None) -> Tensor:
        """The held-out images, in [-1, 1]."""
        data = self.data(name, "held-out", size)
        return data.batch(range(len(data))).x

    def sliced(self, x: Tensor, y: Tensor) -> float:
        """Sliced Wasserstein-2 distance in pixels, 256 fixed projections."""
        return float(sliced_wasserstein(x.flatten(1), y.flatten(1), projections=256, seed=0))

    def frechet(self, x: Tensor, y: Tensor, name: str = "classifier") -> float:
        """Frechet distance in the features of the project's classifier for images of this shape."""
        embed = features(name, tuple(x.shape[1:]))
        return float(frechet_distance(embed(x), embed(y)))

    def probabilities(self, x: Tensor) -> Tensor:
        """Class probabilities (batch, classes) by the project's classifier for images of this shape."""
        return classify(x)

    def difference(self, statistic: Callable[[Tensor], float], a: Tensor, b: Tensor, draws: int = 50):
        """statistic(a) - statistic(b), with a 90 % interval from random halves of both (see `metrics.evaluation`)."""
        value, generator = statistic(a) - statistic(b), stream(0, 7)
        found = []
        for _ in range(draws):
            i = torch.randperm(len(a), generator=generator)[: len(a) // 2]
            j = torch.randperm(len(b), generator=generator)[: len(b) // 2]
            found.append(statistic(a[i]) - statistic(b[j]))
        spread = torch.tensor(found, dtype=torch.float64)
        low, high = (spread - spread.mean()).quantile(torch.tensor([0.05, 0.95], dtype=torch.float64)).tolist()
        return value, value + low, value + high


class First:
    """The first rows of a data set."""

    def __init__(self, data, limit: int):
        self.data, self.limit = data, min(limit, len(data))
        self.fingerprint = f"{data.fingerprint}:{self.limit}"

    def __getattr__(self, name: str):
        return getattr(self.data, name)

    def __len__(self) -> int:
        return self.limit

    def batch(self, indices):
        return self.data.batch(indices)


class Chosen(First):
    """Some rows of a data set."""

    def __init__(self, data, rows: Sequence[int]):
        super().__init__(data, len(rows))
        self.rows = torch.as_tensor(rows, dtype=torch.int64)
        self.fingerprint = f"{data.fingerprint}:{_key(self.rows.tolist())}"

    def batch(self, indices):
        return self.data.batch(self.rows[torch.as_tensor(indices, dtype=torch.int64)])
