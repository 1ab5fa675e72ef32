"""The recipe: what a paper's file fills in, and all that the commands need to know of a paper."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Annotated, Any, ClassVar, get_type_hints

import torch
from torch import Tensor
from tyro.conf import arg

from .denoisers import Denoiser, Guidance, clip, dynamic_threshold
from .errors import UsageProblem, unknown
from .networks import UNetOptions
from .objectives import Flipped, Objective
from .processes import Process
from .samplers import GRIDS, SAMPLERS, Ancestral, Grid, Step, Uniform
from .training.options import TrainingOptions

Training = Annotated[TrainingOptions, arg(name="")]
"""Training options, whose flags carry no prefix on the command line."""


LAPTOP_NETWORK = UNetOptions(channels=32, mult=(1, 2, 2), blocks=1, attention=(4,), resample="conv")
"""1.2 M parameters, the widest for its time on processors that multiply 32 channels at once."""

LAPTOP_TRAINING = TrainingOptions(
    steps=1800, batch_size=64, lr=1e-3, warmup=100, decay="linear", ema=20_000, checkpoint_every=500
)
"""About nine minutes on two cores for images of 28x28, at the 217 images/s that a demo showed."""


@dataclass(frozen=True)
class Spec:
    """What a model must know of its data: enough to build it, and to sample from it without the data at hand.

    `shape` (channels, height, width), number of classes (None: no labels), grey levels, and the standard deviation in [-1, 1].
    """

    shape: tuple[int, ...]
    classes: tuple[str, ...] | None = None
    levels: int = 256
    std: float = 0.5

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "classes", None if self.classes is None else tuple(self.classes))

    @classmethod
    def of(cls, data) -> Spec:
        """The spec of a data set; the deviation is that of up to 2,000 images spread over it."""
        rows = torch.linspace(0, len(data) - 1, min(2000, len(data))).long()
        std = float(data.batch(rows).x.double().std())
        return cls(data.shape, data.classes, data.levels, round(std, 4))

    @property
    def num_classes(self) -> int | None:
        return None if self.classes is None else len(self.classes)


@dataclass(frozen=True)
class Sampling:
    """How to sample: a step, a grid, the weight of classifier-free guidance, and the thresholding of the guess."""

    step: Step = field(default_factory=Ancestral)
    grid: Grid = field(default_factory=Uniform)
    guidance: float = 1.0
    threshold: str = "none"

    def __post_init__(self) -> None:
        if self.threshold not in THRESHOLDS:
            raise unknown("threshold", self.threshold, THRESHOLDS)

    def changed(
        self,
        sampler: str | None = None,
        grid: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        threshold: str | None = None,
        options: dict[str, str] | None = None,
    ) -> Sampling:
        """This sampling with other parts, by name; `options` sets further fields of the step or the grid."""
        new_step, new_grid = self.step, self.grid
        if sampler is not None and sampler != self.step.name:
            new_step = _named("sampler", sampler, SAMPLERS)()
        if grid is not None and grid != self.grid.name:
            new_grid = _named("grid", grid, GRIDS)(steps=self.grid.steps)
        if steps is not None:
            new_grid = replace(new_grid, steps=steps)
        for name, text in (options or {}).items():
            if name in _options(new_step):
                new_step = replace(new_step, **{name: _parse(new_step, name, text)})
            elif name in _options(new_grid):
                new_grid = replace(new_grid, **{name: _parse(new_grid, name, text)})
            else:
                raise unknown("option", name, [*_options(new_step), *_options(new_grid)])
        weight = self.guidance if guidance is None else guidance
        return Sampling(new_step, new_grid, weight, self.threshold if threshold is None else threshold)

    def describe(self) -> dict[str, Any]:
        """The names and numbers, for run folders and results."""
        return {
            "sampler": self.step.name,
            **_options(self.step),
            "grid": self.grid.name,
            **_options(self.grid),
            "guidance": self.guidance,
            "threshold": self.threshold,
        }


THRESHOLDS: dict[str, Callable[[], tuple[Guidance, ...]]] = {
    "none": lambda: (),
    "clip": lambda: (clip(),),
    "dynamic": lambda: (dynamic_threshold(),),
}


def _named(kind: str, name: str, table: dict[str, type]) -> type:
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]


def _options(part: Step | Grid) -> dict[str, Any]:
    values = {f.name: getattr(part, f.name) for f in fields(part)}  # type: ignore[arg-type]
    return {name: v.name if isinstance(v, Step) else v for name, v in values.items()}


def _parse(part: Step | Grid, name: str, text: str) -> Any:
    """The text of an option as the type of its field."""
    if isinstance(getattr(part, name), Step):
        return _named("sampler", text, SAMPLERS)()
    kind = str(get_type_hints(type(part))[name]).removeprefix("<class '").removesuffix("'>")
    try:
        if text.lower() in ("none", "null") and "None" in kind:
            return None
        if "bool" in kind:
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if "float" in kind:
            return float(text)
        if "int" in kind:
            return int(text)
    except (KeyError, ValueError):
        raise UsageProblem(f"the option {name} takes {kind}, not {text!r}") from None
    return text


@dataclass(frozen=True)
class Recipe:
    """A paper as options with defaults that train in minutes on two cores (the laptop preset).

    A paper's file derives from this, names its process, denoiser, objective and sampler, and its published configuration.
    """

    data: str = "fashion-mnist"
    """What it trains on unless told otherwise: a built-in set, a folder of images, or hf:owner/name."""
    conditional: bool = False
    """Whether the network is told the class."""
    flip: bool = False
    """Whether images are mirrored at random."""
    network: UNetOptions = LAPTOP_NETWORK
    training: Training = LAPTOP_TRAINING

    slug: ClassVar[str] = ""
    info: ClassVar[Any] = None

    @classmethod
    def laptop(cls) -> Recipe:
        """Minutes on two cores."""
        return cls()

    @classmethod
    def paper(cls) -> Recipe:
        """The published configuration."""
        raise NotImplementedError

    @classmethod
    def preset(cls, name: str) -> Recipe:
        if name not in ("laptop", "paper"):
            raise unknown("preset", name, ["laptop", "paper"])
        return getattr(cls, name)()

    def fitted(self, data: Any) -> Recipe:
        """This recipe with the options filled in that are left to the data it will train on (a data set)."""
        return self

    def process(self) -> Process:
        """How data is destroyed."""
        raise NotImplementedError

    def denoiser(self, spec: Spec) -> Denoiser:
        """The network on the process, freshly initialised."""
        raise NotImplementedError

    def objective(self, spec: Spec) -> Objective:
        """What it is taught by."""
        raise NotImplementedError

    def sampling(self) -> Sampling:
        """The paper's own sampler."""
        raise NotImplementedError

    def lesson(self, spec: Spec) -> Objective:
        """The objective with the augmentation that the options ask for."""
        objective = self.objective(spec)
        return Flipped(objective) if self.flip else objective

    def build_network(self, spec: Spec, outputs: int = 1) -> torch.nn.Module:
        """The U-Net for this data; `outputs` is 2 where variances are learned beside the mean."""
        channels = spec.shape[0]
        if self.conditional and spec.num_classes is None:
            raise UsageProblem(
                f"{self.slug} is class-conditional, and these data have no labels; pass --no-conditional"
            )
        return self.network.build(channels, outputs * channels, spec.num_classes if self.conditional else None)

    def condition(self, cond: dict[str, Tensor] | None) -> dict[str, Tensor] | None:
        """What of a batch's conditions the network is given."""
        return cond if self.conditional else None

    def as_dict(self) -> dict[str, Any]:
        """Options for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Recipe:
        """A recipe from `as_dict`'s JSON. Raises UsageProblem for options that this version does not know."""
        return _rebuild(cls, values)


def _rebuild(cls: type, values: dict[str, Any]) -> Any:
    hints, known = get_type_hints(cls), {f.name for f in fields(cls)}
    if strange := sorted(set(values) - known):
        raise UsageProblem(f"{cls.__name__} has no option {strange[0]!r}; it was written by another version of unnoise")
    built = {}
    for name, value in values.items():
        kind = hints[name]
        if is_dataclass(kind) and isinstance(value, dict):
            value = _rebuild(kind, value)
        built[name] = tuple(value) if isinstance(value, list) else value
    return cls(**built)
