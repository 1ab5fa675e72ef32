"""Kernels in C, for what torch has in no one piece: compiled on the machine that runs them, where it has a C compiler.

The library is kept in $UNNOISE_KERNELS or ~/.cache/unnoise/kernels, named by the hash of the source, the compiler's flags and the
processor. Without a compiler, or with UNNOISE_KERNELS=off, there is none, and torch's own operations do the same work. Threads are
OpenMP's, the very ones that torch computes with.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("norm_act.c")
FLAGS = ("-O3", "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-w")
WIDE = "-mprefer-vector-width=512"  # where the processor and the compiler know it
PATIENCE = 60  # seconds for the compiler


def _processor() -> str:
    """What decides the machine code."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return "".join(sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))}))
    except OSError:
        return platform.processor()


@cache
def library() -> ctypes.CDLL | None:
    """The compiled kernels, or None where there is no compiler, no room, or no wish for them."""
    place = os.environ.get("UNNOISE_KERNELS", "~/.cache/unnoise/kernels")
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if place == "off" or not compiler or os.name != "posix":
        return None
    for flags in ((*FLAGS, WIDE), FLAGS):
        key = "\n".join([SOURCE.read_text(), compiler, *flags, platform.machine(), _processor()])
        path = Path(place).expanduser() / f"norm_act-{hashlib.sha256(key.encode()).hexdigest()[:16]}.so"
        try:
            if not path.exists():
                _compile([compiler, *flags], path)
            return _typed(ctypes.CDLL(str(path)))
        except (OSError, AttributeError, subprocess.SubprocessError):
            continue
    return None


def _compile(command: list[str], path: Path) -> None:
    """Aside, then renamed: several processes may do so at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".", dir=path.parent) as folder:
        aside = Path(folder) / path.name
        subprocess.run(
            [*command, str(SOURCE), "-o", str(aside), "-lm"], check=True, capture_output=True, timeout=PATIENCE
        )
        os.replace(aside, path)


def _typed(found: ctypes.CDLL) -> ctypes.CDLL:
    pointer, number, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_double
    found.forward.argtypes = [pointer] * 12 + [number] * 4 + [real] + [number] * 2
    found.backward.argtypes = [pointer] * 12 + [number] * 6
    found.forward.restype = found.backward.restype = None
    return found


def _at(v: Tensor | None) -> int | None:
    return None if v is None else v.data_ptr()


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    add: Tensor | None,
    scale: Tensor | None,
    shift: Tensor | None,
    groups: int,
    eps: float,
    act: bool,
) -> tuple[Tensor, ...]:
    """y, (n, p, c) bfloat16 as x, and a, b, r, offset, m1, float32 (n, c), of `FusedNormAct`. All but x are float32."""
    (n, p, c), found = x.shape, library()
    assert found is not None and x.is_contiguous() and x.dtype == torch.bfloat16
    told = [None if v is None else v.float().contiguous() for v in (weight, bias, add, scale, shift)]
    y, coefficients = torch.empty_like(x), torch.empty(5, n, c)
    found.forward(
        _at(x), _at(y), *map(_at, told), *map(_at, coefficients), n, p, c, groups, eps, act, torch.get_num_threads()
    )
    return y, *coefficients


def backward(
    x: Tensor, dy: Tensor, a: Tensor, b: Tensor, r: Tensor, offset: Tensor, gain: Tensor, groups: int, act: bool
) -> tuple[Tensor, ...]:
    """dx, (n, p, c) bfloat16, and s0, s1, k0, k1, float32 (n, c), of `FusedNormAct`."""
    (n, p, c), found = x.shape, library()
    assert found is not None and x.is_contiguous() and dy.is_contiguous() and dy.dtype == x.dtype == torch.bfloat16
    gain = gain.float().expand(n, c).contiguous()
    dx, sums = torch.empty_like(x), torch.empty(4, n, c)
    found.backward(
        _at(x), _at(dy), _at(dx), *map(_at, (a, b, r, offset)), _at(gain), *map(_at, sums), n, p, c, groups, act,
        torch.get_num_threads(),
    )  # fmt: skip
    return dx, *sums
