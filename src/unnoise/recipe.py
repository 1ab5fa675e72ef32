"""The recipe: what a paper's file fills in, and all that the commands need to know of a paper."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

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
"""About seven minutes on two cores for images of 28x28, at 290 images/s."""


@dataclass(frozen=True)
class Spec:
    """What a model must know of its data: enough to build it, and to sample from it without the data at hand.

    shape      of one row, as a model sees it: (channels, height, width) of images in [-1, 1]
    classes    their names, or None
    levels     grey levels of images
    std        the standard deviation of the numbers
    kind       images, text, sound or points (`unnoise.kinds`)
    alphabet   of text: what each token stands for; rate: of sound, samples a second; manifold: where points lie
    """

    shape: tuple[int, ...]
    classes: tuple[str, ...] | None = None
    levels: int = 256
    std: float = 0.5
    kind: str = "images"
    alphabet: tuple[str, ...] | None = None
    rate: int | None = None
    manifold: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        for name in ("classes", "alphabet"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))

    @classmethod
    def like(cls, data) -> Spec:
        """The spec of a data set but for the deviation: no row is read."""
        return cls(
            data.shape,
            data.classes,
            data.levels,
            kind=data.kind,
            alphabet=data.alphabet,
            rate=data.rate,
            manifold=data.manifold,
        )

    @classmethod
    def of(cls, data) -> Spec:
        """The spec of a data set; the deviation is that of up to 2,000 rows spread over it."""
        rows = torch.linspace(0, len(data) - 1, min(2000, len(data))).long()
        std = float(data.batch(rows).x.double().std())
        return replace(cls.like(data), std=round(std, 4))

    @property
    def num_classes(self) -> int | None:
        return None if self.classes is None else len(self.classes)


@dataclass(frozen=True)
class Sampling:
    """How to sample: a step, a grid, the weights of classifier-free and of classifier guidance (0: none), and the thresholding of
    the guess."""

    step: Step = field(default_factory=Ancestral)
    grid: Grid = field(default_factory=Uniform)
    guidance: float = 1.0
    threshold: str = "none"
    classifier: float = 0.0

    def __post_init__(self) -> None:
        if self.threshold not in THRESHOLDS:
            raise unknown("threshold", self.threshold, THRESHOLDS)
        for name in ("guidance", "classifier"):
            if not math.isfinite(weight := getattr(self, name)):
                raise UsageProblem(f"{name} is {weight}, but a weight is a finite number")
        self.step.fits(self.grid.steps)

    def changed(
        self,
        sampler: str | None = None,
        grid: str | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        threshold: str | None = None,
        options: dict[str, str] | None = None,
        classifier: float | None = None,
    ) -> Sampling:
        """This sampling with other parts, by name. `options` sets further fields of the step or the grid, as text: `a.b` is the
        option b of the step that is option a, and `grid.b` the grid's b, where the step has a b as well."""
        step = self.step if sampler in (None, self.step.name) else _named("sampler", sampler, SAMPLERS)()
        times = self.grid if grid in (None, self.grid.name) else _named("grid", grid, GRIDS)(steps=self.grid.steps)
        if steps is not None:
            times = replace(times, steps=steps)
        for_step, for_grid = {}, {}
        for name, text in (options or {}).items():
            head, _, rest = name.partition(".")
            if head in _names(step):
                for_step[name] = text
            elif name in _names(times) or (head == "grid" and rest in _names(times)):
                for_grid[rest or name] = text
            else:
                raise unknown("option", name, [*_options(step), *_options(times)])
        weight = self.guidance if guidance is None else guidance
        step, times = _with(step, for_step), _with(times, for_grid)
        pull = self.classifier if classifier is None else classifier
        return Sampling(step, times, weight, self.threshold if threshold is None else threshold, pull)

    def within(self, evaluations: int) -> Sampling | None:
        """With as many steps as cost at most so many evaluations; None where not even one step does, or nobody knows before."""
        for steps in range(evaluations, 0, -1):
            cost = self.step.evaluations(steps)
            if cost is not None and cost <= evaluations and steps >= self.step.least_steps:
                return self.changed(steps=steps)
        return None

    def describe(self) -> dict[str, Any]:
        """The names and numbers, all of them, for JSON: run folders, results, and `from_dict`."""
        of_step = _options(self.step)
        return {
            "sampler": self.step.name,
            **of_step,
            "grid": self.grid.name,
            **{f"grid.{name}" if name in of_step else name: value for name, value in _options(self.grid).items()},
            "guidance": self.guidance,
            "threshold": self.threshold,
            **({"classifier": self.classifier} if self.classifier else {}),
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Sampling:
        """The sampling that `describe` told. Raises UsageProblem for what this version does not know."""
        values = dict(values)
        try:
            sampler, grid, threshold = (str(values.pop(name)) for name in ("sampler", "grid", "threshold"))
            weight, pull = float(values.pop("guidance")), float(values.pop("classifier", 0.0))
        except (KeyError, TypeError, ValueError) as error:
            raise UsageProblem(
                f"this does not describe a sampling ({error}); it needs sampler, grid, guidance and threshold"
            ) from None
        options = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
        return cls(guidance=weight, threshold=threshold, classifier=pull).changed(sampler, grid, options=options)


THRESHOLDS: dict[str, Callable[[], tuple[Guidance, ...]]] = {
    "none": lambda: (),
    "clip": lambda: (clip(),),
    "dynamic": lambda: (dynamic_threshold(),),
}


def _named(kind: str, name: str, table: dict[str, type]) -> type:
    if name not in table:
        raise unknown(kind, name, table)
    return table[name]


def _names(part: Step | Grid) -> set[str]:
    return {f.name for f in fields(part)}  # type: ignore[arg-type]


def _options(part: Step | Grid) -> dict[str, Any]:
    """Names and values; the options of a step within follow its name, with a dot."""
    found: dict[str, Any] = {}
    for f in fields(part):  # type: ignore[arg-type]
        value = getattr(part, f.name)
        if isinstance(value, Step):
            found[f.name] = value.name
            found |= {f"{f.name}.{name}": inner for name, inner in _options(value).items()}
        else:
            found[f.name] = value
    return found


def _with(part: Any, options: dict[str, str], path: str = "") -> Any:
    """The part with these options, all set at once; those of a step within it after that step itself."""
    changes: dict[str, Any] = {}
    within: dict[str, dict[str, str]] = {}
    for name, text in options.items():
        head, dot, rest = name.partition(".")
        if dot:
            within.setdefault(head, {})[rest] = text
        else:
            changes[name] = _parse(part, name, text)
    for head, inner in within.items():
        step = changes.get(head, getattr(part, head, None))
        for name in inner:
            if not isinstance(step, Step) or name.partition(".")[0] not in _names(step):
                known = [f"{path}{option}" for option in _options(replace(part, **changes))]
                raise unknown("option", f"{path}{head}.{name}", known)
        changes[head] = _with(step, inner, f"{path}{head}.")
    return replace(part, **changes) if changes else part


def _parse(part: Step | Grid, name: str, text: str) -> Any:
    """The text of an option as the type of its field."""
    kind = get_type_hints(type(part))[name]
    try:
        return _value(kind, text)
    except (KeyError, ValueError):
        words = str(kind).removeprefix("<class '").removesuffix("'>")
        takes = f"one of {', '.join(map(str, get_args(kind)))}" if get_origin(kind) is Literal else words
        raise UsageProblem(f"the option {name} takes {takes}, not {text!r}") from None


def _value(kind: Any, text: str) -> Any:
    inside = get_args(kind)
    if NoneType in inside:
        return None if text.lower() in ("none", "null") else _value(inside[0], text)
    if kind is Step:
        return _named("sampler", text, SAMPLERS)()
    if get_origin(kind) is Literal:
        return {str(value): value for value in inside}[text]
    if get_origin(kind) is tuple:
        return _tuple(kind, json.loads(text if text.startswith("[") else f"[{text}]"))
    if kind is bool:
        return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
    return kind(text) if kind in (int, float) else text


def _tuple(kind: Any, value: Any) -> Any:
    """Lists of numbers as tuples of them, as deep as the type says. Raises ValueError for anything else."""
    if get_origin(kind) is tuple and isinstance(value, list):
        return tuple(_tuple(get_args(kind)[0], inner) for inner in value)
    if get_origin(kind) is tuple or isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(value)
    return float(value)


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

    presets: ClassVar[tuple[str, ...]] = ("laptop", "paper")
    """Configurations by name, each a class method: "paper-256" is `paper_256`."""
    takes: ClassVar[tuple[str, ...]] = ("images",)
    """The kinds of data it can learn."""
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
        if name not in cls.presets:
            raise unknown("preset", name, cls.presets)
        return getattr(cls, name.replace("-", "_"))()

    def fitted(self, data: Any) -> Recipe:
        """This recipe with the options filled in that are left to the data it will train on (a data set)."""
        return self

    def earlier(self) -> Mapping[str, Recipe | str]:
        """What is trained before, by name, on the same data: its recipe, or the folder of a run to take it from (stages.py)."""
        return {}

    def receive(
        self, stages: Mapping[str, Any], denoiser: torch.nn.Module, objective: torch.nn.Module, data: Any
    ) -> None:
        """Give what became of the stages (models, by name) to the denoiser and the objective, new or about to be taken up."""

    def pictured(self, denoiser: Any, data: Any) -> Tensor | None:
        """What previews show of a model that makes no samples by itself, (count, *shape): reconstructions. None for nothing."""
        return None

    def process(self) -> Process:
        """How data is destroyed."""
        raise NotImplementedError

    def denoiser(self, spec: Spec) -> Denoiser[Any]:
        """The network on the process, freshly initialised."""
        raise NotImplementedError

    def objective(self, spec: Spec) -> Objective:
        """What it is taught by."""
        raise NotImplementedError

    def sampling(self) -> Sampling:
        """The paper's own sampler."""
        raise NotImplementedError

    @property
    def labelled(self) -> bool:
        """Whether labels reach the model: its network, or a classifier beside it."""
        return self.conditional or bool(getattr(self, "classifier", False))

    def lesson(self, spec: Spec) -> Objective:
        """The objective with the augmentation that the options ask for."""
        objective = self.objective(spec)
        return Flipped(objective) if self.flip else objective

    def build_network(self, spec: Spec, outputs: int = 1, inputs: int = 1) -> torch.nn.Module:
        """The U-Net for this data; `outputs` is 2 where variances are learned, too, `inputs` where it sees a velocity."""
        channels = spec.shape[0]
        return self.network.build(inputs * channels, outputs * channels, self.classes_told(spec))

    def classes_told(self, spec: Spec) -> int | None:
        """How many classes the network is told of, if any. Raises UsageProblem where it should be, and the data have none."""
        if self.conditional and spec.num_classes is None:
            raise UsageProblem(
                f"{self.slug} is class-conditional, and these data have no labels; pass --no-conditional"
            )
        return spec.num_classes if self.conditional else None

    def condition(self, batch: Any) -> dict[str, Tensor] | None:
        """What the network is told of a batch (x, label, caption)."""
        return batch.cond if self.labelled else None

    def prompt(self, spec: Spec, text: str) -> tuple[dict[str, Tensor] | None, tuple[Guidance, ...]]:
        """What a user's words ask of samples: conditions of one sample, without the batch's axis, and guidance."""
        raise UsageProblem(f"{self.slug} takes no prompt; leave --prompt out")

    def unprompted(self, spec: Spec, seeds: Sequence[int]) -> dict[str, Tensor] | None:
        """What samples are told besides labels where there is no prompt, a row for each seed: of models that must be told."""
        return None

    def completed(self, x: Tensor, told: Mapping[str, Tensor]) -> Tensor:
        """Samples as data, with those parts put in place that they were told: as they are, unless the model is told parts."""
        return x

    def begin(self, spec: Spec, seeds: Sequence[int], start: str | None) -> tuple[Tensor | None, tuple[Guidance, ...]]:
        """Where samples begin, one state for each seed, and the guidance that goes with it; None where they begin with noise.
        `start` is what a user says of it: the name of a data set."""
        if start is not None:
            raise UsageProblem(f"samples of {self.slug} begin with noise; leave --start out")
        return None, ()

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
        if isinstance(kind, type) and is_dataclass(kind) and isinstance(value, dict):
            value = _rebuild(kind, value)
        built[name] = tuple(value) if isinstance(value, list) else value
    return cls(**built)
