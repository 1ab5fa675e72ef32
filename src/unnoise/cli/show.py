"""What commands print: tables and JSON on the standard output, progress on the standard error stream."""

from __future__ import annotations

import json
import sys
import time
from typing import Any


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=1, allow_nan=False))


def print_table(columns: list[str], rows: list[list[str]], right: tuple[str, ...] = ()) -> None:
    """An aligned table, each cell on one line whatever the width of the terminal."""
    widths = [max(len(row[i]) for row in [columns, *rows]) for i in range(len(columns))]

    def line(cells: list[str]) -> str:
        pairs = zip(columns, cells, widths, strict=True)
        return "  ".join(cell.rjust(w) if name in right else cell.ljust(w) for name, cell, w in pairs).rstrip()

    print(line(columns))
    print("  ".join("-" * width for width in widths))
    for row in rows:
        print(line(row))


def clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}" if minutes >= 60 else f"{minutes}:{seconds:02d}"


class Counter:
    """How many of `total` are done: a bar in a terminal, a line every half minute elsewhere."""

    def __init__(self, what: str, total: int, visible: bool = True, things: str = "images"):
        self.what, self.total, self.visible, self.bar, self.things = what, total, visible, None, things

    def __enter__(self) -> Counter:
        self.started = self.said = time.monotonic()
        self.first: int | None = None
        if self.visible:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            console = Console(stderr=True)
            if console.is_terminal:
                columns = ("{task.description}", "{task.fields[rate]}", "left")
                text = [TextColumn(column) for column in columns]
                self.bar = Progress(
                    text[0], BarColumn(), MofNCompleteColumn(), text[1], text[2], TimeRemainingColumn(), console=console
                )
                self.task = self.bar.add_task(self.what, total=self.total, rate="")
                self.bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def __call__(self, done: int) -> None:
        self.first = done if self.first is None and time.monotonic() - self.started < 0.1 else self.first
        now = time.monotonic()
        rate = (done - (self.first or 0)) / max(now - self.started, 1e-9)
        if self.bar is not None:
            self.bar.update(self.task, completed=done, rate=f"{rate:,.1f} {self.things}/s")
        elif self.visible and now - self.said >= 30:
            self.said = now
            left = f", {clock((self.total - done) / rate)} left" if rate > 0 else ""
            print(f"{self.what} {done} of {self.total}, {rate:,.1f} {self.things}/s{left}", file=sys.stderr, flush=True)
