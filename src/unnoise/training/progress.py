"""How far the training is: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time


class Progress:
    """Shows step, loss, images/s and time left, on the standard error stream."""

    def __init__(self, first: int, steps: int | None, *, visible: bool = True, every: float = 30.0):
        self.first, self.steps, self.visible, self.every = first, steps, visible, every
        self.loss: float | None = None
        self.bar = None

    def __enter__(self) -> Progress:
        self.started = self.said = time.monotonic()
        if self.visible:
            from rich.console import Console

            console = Console(stderr=True)
            if console.is_terminal:
                self.bar = _bar(console)
                self.task = self.bar.add_task("training", total=self.steps, completed=self.first, loss="-", rate="-")
                self.bar.start()
        return self

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.stop()

    def show(self, step: int, loss: float, rate: float) -> None:
        """After `step` steps; the loss shown is a running mean over about 50 of them."""
        self.loss = loss if self.loss is None else self.loss + (loss - self.loss) / 50
        if self.bar is not None:
            self.bar.update(
                self.task, total=self.steps, completed=step, loss=f"{self.loss:.4g}", rate=f"{rate:,.0f} images/s"
            )
        elif self.visible and (step == self.steps or time.monotonic() - self.said >= self.every):
            self.said = time.monotonic()
            of = left = ""
            if self.steps is not None:
                seconds = (time.monotonic() - self.started) / max(1, step - self.first) * (self.steps - step)
                of, left = f" of {self.steps}", f", {_clock(seconds)} left"
            self.say(f"step {step}{of}, loss {self.loss:.4g}, {rate:,.0f} images/s{left}")

    def say(self, sentence: str) -> None:
        """A line that stays."""
        if self.bar is not None:
            self.bar.console.print(sentence, highlight=False, markup=False)
        elif self.visible:
            print(sentence, file=sys.stderr, flush=True)


def _bar(console):
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("step"),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]}"),
        TextColumn("{task.fields[rate]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        refresh_per_second=4,
    )


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
