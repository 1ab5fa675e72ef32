"""SIGINT and SIGTERM as a wish, granted between two steps."""

from __future__ import annotations

import signal
import threading
import time

from ..errors import Problem


class Interrupted(Problem):
    """SIGINT or SIGTERM came; everything is saved. `exit_code` is the shell's: 128 + the number of the signal."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.exit_code = 128 + number


class Wish:
    """Inside, `number` is that of the signal which came, 0 so far. A second Ctrl-C, seconds later, insists."""

    def __enter__(self) -> Wish:
        self.number, self.when, self.before = 0, 0.0, {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.before[number] = signal.signal(number, self._hear)
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _hear(self, number, _frame) -> None:
        # A launcher passes on to its processes what the terminal has sent them already: one wish, heard twice.
        if number == signal.SIGINT and self.number and time.monotonic() - self.when > 2:
            raise KeyboardInterrupt
        if not self.number:
            self.number, self.when = number, time.monotonic()
