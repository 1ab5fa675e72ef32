"""The address of a hub data set, and which of its columns hold images, labels and captions (rules: `unnoise.data.hub`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from ..errors import UsageProblem

CAPTIONS = ("caption", "captions", "text", "prompt", "description", "sentence")
LABELS = ("label", "labels")


@dataclass(frozen=True)
class Address:
    where: str  # owner/name or a path
    config: str | None
    columns: dict[str, str]  # kind -> column

    @classmethod
    def read(cls, name: str) -> Address:
        where, _, query = name.removeprefix("hf:").partition("?")
        columns = dict(parse_qsl(query, keep_blank_values=True))
        if not where or set(columns) - {"image", "label", "caption"}:
            raise UsageProblem(
                f"{name!r} is not of the form hf:owner/name[:config][?image=COLUMN&label=COLUMN&caption=COLUMN]"
            )
        if cls(where, None, {}).local:
            return cls(where, None, columns)
        where, _, config = where.partition(":")
        if where.count("/") > 1:
            raise UsageProblem(f"{name!r}: the hub has names like hf:owner/name; write hf:./{where} for a local copy")
        return cls(where, config or None, columns)

    @property
    def local(self) -> bool:
        return self.where.startswith(("/", ".", "~"))


def _only(kind: str, named: list[str], found: list[str], address: Address, features: Any) -> str | None:
    """The column of this kind: the one the user names, else the well-named one, else the only one; None if none."""
    if kind in address.columns:
        column = address.columns[kind]
        if column and column not in features:
            raise UsageProblem(f"{address.where} has no column {column!r}; it has {', '.join(features)}")
        return column or None
    best = [name for name in found if name in named]
    for choice in (best, found):
        if len(choice) == 1:
            return choice[0]
    if found:
        raise UsageProblem(
            f"{address.where} has several columns that could be the {kind}: {', '.join(best or found)}; "
            f"choose one with hf:{address.where}?{kind}={(best or found)[0]}"
        )
    return None


def find_columns(features: Any, address: Address) -> tuple[str, str | None, str | None]:
    """The names of the image, label and caption columns."""
    import datasets

    def text(feature) -> bool:
        feature = getattr(feature, "feature", feature)  # a list of captions
        return isinstance(feature, datasets.Value) and feature.dtype in ("string", "large_string")

    def whole(feature) -> bool:
        return isinstance(feature, datasets.Value) and feature.dtype.startswith(("int", "uint"))

    images = [name for name, f in features.items() if isinstance(f, datasets.Image)]
    labels = [name for name, f in features.items() if isinstance(f, datasets.ClassLabel)]
    labels = labels or [name for name, f in features.items() if name in LABELS and (whole(f) or text(f))]
    captions = [name for name, f in features.items() if name in CAPTIONS and text(f)]
    image = _only("image", ["image"], images, address, features)
    if image is None or not isinstance(features[image], datasets.Image):
        known = ", ".join(f"{name} ({getattr(f, 'dtype', type(f).__name__)})" for name, f in features.items())
        raise UsageProblem(f"{address.where} has no column of images{f' {image!r}' if image else ''}; it has {known}")
    return (
        image,
        _only("label", ["label"], labels, address, features),
        _only("caption", [], captions, address, features),
    )


def read_labels(tables: list[Any], column: str) -> tuple[list[np.ndarray], tuple[str, ...]]:
    """int64 labels of each table (-1 where there is none), and the names of the classes."""
    import datasets

    feature = tables[0].features[column]
    values = [table.data.column(column).to_pylist() for table in tables]
    if isinstance(feature, datasets.ClassLabel):
        names = tuple(feature.names)
        return [np.array([-1 if v is None else v for v in part], np.int64) for part in values], names
    kinds = sorted({v for part in values for v in part if v is not None})
    if not isinstance(feature, datasets.Value) or len(kinds) > 10_000:
        raise UsageProblem(f"column {column!r} does not hold class labels; leave it out with ?label=")
    place = {kind: i for i, kind in enumerate(kinds)}
    return [np.array([place.get(v, -1) for v in part], np.int64) for part in values], tuple(map(str, kinds))
