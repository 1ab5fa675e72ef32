"""The order of the data, and batches that are made while the last one is being learnt from.

Epoch e is the permutation `stream(seed, e)` of the data; step n reads the places n B ... (n + 1) B - 1 of the epochs
laid end to end. So the order depends on the seed alone, not on the number of processes or on where a run was resumed.
"""

from __future__ import annotations

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import count

import torch
from torch import Tensor

from ..rng import stream


class Order:
    """Which examples, of `size`, the global batch of each step holds."""

    def __init__(self, size: int, batch_size: int, seed: int):
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self.epoch = lru_cache(maxsize=2)(self._epoch)

    def _epoch(self, epoch: int) -> Tensor:
        return torch.randperm(self.size, generator=stream(self.seed, epoch))

    def indices(self, step: int, places: range | None = None) -> Tensor:
        """The examples at some places (all by default) of the global batch of a step, int64."""
        places = range(self.batch_size) if places is None else places
        first, end = step * self.batch_size + places.start, step * self.batch_size + places.stop
        parts = []
        for epoch in range(first // self.size, (end - 1) // self.size + 1):
            start = epoch * self.size
            parts.append(self.epoch(epoch)[max(0, first - start) : end - start])
        return torch.cat(parts)


def feed(dataset, order: Order, first_step: int, micro_batches: list[range]) -> Generator[list]:
    """For each step from `first_step` on, without end: this process's micro-batches. The next are made in a thread."""
    # A second team of OpenMP threads would make the network's team sleep at every barrier: its steps took a third longer.
    torch.get_num_threads()  # this thread's own number is settled first
    alone = partial(torch.set_num_threads, 1)
    with ThreadPoolExecutor(1, thread_name_prefix="data", initializer=alone) as thread:

        def ask(step: int):
            return thread.submit(lambda: [dataset.batch(order.indices(step, places)) for places in micro_batches])

        coming = ask(first_step)
        for step in count(first_step):
            batches, coming = coming.result(), ask(step + 1)
            yield batches
