"""Random numbers that belong to examples, not to batches.

Every example owns a stream, keyed by numbers that name the example: its seed when sampling; the run's seed, the step and
the place in the global batch when training. So example i is the same whatever the batch size, whatever the number of
processes, whatever the device, and a training can resume at any step without having saved a random state.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from .scalars import Scalar, plus

_32, _64 = (1 << 32) - 1, (1 << 64) - 1


def stream(*key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A generator named by some integers.

    torch seeds its CPU generator with 32 bits, so the key is folded to 32 bits in a way that never sends two keys that
    differ in the last number alone (two seeds, two places in a batch) to the same stream.
    """
    prefix = 0x9E3779B97F4A7C15
    for number in (*key[:-1], len(key)):  # splitmix64's finaliser, chained
        prefix = (prefix ^ (number & _64)) * 0xBF58476D1CE4E5B9 & _64
        prefix = (prefix ^ (prefix >> 27)) * 0x94D049BB133111EB & _64
        prefix ^= prefix >> 31
    h = (key[-1] + prefix) & _32
    h = (h ^ (h >> 16)) * 0x85EBCA6B & _32  # murmur3's finaliser, a bijection of 32 bits
    h = (h ^ (h >> 13)) * 0xC2B2AE35 & _32
    h ^= h >> 16
    return torch.Generator(device).manual_seed(h)


class Rng:
    """One independent random stream per example of a batch, and one shared by the batch.

    `keys[i]` is the tuple of integers that names example i; `shared_key` names what the batch has in common.
    All draws are made on the CPU, in the order they are asked for, and then moved to `device`.
    """

    def __init__(
        self,
        keys: Sequence[tuple[int, ...]],
        shared_key: tuple[int, ...] = (0,),
        device: torch.device | str = "cpu",
        total: int | None = None,
    ):
        self.keys = [tuple(int(k) for k in key) for key in keys]
        self.total = len(self.keys) if total is None else total
        self.shared_key = tuple(int(k) for k in shared_key)
        self.device = torch.device(device)
        self._streams = [stream(*key) for key in self.keys]
        self._kept: tuple[Tensor, tuple[Tensor, ...]] | None = None
        self._reuse = False
        self.shared = stream(*self.shared_key, -1)

    @classmethod
    def from_seeds(cls, seeds: Sequence[int] | Tensor, device: torch.device | str = "cpu") -> Rng:
        """Streams for sampling: example i depends on `seeds[i]` alone."""
        return cls([(int(seed),) for seed in seeds], device=device)

    @classmethod
    def for_step(
        cls,
        seed: int,
        step: int,
        positions: Sequence[int],
        device: torch.device | str = "cpu",
        total: int | None = None,
    ) -> Rng:
        """Streams for one training step: `positions` are the places in the global batch, of `total`, held by this process."""
        return cls([(seed, step, int(p)) for p in positions], (seed, step), device, total)

    @property
    def positions(self) -> list[int]:
        """The last number of each key: the place in the global batch (training) or the seed (sampling)."""
        return [key[-1] for key in self.keys]

    def __len__(self) -> int:
        return len(self.keys)

    def spawn(self, *purpose: int) -> Rng:
        """New streams for another purpose, independent of how much was drawn from these."""
        return Rng([(*purpose, *key) for key in self.keys], (*purpose, *self.shared_key), self.device, self.total)

    def _fill(self, draw, event: Sequence[int], dtype: torch.dtype) -> Tensor:
        out, rows = self._rows((len(self.keys), *event), dtype)
        for row, generator in zip(rows, self._streams, strict=True):
            draw(row, generator=generator)
        return out.to(self.device)

    def _rows(self, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[Tensor, tuple[Tensor, ...]]:
        """A tensor to fill and its rows; those of the time before, if nobody keeps them."""
        if self._reuse and self._kept is not None and (self._kept[0].shape, self._kept[0].dtype) == (shape, dtype):
            return self._kept
        out = torch.empty(shape, dtype=dtype)
        found = out, out.unbind(0)
        if self._reuse:
            self._kept = found
        return found

    def normal(self, *event: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """Standard normal numbers, shape `(len(self), *event)`; drawn in float32, then cast."""
        return self._fill(Tensor.normal_, event, torch.float32).to(dtype)

    def normal_like(self, x: Tensor) -> Tensor:
        """Standard normal numbers of the shape, type and device of `x`, whose first axis is the batch."""
        return self.normal(*x.shape[1:], dtype=x.dtype).to(x.device)

    def disturb(self, mean: Tensor, std: Scalar) -> Tensor:
        """mean + std z with the z of `normal_like`, whose memory serves again: what a step of a sampler needs, for less."""
        self._reuse = True
        try:
            return plus(mean, std, self.normal_like(mean))
        finally:
            self._reuse = False

    def uniform(self, *event: int, dtype: torch.dtype = torch.float64) -> Tensor:
        """Uniform numbers in [0, 1), shape `(len(self), *event)`, drawn in float64."""
        return self._fill(Tensor.uniform_, event, torch.float64).to(dtype)

    def integers(self, high: int, *event: int) -> Tensor:
        """Uniform integers in [0, high), shape `(len(self), *event)`, int64."""
        return self._fill(partial(Tensor.random_, to=high), event, torch.int64)

    def bernoulli(self, p: float, *event: int) -> Tensor:
        """True with probability `p`, shape `(len(self), *event)`."""
        return self.uniform(*event) < p
