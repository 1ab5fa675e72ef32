"""Any data set of the Hugging Face hub, or a local copy of one, as a data set of images.

    hf:owner/name[:config][?image=COLUMN&label=COLUMN&caption=COLUMN]      on the hub
    hf:/path or hf:./path[...]                                             a folder (parquet, imagefolder...) or a file

Columns are found by their type. image: the only column of images, or the one called "image". label: the only column of
class labels, or the one called "label"; or a column of integers or strings called "label". caption: the only column of
text called one of `columns.CAPTIONS`. `COLUMN` says otherwise, and an empty one ("label=") leaves it out.

Held out: the split called one of `folder.HELD_OUT`, if there is one; else one row in ten, by the hash of the row's number.
Rows stay on disk, memory-mapped; images are decoded when asked for.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from ..errors import Problem
from .columns import Address, find_columns, read_labels
from .dataset import DataSet, Facts
from .encoded import Place, Size, check_options, header, pixels, settle
from .folder import HELD_OUT
from .pixels import Lazy
from .splits import held_out


@contextmanager
def _one_attempt() -> Iterator[bool]:
    """Whether the hub answers. Inside, where it does not, what was kept of it is read without asking it again and again; and
    what its client logs is not shown."""
    import datasets.config
    import huggingface_hub

    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        try:
            huggingface_hub.get_session().head(huggingface_hub.constants.ENDPOINT, timeout=10)
            reached = True
        except Exception:  # of the HTTP library, which is another in each generation of the client; or offline by wish
            reached = False
        offline = huggingface_hub.constants.HF_HUB_OFFLINE or not reached
        with (
            mock.patch.object(huggingface_hub.constants, "HF_HUB_OFFLINE", offline),
            mock.patch.object(datasets.config, "HF_HUB_OFFLINE", offline),
        ):
            yield reached
    finally:
        logger.setLevel(level)


def _tables(address: Address) -> dict[Any, Any]:
    """The splits by name, as memory-mapped tables of `datasets`. No code of the data set is run."""
    try:
        import datasets
    except (ImportError, RuntimeError, OSError) as error:
        raise Problem("reading from the hub needs the package datasets; run pip install 'unnoise[hub]'") from error
    reached = True
    try:
        if not address.local:
            with _one_attempt() as reached:
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
        if not (address.local or reached):
            first = "the Hugging Face hub cannot be reached, and no copy was kept"
        remedy = (
            "check the files" if address.local else "check the name and the network, or use hf:/path to a local copy"
        )
        raise Problem(f"cannot load {address.where} ({first}); {remedy}") from error


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

    image, label, caption = find_columns(train.features, address)
    sources = {n: _Rows(tables[n], image, address.where, n) for n in {n for n, _ in parts.values()}}
    shape = settle(
        lambda: (found for n in sorted(sources) for found in sources[n].headers()), address.where, wanted, channels
    )
    labels, classes = None, None
    if label:
        every, classes = read_labels([tables[n] for n in sources], label)
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
