"""Any data set of the Hugging Face hub, or a local copy of one, as a data set of images.

    hf:owner/name[:config][?image=COLUMN&label=COLUMN&caption=COLUMN]      on the hub
    hf:/path or hf:./path[...]                                             a folder (parquet, imagefolder...) or a file

Columns are found by their type. image: the only column of images, or the one called "image". label: the only column of
class labels, or the one called "label"; or a column of integers or strings called "label". caption: the only column of
text called one of `CAPTIONS`. `COLUMN` says otherwise, and an empty one ("label=") leaves it out.

Held out: the split called one of `HELD_OUT`, if there is one; else one row in ten, by the hash of the row's number.
Rows stay on disk, memory-mapped; images are decoded when asked for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import torch

from unnoise.data.dataset import DataSet, Facts
from unnoise.data.encoded import Place, Size, check_options, header, pixels, settle
from unnoise.data.folder import HELD_OUT
from unnoise.data.pixels import Lazy
from unnoise.data.splits import held_out
from unnoise.errors import Problem, UsageProblem

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


def _tables(address: Address) -> dict[Any, Any]:
    """The splits by name, as memory-mapped tables of `datasets`. No code of the data set is run."""
    try:
        import datasets
    except (ImportError, RuntimeError, OSError) as error:
        raise Problem("reading from the hub needs the package datasets; run pip install 'unnoise[hub]'") from error
    try:
        if not address.local:
            return dict(datasets.load_dataset(address.where, address.config))
        path = Path(address.where).expanduser()
        if not path.exists():
            raise Problem(f"there is no folder or file {path}; give the path of a copy of a data set")
        if path.is_dir():
            return dict(datasets.load_dataset(str(path)))
        kind = {".parquet": "parquet", ".arrow": "arrow"}.get(path.suffix)
        if kind is None:
            raise Problem(f"{path} is neither a folder nor a .parquet or .arrow file; give one of those")
        return dict(datasets.load_dataset(kind, data_files=str(path)))
    except Problem:
        raise
    except Exception as error:  # datasets, huggingface_hub, pyarrow, httpx: each has its own family of errors
        first = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
        remedy = (
            "check the files" if address.local else "check the name and the network, or use hf:/path to a local copy"
        )
        raise Problem(f"cannot load {address.where} ({first}); {remedy}") from error


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


def _columns(features: Any, address: Address) -> tuple[str, str | None, str | None]:
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


def _labels(tables: list[Any], column: str) -> tuple[list[np.ndarray], tuple[str, ...]]:
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


class _Rows:
    """The encoded images of a table, by row number."""

    def __init__(self, table: Any, column: str, where: str, split: str):
        import datasets

        self.table = table.select_columns([column]).cast_column(column, datasets.Image(decode=False)).with_format(None)
        self.column, self.where, self.split = column, where, split

    def place(self, row: int) -> tuple[Place, str]:
        value = self.table[int(row)][self.column]
        name = f"in row {row} of {self.where} ({self.split})"
        if value is None:
            raise Problem(f"there is no image {name}; take that row away")
        if value["bytes"] is not None:
            return BytesIO(value["bytes"]), name
        return Path(value["path"]), f"{value['path']} {name}"

    def headers(self):
        for row in range(len(self.table)):
            yield header(*self.place(row))

    def digest(self, rows: np.ndarray) -> str:
        whole = hashlib.sha256(f"{self.table.features} {len(rows)}".encode())
        for row in rows[np.linspace(0, len(rows) - 1, min(64, len(rows))).astype(int)]:
            place, _ = self.place(row)
            whole.update(place.read_bytes() if isinstance(place, Path) else place.getvalue())
        return whole.hexdigest()


def load(name: str, split: str, *, size: Size | None = None, channels: int | None = None) -> DataSet:
    """The split of `name` (see the top of this file). Raises `Problem` or `UsageProblem` with a sentence."""
    wanted, channels = check_options(size, channels)
    address = Address.read(name)
    tables = _tables(address)
    train_name = "train" if "train" in tables else next(iter(tables)) if len(tables) == 1 else None
    if train_name is None or not len(tables[train_name]):
        raise Problem(f"{address.where} has no rows to train on in its splits ({', '.join(tables)}); choose another")
    held_name = next((n for n in HELD_OUT if n in tables and n != train_name), None)

    train = tables[train_name]
    parts = {"train": (train_name, np.arange(len(train)))}
    if held_name:
        parts["held-out"] = (held_name, np.arange(len(tables[held_name])))
        rule = f"the split {held_name!r}"
    else:
        out = held_out(str(row) for row in range(len(train)))
        parts = {"train": (train_name, np.flatnonzero(~out)), "held-out": (train_name, np.flatnonzero(out))}
        rule = "one in ten, by the sha256 of the row number"
    part, rows = parts[split]
    if not len(rows):
        raise Problem(f"{address.where} has nothing held out; give it a split called {HELD_OUT[0]!r}, or more rows")

    image, label, caption = _columns(train.features, address)
    sources = {n: _Rows(tables[n], image, address.where, n) for n in {n for n, _ in parts.values()}}
    shape = settle(
        lambda: (found for n in sorted(sources) for found in sources[n].headers()), address.where, wanted, channels
    )
    labels, classes = None, None
    if label:
        every, classes = _labels([tables[n] for n in sources], label)
        labels = torch.from_numpy(dict(zip(sources, every, strict=True))[part][rows])
        if not (labels >= 0).any():
            labels = None
    captions = None
    if caption:
        texts = tables[part].data.column(caption).to_pylist()
        texts = [t[0] if isinstance(t, list) and t else t for t in texts]
        captions = [str(texts[i]) if texts[i] else "" for i in rows]

    source, info = sources[part], train.info
    numbers = rows.tolist()

    def decode(i: int) -> np.ndarray:
        place, what = source.place(numbers[i])
        return pixels(place, what, shape[0], shape[1:])

    facts = Facts(
        name=name,
        shape=shape,
        train=len(parts["train"][1]),
        held_out=len(parts["held-out"][1]),
        rule=rule,
        licence=info.license or "as the data set's card says",
        source=info.homepage
        or (str(Path(address.where).resolve()) if address.local else f"huggingface.co {address.where}"),
        citation=info.citation or "",
        classes=classes,
        captions=caption is not None,
    )
    return DataSet(facts, split, Lazy(len(rows), shape, decode), labels, captions, None, source.digest(rows))
