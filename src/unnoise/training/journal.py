"""The metrics of a run: one JSON object a line, appended while training, and drawn as a picture."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path

from ..disk import disk_errors, write_file


class Journal:
    """A file of JSON lines, each with a "step". Lines are handed to the system at once: a killed process loses none."""

    def __init__(self, path: Path):
        self.path = path

    def append(self, lines: Iterable[dict]) -> None:
        text = "".join(json.dumps(_finite(line), allow_nan=False) + "\n" for line in lines)
        with disk_errors(f"the metrics {self.path}"), open(self.path, "a", encoding="utf-8") as file:
            file.write(text)

    def read(self) -> list[dict]:
        """Every whole line, oldest first."""
        if not self.path.exists():
            return []
        return [line for text in self.path.read_text("utf-8", errors="replace").splitlines() if (line := _parse(text))]

    def cut(self, step: int) -> None:
        """Drop the lines beyond `step`, and a last line torn by a kill: what follows will be written again."""
        if self.path.exists():
            lines = [line for line in self.read() if line["step"] <= step]
            with disk_errors(f"the metrics {self.path}"):
                write_file(self.path, "".join(json.dumps(line) + "\n" for line in lines).encode())

    def draw(self, picture: Path) -> None:
        """The curve of the loss: each line of metrics thin, a running mean over a fiftieth of the run thick."""
        lines = [line for line in self.read() if line.get("loss") is not None]
        if len(lines) < 2:
            return
        import numpy as np

        from ..figures import draw

        steps, loss = (np.array([line[name] for line in lines], float) for name in ("step", "loss"))
        width = max(1, len(loss) // 50)
        total = np.cumsum(np.concatenate([[0.0], loss]))
        mean = (total[width:] - total[:-width]) / width

        def paint(axes) -> None:
            axes.plot(steps, loss, linewidth=0.6, alpha=0.35, color="tab:blue")
            axes.plot(steps[width - 1 :], mean, linewidth=1.8, color="tab:blue")
            if loss.min() > 0:
                axes.set_yscale("log")
            axes.grid(which="both")
            axes.set(xlabel="step", ylabel="loss")

        draw(picture, paint, size=(7, 4))


def _parse(text: str) -> dict | None:
    try:
        line = json.loads(text)
    except ValueError:
        return None
    return line if isinstance(line, dict) and isinstance(line.get("step"), int) else None


def _finite(line: dict) -> dict:
    """JSON knows no infinity (a gradient that overflowed in float16): it is written as null."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in line.items()}
