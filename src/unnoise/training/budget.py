"""How many steps fit into some minutes, measured on the first real steps."""

from __future__ import annotations

import statistics
import time
from itertools import pairwise

from .options import TrainingOptions


class Budget:
    """Times the first steps, then tells how many the budget holds, with the pictures and checkpoints among them."""

    UNTIMED, TIMED = 3, 12  # the first steps warm caches up

    def __init__(self, minutes: float):
        self.started = time.perf_counter()
        self.seconds = 60 * minutes
        self.ticks: list[float] = []

    @property
    def spent(self) -> float:
        return time.perf_counter() - self.started

    def tick(self) -> bool:
        """A step has ended; have enough been timed?"""
        self.ticks.append(self.spent)
        timed = len(self.ticks) - self.UNTIMED - 1
        return timed >= self.TIMED or (timed >= 2 and self.spent > 0.05 * self.seconds) or self.spent > self.seconds

    def steps(self, options: TrainingOptions, save: float, show: float) -> int:
        """Steps in all: those done, and those that fit in what is left when saving and showing take so many seconds."""
        ticks = self.ticks[min(self.UNTIMED, len(self.ticks) - 1) :]
        step = statistics.median(b - a for a, b in pairwise(ticks)) if len(ticks) > 1 else self.spent
        step += save / options.checkpoint_every + (show / options.preview_every if options.preview_every else 0)
        left = self.seconds - self.spent - save - show  # both are done once more at the end
        return max(0, int(left / step))
