"""The one training loop. It knows no paper and no process: an objective gives losses, a data set gives batches."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from signal import Signals

import torch
from torch import Tensor, nn

from ..disk import disk_errors
from ..errors import Diverged, UsageProblem
from .budget import Budget
from .checkpoint import read_state, read_tensors
from .distributed import agreed, make_accelerator, on_main, one_voice
from .feed import Order, feed
from .interrupt import Interrupted, Wish
from .learner import Learner
from .options import TrainingOptions
from .precision import in_precision
from .progress import Progress
from .run import Run

Preview = Callable[[nn.Module, int, Path], object]


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished training gives back."""

    steps: int
    images: int
    loss: float | None  # the last one; None if there was nothing left to do
    seconds: float  # of training, over all sessions of the run
    checkpoint: Path


def train(
    objective: nn.Module,
    denoiser: nn.Module,
    dataset,
    options: TrainingOptions,
    run: Run,
    *,
    preview: Preview | None = None,
    on_step: Callable[[dict], object] | None = None,
) -> Result:
    """Train `denoiser`, and what `objective` holds, on `dataset`: from the newest checkpoint of `run`, if it has one.

    objective   objective(denoiser, x0, cond, rng, turn) -> Loss (a dataclass of tensors (batch,), see `objectives`); may offer
                `turns`, the names of the updates of one step; `parameters_of(denoiser, turn)`, what each moves;
                `turn_options[turn]`, its own lr, betas, eps, weight_decay; `prepare(step, shown)`, called before
                each step, which turns it takes (`with shown() as denoiser` has the averaged weights); `observe(loss)`,
                called after each update with the loss of the whole global batch; `follow(denoiser)`, called after each step
                with the weights that moved; `full_precision`, where it differentiates the network twice
    dataset     len(dataset); dataset.batch(indices) -> object with x (batch, ...) and cond (dict of tensors, or None)
    preview     preview(denoiser, step, folder) leaves pictures in the folder; the denoiser holds the averaged weights
    on_step     gets each line of metrics as a dict

    On the same machine with as many processes, a resumed run continues to the last bit. Raises Diverged when the loss is
    no longer finite, when the disk refuses, when the checkpoint does not fit; Interrupted after SIGINT or SIGTERM.
    """
    accelerator = make_accelerator(options.trackers, run.path)
    device = accelerator.device
    with ExitStack() as stack:
        stack.enter_context(one_voice(accelerator))
        options = replace(options, precision=_precision(options, objective, accelerator))
        on_main(accelerator, lambda: stack.enter_context(run.locked()) and None)
        stack.enter_context(torch.random.fork_rng([device] if device.type == "cuda" else []))
        learner = Learner(objective, denoiser, options, accelerator)
        stack.callback(learner.release)
        stack.enter_context(in_precision(learner.lesson, device, options.precision))
        return _Training(learner, dataset, options, run, preview, on_step).finish()


def _precision(options: TrainingOptions, objective, accelerator) -> str:
    from ..runtime import best_precision, tune_allocator

    if accelerator.device.type == "cpu":
        tune_allocator()
    precision = best_precision(accelerator.device) if options.precision == "auto" else options.precision
    if any(getattr(part, "full_precision", False) for part in objective.modules()) and precision != "fp32":
        if options.precision != "auto":
            raise UsageProblem(
                "this objective differentiates the network twice, in full precision; use --precision fp32"
            )
        precision = "fp32"
    if precision == "fp16" and accelerator.is_fsdp2:
        raise UsageProblem("float16 does not go together with sharded training; use --precision bf16")
    return precision


class _Training:
    """A training under way: where it is, and what it leaves in the run folder."""

    def __init__(self, learner: Learner, dataset, options: TrainingOptions, run: Run, preview, on_step):
        self.learner, self.dataset, self.options, self.run = learner, dataset, options, run
        self.preview, self.on_step = preview, on_step
        self.accelerator = learner.accelerator
        self.step, self.seconds, self.loss = 0, 0.0, None
        self.steps = None if options.minutes else options.steps  # None: not known yet
        self.saved: int | None = None  # the step of the newest checkpoint
        self.pending: list[Tensor] = []  # what the last steps report, not yet read from the device
        self.window: list[dict[str, float]] = []  # what was read since the last line of metrics
        # Reading a number makes a GPU wait, so it is done every few steps. A checkpoint always waits for it.
        self.lag = 16 if self.accelerator.device.type == "cuda" else 1
        self.drawing = (0.0, -math.inf)  # seconds it took to draw the loss, and when that was

    def finish(self) -> Result:
        """Take all steps that are left."""
        options = self.options
        if not len(self.dataset):
            raise UsageProblem("the data set is empty; there is nothing to train on")
        self.restore()
        self.start_trackers()
        order = Order(len(self.dataset), options.batch_size, options.seed)
        budget = Budget(options.minutes) if self.steps is None and options.minutes else None
        with (
            Wish() as wish,
            closing(feed(self.dataset, order, self.step, self.learner.places)) as batches,
            Progress(self.step, self.steps, visible=self.accelerator.is_main_process) as self.progress,
        ):
            if self.step:
                self.progress.say(f"continuing {self.run.path} from step {self.step}")
            self.clock = time.perf_counter()
            while self.step != self.steps:
                factor = options.learning_rate(self.step, self.steps) / options.lr
                self.pending.append(self.learner.step(self.step, next(batches), factor))
                self.step += 1
                save, show = self.due(options.checkpoint_every), self.due(options.preview_every)
                if save or show or budget or len(self.pending) == self.lag:
                    signal = agreed(self.accelerator, wish.number)
                    self.read(close=save or signal != 0)
                    if save or signal:
                        self.save()
                    if signal:
                        raise self.interrupted(signal)
                    if show:
                        self.show()
                    if budget and agreed(self.accelerator, budget.tick()):
                        self.fix_steps(budget)
                        budget = None
        on_main(self.accelerator, lambda: self.draw(last=True))
        for tracker in self.accelerator.trackers:
            tracker.finish()
        checkpoint = self.run.checkpoint_path(self.step)
        return Result(self.step, self.step * options.batch_size, self.loss, self.seconds, checkpoint)

    def due(self, every: int) -> bool:
        """Is something that happens every so many steps, and at the end, to happen now?"""
        return bool(every) and (self.step % every == 0 or self.step == self.steps)

    def fix_steps(self, budget: Budget) -> None:
        """Decide how many steps the budget holds, and write it down, so that a resumed run ends at the same step."""
        save, show = self.timed(self.save), self.timed(self.show)
        self.steps = self.step + on_main(self.accelerator, lambda: budget.steps(self.options, save, show))
        self.progress.steps = self.steps
        self.save()
        if self.step == self.steps:
            self.show()

    def timed(self, action: Callable[[], None]) -> float:
        start = time.perf_counter()
        action()
        return time.perf_counter() - start

    # What the steps report

    def read(self, close: bool = False) -> None:
        """Read what the pending steps report, write it down, and stop if it is not finite."""
        reports = torch.stack(self.pending).tolist()
        now, first = time.perf_counter(), self.step - len(reports)
        took, self.clock = now - self.clock, now
        self.seconds += took
        rate = len(reports) * self.options.batch_size / took
        self.pending = []
        lines = []
        for step, report in enumerate(reports, first + 1):
            values = dict(zip(self.learner.names, report, strict=True))
            self.check_finite(step, values, lines)
            self.window.append(values)
            if step % self.options.log_every == 0 or (close and step == self.step):
                lines.append(self.line(step, rate))
        self.log(lines)
        self.progress.show(self.step, self.loss_of(values), rate)

    def line(self, step: int, rate: float) -> dict:
        """One line of metrics: the mean of what was read since the last."""
        mean = {name: sum(values[name] for values in self.window) / len(self.window) for name in self.window[0]}
        self.window = []
        lr = self.options.learning_rate(step - 1, self.steps)
        images = step * self.options.batch_size
        speed = {"images_per_s": round(rate, 2), "seconds": round(self.seconds, 3)}
        return {"step": step, "images": images, "loss": self.loss_of(mean), **mean, "lr": lr, **speed}

    def loss_of(self, values: dict[str, float]) -> float:
        """The loss; with several turns, the sum of theirs."""
        self.loss = sum(value for name, value in values.items() if name.rsplit("/", 1)[-1] == "loss")
        return self.loss

    def log(self, lines: list[dict]) -> None:
        on_main(self.accelerator, lambda: self.run.journal.append(lines))
        for line in lines if self.accelerator.is_main_process else []:
            if self.options.trackers:
                self.accelerator.log({k: v for k, v in line.items() if k != "step"}, step=line["step"])
            if self.on_step is not None:
                self.on_step(line)

    def check_finite(self, step: int, values: dict[str, float], lines: list[dict]) -> None:
        # In float16 a gradient that overflows is expected: the step is skipped and the scale lowered.
        watched = [n for n in values if self.options.precision != "fp16" or not n.endswith("grad_norm")]
        bad = next((name for name in watched if not math.isfinite(values[name])), None)
        if bad is None:
            return
        self.log(lines)
        good = "no checkpoint had been written yet"
        if self.saved is not None:
            good = f"the last good checkpoint is {self.run.checkpoint_path(self.saved)}"
        raise Diverged(
            f"the {bad} became {values[bad]} at step {step}, so the training stopped; {good}; "
            f"go on from there with a lower --lr (it was {self.options.lr:g}), a longer --warmup or --precision fp32"
        )

    # What is kept

    def save(self) -> None:
        """Write a checkpoint; draw the loss now and then."""
        files, options = self.learner.files(), self.options
        state = {
            "step": self.step,
            "images": self.step * options.batch_size,
            "steps": self.steps,
            "seconds": self.seconds,
            "scaler": self.learner.scaler.state_dict(),
            "identity": self.identity(),
        }

        def write() -> None:
            self.run.save(files, state, options.keep, options.keep_every)
            self.draw()

        on_main(self.accelerator, write)
        self.saved = self.step
        self.clock = time.perf_counter()

    def identity(self) -> dict:
        """What must not change along a run, or it could not continue to the last bit."""
        fingerprint = getattr(self.dataset, "fingerprint", None)
        return {"seed": self.options.seed, "batch_size": self.options.batch_size, "data": fingerprint}

    def restore(self) -> None:
        """Take up the newest whole checkpoint, if there is one."""

        def newest() -> str | None:
            folder = self.run.latest(deep=True)
            self.run.journal.cut(int(folder.name.removeprefix("step-")) if folder else 0)
            return folder and str(folder)

        folder = on_main(self.accelerator, newest)
        if folder is None:
            return
        folder = Path(folder)
        state = read_state(folder)
        for name, here in self.identity().items():
            if (there := state["identity"][name]) != here:
                raise UsageProblem(
                    f"the run {self.run.path} was begun with {name} {there}, not {here}; "
                    "keep it to continue, or start a new run"
                )
        self.learner.load(lambda name: read_tensors(folder, name), f"checkpoint {folder}")
        if state["scaler"]:
            self.learner.scaler.load_state_dict(state["scaler"])
        self.step, self.seconds, self.saved = state["step"], state["seconds"], state["step"]
        if self.options.minutes:
            self.steps = state["steps"]
        elif self.step > self.options.steps:
            self.steps = self.step

    def interrupted(self, number: int) -> Interrupted:
        of = "" if self.steps is None else f" of {self.steps}"
        return Interrupted(
            f"stopped by {Signals(number).name} after step {self.step}{of}; everything is saved: "
            f"continue with `{self.run.resume_command}`",
            number,
        )

    # What is shown

    def show(self) -> None:
        """Let the caller leave pictures made with the averaged weights."""
        if self.preview is not None:
            with self.learner.shown() as denoiser:

                def draw() -> None:
                    self.run.pictures.mkdir(exist_ok=True)
                    with disk_errors(f"the pictures in {self.run.pictures}"):
                        self.preview(denoiser, self.step, self.run.pictures)

                on_main(self.accelerator, draw)
            self.clock = time.perf_counter()

    def draw(self, last: bool = False) -> None:
        """The curve of the loss, as often as it costs less than a hundredth of the time."""
        cost, when = self.drawing
        if last or time.perf_counter() - when > 100 * cost:
            cost = self.timed(lambda: self.run.journal.draw(self.run.pictures / "loss.png"))
            self.drawing = (cost, time.perf_counter())

    def start_trackers(self) -> None:
        if self.options.trackers:
            config = {
                name: value if isinstance(value, int | float | str) else str(value)
                for name, value in asdict(self.options).items()
            }
            self.accelerator.init_trackers(self.run.path.resolve().name, config=config)
