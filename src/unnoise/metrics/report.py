"""What an evaluation found: one row a number, never without its features, its count, its interval and its floor."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Row:
    """One number. `floor` is the same metric of `floor_count` held-out images in place of the samples.

    `value`, `low`, `high` and `floor` are None where they do not exist; then `note` says why.
    """

    metric: str
    features: str
    better: str  # "lower", "higher", or "floor": as near the floor as can be
    count: int
    value: float | None = None
    low: float | None = None
    high: float | None = None
    floor: float | None = None
    floor_count: int = 0
    note: str = ""

    @property
    def name(self) -> str:
        """The metric with the features it looks at, such as `frechet[classifier:fashion-mnist]`."""
        return f"{self.metric}[{self.features}]"


@dataclass(frozen=True)
class Report:
    """The rows, and what they rest on: `reference` train images, `confidence` of the intervals, `notes` to a reader."""

    rows: list[Row]
    count: int
    reference: int
    seed: int
    bootstrap: int
    confidence: float
    notes: list[str] = field(default_factory=list)

    def __getitem__(self, name: str) -> Row:
        """The row of that name, `metric[features]`, or `metric` alone when one row has it."""
        found = [row for row in self.rows if name in (row.name, row.metric)]
        if len(found) != 1:
            raise KeyError(f"{name!r} names {len(found)} rows of: {', '.join(row.name for row in self.rows)}")
        return found[0]

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON: the settings, and under "metrics" a row by each name."""
        out = {key: value for key, value in asdict(self).items() if key != "rows"}
        return out | {"metrics": {row.name: asdict(row) for row in self.rows}}

    def table(self) -> Table:
        """A rich table for a person, by features; arrows say which way is better (≈: as near the floor as can be)."""
        from rich.box import SIMPLE_HEAD
        from rich.markup import escape
        from rich.table import Table

        title = f"{self.count:,} samples against {self.reference:,} training images"
        by_note: dict[str, dict[str, None]] = {}  # the metrics of each note, in order
        for row in self.rows:
            by_note.setdefault(row.note, {})[row.metric] = None
        footnotes = [f"{', '.join(metrics)}: {note}" for note, metrics in by_note.items() if note]
        below = escape("\n".join([*self.notes, "; ".join(footnotes)]))
        table = Table(title=title, caption=below, caption_justify="left", box=SIMPLE_HEAD)
        table.add_column("metric", no_wrap=True)
        for column in ("value", f"{self.confidence:.0%} interval", "floor"):
            table.add_column(column, justify="right", no_wrap=True)
        arrow = {"lower": "↓", "higher": "↑", "floor": "≈"}
        for features, rows in groupby(self.rows, key=lambda row: row.features):
            table.add_section()
            table.add_row(f"[bold]on {escape(features)}")
            for row in rows:
                interval = "-" if row.low is None else f"{_short(row.low)} .. {_short(row.high)}"
                name = f"  {row.metric} {arrow[row.better]}"
                table.add_row(name, _short(row.value), interval, _short(row.floor))
        return table


def _short(number: float | None) -> str:
    return "-" if number is None else f"{number:.3g}"
