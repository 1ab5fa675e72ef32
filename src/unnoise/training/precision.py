"""Mixed precision, for networks alone: schedules, conditioning numbers and losses stay in float32."""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..runtime import autocast


@contextmanager
def in_precision(module: nn.Module, device: torch.device, precision: str):
    """Inside, the networks of `module` compute in "bf16" or "fp16" ("fp32": as they are), and give back float32.

    A network is what is held under the name `network`, at any depth; without any, it is the denoiser.
    """
    networks = [m for name, m in module.named_modules() if name.rsplit(".", 1)[-1] == "network"]
    networks = networks or [module.get_submodule("denoiser")]
    for network in networks:
        network.forward = _cast(network.forward, device, precision)
    try:
        yield
    finally:
        for network in networks:
            del network.forward  # the class's own comes back


def _cast(forward, device: torch.device, precision: str):
    def cast(*args, **kwargs):
        with autocast(device, precision):
            return _float(forward(*args, **kwargs))

    return cast


def _float(out):
    if isinstance(out, Tensor):
        return out.float() if out.dtype in (torch.bfloat16, torch.float16) else out
    if isinstance(out, dict):
        return {key: _float(value) for key, value in out.items()}
    return type(out)(_float(value) for value in out) if type(out) in (tuple, list) else out
