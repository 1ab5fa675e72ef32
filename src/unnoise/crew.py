"""The processes that share a job: one, or those that `accelerate launch` started."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

from .errors import Problem
from .training.distributed import on_main

__all__ = ["crew", "disband", "fail_together", "on_main"]


def crew() -> Any:
    """What accelerate knows of the processes: num_processes, process_index, is_main_process; not imported for one."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SimpleNamespace(num_processes=1, process_index=0, is_main_process=True)
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available())


def disband() -> None:
    """Take leave of the other processes; the interpreter may otherwise abort while it ends."""
    distributed = sys.modules.get("torch.distributed")
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def fail_together(state: Any, problem: Problem | None) -> None:
    """Wait for all; where some met a problem, the main process raises the first one and the others leave."""
    if state.num_processes == 1:
        if problem is not None:
            raise problem
        return
    from accelerate.utils import gather_object

    met = [p for p in gather_object([None if problem is None else (str(problem), problem.exit_code)]) if p is not None]
    if not met:
        return
    sentence, code = met[0]
    if not state.is_main_process:
        raise SystemExit(code)
    raised = Problem(sentence)
    raised.exit_code = code
    raise raised
