"""Where the rows of a data set are: in memory, or in files that are decoded when they are asked for."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

CACHE_BYTES = 1 << 30  # a lazy set up to this size is decoded once, then kept


class Pixels(Protocol):
    """Rows as they are stored: of images, uint8 (channel, height, width)."""

    shape: tuple[int, ...]

    def __len__(self) -> int: ...

    def take(self, indices: Tensor) -> Tensor:
        """(len(indices), *shape), a copy the caller may change."""
        ...

    def digest(self) -> str:
        """A hash of all rows."""
        ...


def gather(images: Tensor, indices: Tensor) -> Tensor:
    """`images[indices]`, by numpy: torch divides each row among its threads, and on busy cores waits at each."""
    return torch.from_numpy(images.numpy()[indices.numpy()])


class InMemory:
    """A tensor of rows, (count, *shape)."""

    def __init__(self, images: Tensor):
        self.all = images.contiguous()
        self.shape = tuple(images.shape[1:])

    def __len__(self) -> int:
        return len(self.all)

    def take(self, indices: Tensor) -> Tensor:
        return gather(self.all, indices)

    def digest(self) -> str:
        return hashlib.sha256(self.all.numpy().data).hexdigest()


@cache
def pool() -> ThreadPoolExecutor:
    """Threads that decode images; Pillow leaves the interpreter lock while it works."""
    return ThreadPoolExecutor(max_workers=min(16, 2 * (os.cpu_count() or 1)), thread_name_prefix="decode")


class Lazy:
    """`count` rows of one shape; `decode(i)` gives row i as an array of that shape and type, from any thread.

    Decoded rows are kept when all of them fit in `cache_bytes`.
    """

    def __init__(
        self,
        count: int,
        shape: tuple[int, ...],
        decode: Callable[[int], np.ndarray],
        cache_bytes: int = CACHE_BYTES,
        dtype: torch.dtype = torch.uint8,
    ):
        self.shape, self._count, self._decode, self.dtype = tuple(shape), count, decode, dtype
        fits = count * int(np.prod(shape)) * dtype.itemsize <= cache_bytes
        self._kept = torch.empty(count, *shape, dtype=dtype) if fits else None
        self._have = torch.zeros(count, dtype=torch.bool)

    def __len__(self) -> int:
        return self._count

    def _decode_into(self, out: Tensor, rows: list[int], indices: list[int]) -> None:
        view = out.numpy()

        def one(row: int, index: int) -> None:
            view[row] = self._decode(index)

        list(pool().map(one, rows, indices))

    def take(self, indices: Tensor) -> Tensor:
        if self._kept is None:
            out = torch.empty(len(indices), *self.shape, dtype=self.dtype)
            self._decode_into(out, list(range(len(indices))), indices.tolist())
            return out
        missing = indices[~self._have[indices]].unique()
        if len(missing):
            self._decode_into(self._kept, missing.tolist(), missing.tolist())
            self._have[missing] = True
        return gather(self._kept, indices)

    def digest(self) -> str:
        whole = hashlib.sha256()
        for start in range(0, len(self), 1024):
            whole.update(self.take(torch.arange(start, min(start + 1024, len(self)))).numpy().data)
        return whole.hexdigest()
