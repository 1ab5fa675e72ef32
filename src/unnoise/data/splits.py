"""One rule decides what is held out, from the name of a row alone: no seed, no order, no list to keep."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

SPLITS = ("train", "held-out")


def held_out(keys: Iterable[str], one_in: int = 10) -> np.ndarray:
    """Which rows are held out: those whose key has sha256(key) = 0 mod `one_in` (the first 8 bytes, big-endian).

    A row stays where it is when others come or go. Of two rows or more, at least one is held out (the one with the
    smallest hash, when the rule picks none) and at least one is not.
    """
    hashes = np.array(
        [int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") for key in keys], dtype=np.uint64
    )
    mask = hashes % one_in == 0
    if len(mask) > 1 and not mask.any():
        mask[hashes.argmin()] = True
    if mask.all() and len(mask):
        mask[hashes.argmax()] = False
    return mask
