"""Run by two processes: trains the toys in the folder argv[1]. With "shard", as if on accelerators that share the weights."""

import os
import signal
import sys
from pathlib import Path

import torch

if "shard" in sys.argv:
    os.environ.update(ACCELERATE_USE_FSDP="true", FSDP_VERSION="2", FSDP_CPU_RAM_EFFICIENT_LOADING="false")
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU  # accelerate shards on accelerators only

from training_toys import Denoiser, Game, Simple, fit

from unnoise.errors import Problem

main, folder = os.environ["RANK"] == "0", Path(sys.argv[1])
setting = {"steps": 10, "checkpoint_every": 5, "keep": 9}


def told(expected: int, action) -> None:
    """A problem is told by the main process, and the other leaves with its exit code."""
    try:
        action()
    except Problem as problem:
        assert main and problem.exit_code == expected, problem
        print(f"told: {problem}", flush=True)
    except SystemExit as leaving:
        assert not main and leaving.code == expected, leaving
    else:
        raise AssertionError("nothing was told")


def stop(line: dict) -> None:
    if line["step"] == 7:
        os.kill(os.getpid(), signal.SIGTERM)  # on_step is called by the main process alone: the other must hear of it


def preview(denoiser, step: int, pictures: Path) -> None:
    assert main
    weights = [f"{value:.9e}" for value in denoiser.network[0].weight.detach().flatten().tolist()]
    (pictures / f"{step}.txt").write_text("\n".join(weights))


for name, objective in (("simple", Simple), ("game", Game)):
    fit(folder / name, objective(), denoiser=Denoiser(dropout=0.0), preview=preview, preview_every=10, **setting)
    parts = folder / f"{name}-parts"
    told(143, lambda: fit(parts, objective(), denoiser=Denoiser(dropout=0.0), on_step=stop, **setting))  # noqa: B023
    fit(parts, objective(), denoiser=Denoiser(seed=4, dropout=0.0), resume=True, **setting)
told(2, lambda: fit(folder / "simple", seed=5, resume=True, **setting))
told(2, lambda: fit(folder / "odd", batch_size=7))
if main:
    (folder / "full").mkdir()
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, resource.RLIM_INFINITY))
told(1, lambda: fit(folder / "full", denoiser=Denoiser(hidden=64)))

# All that is tested is over. A process that unwinds while torch's threads still run is aborted by the C++ runtime now and then,
# when the machine is busy, though the group was left in order; so this one does not unwind.
torch.distributed.destroy_process_group()
sys.stdout.flush()
sys.stderr.flush()
os._exit(0)
