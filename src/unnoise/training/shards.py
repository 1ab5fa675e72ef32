"""Tensors of which each process may hold a shard."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def whole(tensor: Tensor) -> Tensor:
    """The whole tensor; every process must ask for it."""
    shard: Any = tensor.detach()
    return shard.full_tensor() if hasattr(shard, "full_tensor") else shard


def local(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor."""
    shard: Any = tensor.detach()
    return shard.to_local() if hasattr(shard, "to_local") else shard


@torch.no_grad()
def copy_into(target: Tensor, value: Tensor) -> None:
    """Copy a whole tensor into a tensor, or into this process's shard of it."""
    if hasattr(target, "placements"):
        from torch.distributed.tensor import distribute_tensor

        shard: Any = target
        value = value.to(target.device, target.dtype)
        value = distribute_tensor(value, shard.device_mesh, shard.placements, src_data_rank=None)
    target.copy_(value)


def sharded(module: nn.Module) -> list[Any]:
    """The modules whose parameters are split over the processes: they `unshard()` and `reshard()`."""
    return [m for m in module.modules() if hasattr(m, "unshard") and hasattr(m, "reshard")]
