"""The solvers of other libraries, on a task: diffusers' schedulers and azula's samplers, each told the exact noise level it stands
at (diffusers' rounding of timesteps would hide it from a network).

Each yields (solver, grid, walk), where walk(task) gives the error; grids named karras and log-snr are ours to the level:
80 to 0.002.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from functools import partial
from types import SimpleNamespace

import torch

from ._solver_works import LOW, TOP, Task

Entry = tuple[str, str, Callable[[Task], float]]


def _betas() -> list[float]:
    """A chain of 1000 steps whose sigma/alpha goes from 0.002 to 80: the range of the equal grids."""
    ratio = torch.logspace(math.log10(LOW), math.log10(TOP), 1000, dtype=torch.float64)
    kept = 1 / (1 + ratio**2)
    return (1 - torch.cat([kept[:1], kept[1:] / kept[:-1]])).tolist()


def diffusers(calls: int) -> Iterator[Entry]:
    import diffusers as d

    plain = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    karras, even = {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}
    wide = {"num_train_timesteps": 1000, "trained_betas": _betas()}
    grids = {
        "default": plain,
        "karras, linear betas": plain | karras,
        "exponential, linear betas": plain | even,
        "karras": wide | karras,
        "log-snr": wide | even,
    }
    schedulers = [
        ("DDIM", d.DDIMScheduler, plain | {"clip_sample": False}, "default"),
        ("DDIM", d.DDIMScheduler, plain | {"clip_sample": False, "timestep_spacing": "trailing"}, "trailing"),
        ("PNDM", d.PNDMScheduler, plain | {"skip_prk_steps": True}, "default"),
        ("iPNDM", d.IPNDMScheduler, {}, "default"),
        ("EDM Euler", d.EDMEulerScheduler, {}, "karras"),
        ("EDM DPM++2M", d.EDMDPMSolverMultistepScheduler, {}, "karras"),
        ("EDM DPM++3M", d.EDMDPMSolverMultistepScheduler, {"solver_order": 3}, "karras"),
    ]
    families = {
        "DPM++": d.DPMSolverMultistepScheduler,
        "UniPC": d.UniPCMultistepScheduler,
        "DEIS": d.DEISMultistepScheduler,
    }
    for grid, options in grids.items():
        for name, kind in families.items():
            schedulers += [(f"{name}{k}", kind, options | {"solver_order": k}, grid) for k in (2, 3)]
        schedulers += [
            ("Heun", d.HeunDiscreteScheduler, options, grid),
            ("Euler", d.EulerDiscreteScheduler, options, grid),
        ]
    for name, kind, options, grid in schedulers:
        yield name, grid, partial(_scheduled, kind, options, calls)


def _scheduled(kind, options: dict, calls: int, task: Task) -> float:
    with contextlib.suppress(ValueError, IndexError, RuntimeError, TypeError):  # what it refuses at this budget
        return _walk(task, kind(**options), calls)
    return math.inf


def _walk(task: Task, scheduler, calls: int) -> float:
    """diffusers' loop, with as many steps as cost `calls`."""
    kind = type(scheduler).__name__
    steps = {"HeunDiscreteScheduler": (calls + 1) // 2, "PNDMScheduler": calls - 1}.get(kind, calls)
    scheduler.set_timesteps(steps)
    times, exploding = scheduler.timesteps, kind.startswith(("EDM", "Euler", "Heun"))
    x, first = torch.empty(0), 0.0
    if len(times) > calls:
        return math.inf
    for i, t in enumerate(times):
        if kind in ("DDIMScheduler", "PNDMScheduler"):
            abar = float(scheduler.alphas_cumprod[int(t)])
            alpha, sigma = abar**0.5, (1 - abar) ** 0.5
        elif kind == "IPNDMScheduler":
            sigma, alpha = float(scheduler.betas[i]), float(scheduler.alphas[i])
        else:
            level = float(scheduler.sigmas[scheduler.step_index or 0])
            alpha, sigma = (1.0, level) if exploding else (1 / math.sqrt(1 + level**2), level / math.sqrt(1 + level**2))
        ratio = min(sigma / max(alpha, 1e-30), 1e5)
        if i == 0:
            first, x = ratio, task.noise * (sigma if exploding else ratio * alpha if alpha > 1e-6 else 1.0)
        eps = task.eps(x / alpha, ratio) if alpha > 1e-6 else x
        scheduler.scale_model_input(x, t)
        if kind == "IPNDMScheduler":  # its network predicts v, of which nothing counts where there is no signal
            output = (eps - sigma * x) / alpha if alpha > 1e-6 else x
        else:
            output = _edm_output(x, eps, sigma, scheduler.config.sigma_data) if kind.startswith("EDM") else eps
        x = scheduler.step(output, t, x).prev_sample
    return task.error(x, first)


def _edm_output(x, eps, sigma, data):
    """The F whose preconditioning gives back the guess of x_0."""
    skip, scale = data**2 / (sigma**2 + data**2), sigma * data / math.sqrt(sigma**2 + data**2)
    return (x - sigma * eps - skip * x) / scale


def azula(calls: int) -> Iterator[Entry]:
    from azula.noise import DecaySchedule, RectifiedSchedule, VESchedule
    from azula.sample import DDIMSampler, HeunSampler, REABSampler, vABSampler, xEABSampler, zABSampler, zEABSampler

    schedules = {
        "log-snr": VESchedule(LOW, TOP),
        "rectified": RectifiedSchedule(1 / TOP, LOW),
        "decay": DecaySchedule(1 / TOP, LOW),
    }
    kinds = {"zAB": zABSampler, "vAB": vABSampler, "zEAB": zEABSampler, "xEAB": xEABSampler, "REAB": REABSampler}
    samplers = {f"{name}{k}": (kind, {"order": k}, calls - 1) for name, kind in kinds.items() for k in (2, 3)}
    samplers |= {"DDIM": (DDIMSampler, {"eta": 0.0}, calls - 1), "Heun": (HeunSampler, {}, (calls - 1) // 2)}
    for grid, schedule in schedules.items():
        for name, (kind, options, steps) in samplers.items():
            yield name, grid, partial(_sampled, kind, options, steps, schedule)


def _sampled(kind, options: dict, steps: int, schedule, task: Task) -> float:
    """azula's walk to its last level, and the guess there."""
    exact = _Exact(schedule, task)
    with contextlib.suppress(ValueError, IndexError, RuntimeError, TypeError):
        sampler = kind(exact, steps=steps, silent=True, dtype=torch.float64, **options)
        alpha, sigma = (float(c) for c in schedule(torch.tensor(1.0, dtype=torch.float64)))
        x = sampler(task.noise * sigma)
        return task.error(exact(x, torch.tensor(0.0, dtype=torch.float64)).mean, sigma / alpha)
    return math.inf


class _Exact(torch.nn.Module):
    def __init__(self, schedule, task: Task):
        super().__init__()
        self.schedule, self.task = schedule, task

    def forward(self, x, t, **_):
        alpha, sigma = (float(c) for c in self.schedule(torch.as_tensor(t, dtype=torch.float64)))
        return SimpleNamespace(mean=x / alpha - sigma / alpha * self.task.eps(x / alpha, sigma / alpha))
