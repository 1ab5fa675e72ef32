"""One process or many: what the loop needs of accelerate, and how several processes fail as one."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import torch

from ..errors import Problem, UsageProblem


def make_accelerator(trackers: tuple[str, ...], folder: Path):
    """accelerate's view of the machine: CPU, GPU, or the processes that `accelerate launch` started.

    Precision is not left to it: it would cast schedules and losses as well as networks.
    """
    from accelerate import Accelerator, DistributedDataParallelKwargs
    from accelerate.tracking import get_available_trackers

    for tracker in trackers:
        if tracker not in [str(t.value) for t in get_available_trackers()]:
            raise UsageProblem(f"the tracker {tracker} is not installed; `pip install {tracker}`, or leave it out")
    accelerator = Accelerator(
        cpu=not torch.accelerator.is_available(),  # without it, processes launched on a CPU would not find each other
        mixed_precision="no",
        log_with=list(trackers) or None,
        project_dir=folder / "trackers" if trackers else None,
        # A turn moves some of the parameters, and a network may own some that no loss reaches.
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    if accelerator.distributed_type == "FSDP" and not accelerator.is_fsdp2:
        raise UsageProblem("sharded training needs version 2 of FSDP; launch with `--fsdp_version 2`")
    if accelerator.num_processes > 1:
        atexit.register(_part)
    return accelerator


def _part() -> None:
    """Close the connections in order: a process that ends while their threads run is aborted by the C++ runtime."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def on_main(accelerator, action: Callable):
    """What `action` returns on the main process, on every process; where it fails there, all leave."""
    if accelerator.num_processes == 1:
        return action()
    from accelerate.utils import broadcast_object_list

    outcome, problem = [None, 0], None
    if accelerator.is_main_process:
        try:
            outcome = [action(), 0]
        except Problem as error:
            outcome, problem = [None, error.exit_code], error
    broadcast_object_list(outcome)
    if problem is not None:
        raise problem
    if outcome[1]:
        raise SystemExit(outcome[1])
    return outcome[0]


def agreed(accelerator, number: int) -> int:
    """The largest of the processes' numbers: what one of them has noticed, all act on at the same step."""
    if accelerator.num_processes == 1:
        return number
    return int(accelerator.gather(torch.tensor([number], device=accelerator.device)).max())


@contextmanager
def one_voice(accelerator):
    """A problem that all processes meet is told by the main one alone."""
    try:
        yield
    except Problem as problem:
        if accelerator.is_main_process:
            raise
        raise SystemExit(problem.exit_code) from None
