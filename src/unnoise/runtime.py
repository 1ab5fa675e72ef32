"""What this machine does fastest: device, precision, memory allocator. Found by looking, never by timing, so
that a run is configured alike each time."""

from __future__ import annotations

import contextlib
import ctypes
from functools import cache
from typing import Literal

import torch

from .errors import unknown

Precision = Literal["bf16", "fp16", "fp32"]
DTYPES: dict[str, torch.dtype] = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def default_device() -> torch.device:
    """The first accelerator torch sees (CUDA, XPU, MPS, ...), else the CPU."""
    if torch.accelerator.is_available():
        kind = torch.accelerator.current_accelerator()
        if kind is not None:
            return kind
    return torch.device("cpu")


def best_precision(device: str | torch.device = "cpu") -> Precision:
    """The quickest precision that training is safe in.

    CPU: bf16 where the processor multiplies it (AVX512-BF16 or AMX), else fp32. CUDA: bf16 from compute capability 8
    on, fp16 on 7, else fp32. XPU: bf16. Everything else: fp32.
    """
    kind = torch.device(device).type
    if kind == "cpu":
        return "bf16" if _cpu_has_bf16() else "fp32"
    if kind == "cuda":
        if torch.version.hip is not None:
            return "bf16"
        major = torch.cuda.get_device_capability(device)[0]
        return "bf16" if major >= 8 else "fp16" if major == 7 else "fp32"
    return "bf16" if kind == "xpu" else "fp32"


def _cpu_has_bf16() -> bool:
    asks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, ask, lambda: False)() for ask in asks)


def autocast(device: str | torch.device, precision: str) -> contextlib.AbstractContextManager:
    """The context in which a network computes in `precision` with float32 weights; nothing at all for "fp32".

    Raises UsageProblem for an unknown precision.
    """
    if precision not in DTYPES:
        raise unknown("precision", precision, DTYPES)
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(torch.device(device).type, DTYPES[precision])


@cache
def tune_allocator() -> bool:
    """Tell glibc to keep freed memory instead of giving it back to the system; True if it listened.

    By default each large tensor is mapped afresh, and the system zeroes its pages on first touch: on a CPU that costs
    as much as a cheap operation on it. Call it once, before training. Elsewhere than on glibc it does nothing. Peak
    memory is the same; what is freed stays with the process. See mallopt(3).
    """
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    try:
        libc = ctypes.CDLL(None)
        libc.gnu_get_libc_version  # noqa: B018  (another libc has no such name)
        settings = ((mmap_max, 0), (trim_threshold, 2**31 - 1), (top_pad, 64 << 20))
        return all([libc.mallopt(name, value) == 1 for name, value in settings])
    except (OSError, AttributeError, TypeError):
        return False
