"""Error against number of denoiser calls, with exact denoisers: this library's solvers beside diffusers' and azula's.

Two kinds of data: 16 modes in the plane (mean distance to the end of the exact flow), and a Gaussian of 64 numbers with variances
k^-1.5 (relative root mean square error, closed form). Everything in float64, from one draw of noise; every solver is judged
against the flow from its own first noise level. diffusers' samplers are told the exact noise level they stand at, which its
rounding of timesteps would hide from a network. azula takes part where it can be imported.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import time
from itertools import product
from pathlib import Path

import torch

from unnoise.oracles import Mixture, gaussian
from unnoise.processes import Gaussian
from unnoise.rng import stream
from unnoise.samplers import Adams, DPMSolver, Heun, Karras, LogSNR, Straight, sample
from unnoise.schedules import EDM
from unnoise.training import provenance

BUDGETS = (5, 8, 10, 15, 20, 30, 50)
BATCH = 64


def works() -> dict[str, Mixture]:
    place = torch.rand(16, 2, generator=stream(16), dtype=torch.float64) * 2 - 1
    modes = Mixture(place * 3**0.5, 0.02)
    spectrum = torch.arange(1, 65, dtype=torch.float64) ** -1.5
    return {"16 modes": modes, "gaussian": gaussian(torch.zeros(64, dtype=torch.float64), spectrum)}


class Truth:
    """The end of the exact flow from sigma times the noise, and the error of a sampler that started there."""

    def __init__(self, name: str, data: Mixture):
        self.name, self.data, self.ends = name, data, {}
        self.noise = torch.randn(BATCH, *data.event, generator=stream(5), dtype=torch.float64)

    def end(self, sigma: float) -> torch.Tensor:
        key = round(min(sigma, 1e5), 6)
        if key not in self.ends:
            variance = self.data.variances[0]
            if self.name == "gaussian":
                self.ends[key] = self.noise * key * (variance / (variance + key**2)).sqrt()
            else:
                grid = LogSNR(600, sigma_min=1e-3, sigma_max=key)
                denoiser = self.data.denoiser(Gaussian(EDM(2 * key)))
                self.ends[key] = run(denoiser, Adams(4), grid, self.noise * key)
        return self.ends[key]

    def error(self, out: torch.Tensor, sigma: float) -> float:
        end = self.end(sigma)
        if self.name == "gaussian":
            return float(((out - end).square().mean() / end.square().mean()).sqrt())
        return float((out - end).norm(dim=1).mean())

    def eps(self, x: torch.Tensor, sigma: float) -> torch.Tensor:
        """The exact noise in x = x_0 + sigma eps."""
        if self.name == "gaussian":  # without the mixture's responsibilities, which are costly
            return x * sigma / (self.data.variances[0] + sigma**2)
        one, level = (torch.full((len(x), 1), v, dtype=torch.float64) for v in (1.0, sigma))
        return (x - self.data.estimate(x, one, level).mean) / sigma


def run(denoiser, step, grid, start: torch.Tensor) -> torch.Tensor:
    return sample(denoiser, step, grid, start.shape, start=start, dtype=torch.float64)


def ours(truth: Truth, calls: int):
    """(name, grid, error) of the family: what is extrapolated, in what, by how many terms, corrected or not."""
    process = Gaussian(EDM(80.0))
    grids = {f"karras to {low}": (process, Karras(calls, low)) for low in (0.002, 0.02)}
    grids |= {f"log-snr to {low}": (process, LogSNR(calls, low)) for low in (0.002, 0.02)}
    for power, scale in product((1.0, 1.3, 1.6, 2.0), (1.0, 0.6)):
        grids[f"straight {power} at {scale}"] = (process, Straight(calls, power, scale))
    for (name, (at, grid)), terms in product(grids.items(), (2, 3)):
        denoiser = truth.data.denoiser(at)
        start = truth.noise * grid(at)[0].sigma
        for (variable, coordinate), corrector, last in product(VARIABLES, (False, True), ("guess", "extrapolate")):
            if last == "extrapolate" and coordinate == "log-snr":
                continue  # it has no end
            step = Adams(terms, variable, coordinate, corrector, last=last)
            label = f"{variable} in {coordinate}, {terms} terms{', corrected' * corrector}{', to the end' * (last != 'guess')}"
            yield label, name, truth.error(run(denoiser, step, grid, start), 80.0)
    for label, step in (("heun", Heun()), ("dpm-solver-3", DPMSolver()), ("dpm-solver-2", DPMSolver(2))):
        steps = next((n for n in range(calls, 1, -1) if step.evaluations(n) <= calls), None)
        if steps is not None:
            out = run(truth.data.denoiser(process), step, Karras(steps), truth.noise * 80)
            yield label, "karras to 0.002", truth.error(out, 80.0)


VARIABLES = (("x0", "log-snr"), ("eps", "log-snr"), ("velocity", "rectified"), ("v", "log-snr"), ("v", "angle"))


def diffusers(truth: Truth, calls: int):
    import diffusers as d

    plain = {"num_train_timesteps": 1000, "beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    spacings = {"default": {}, "karras": {"use_karras_sigmas": True}, "exponential": {"use_exponential_sigmas": True}}
    schedulers = [("DDIM", d.DDIMScheduler, plain | {"clip_sample": False, "timestep_spacing": "trailing"}, "trailing")]
    schedulers += [
        ("PNDM", d.PNDMScheduler, plain | {"skip_prk_steps": True}, "default"),
        ("iPNDM", d.IPNDMScheduler, {}, "default"),
    ]
    for grid, options in spacings.items():
        schedulers += [
            (f"DPM++{k}M", d.DPMSolverMultistepScheduler, plain | options | {"solver_order": k}, grid) for k in (2, 3)
        ]
        schedulers += [
            (f"UniPC{k}", d.UniPCMultistepScheduler, plain | options | {"solver_order": k}, grid) for k in (2, 3)
        ]
        schedulers += [
            (f"DEIS{k}", d.DEISMultistepScheduler, plain | options | {"solver_order": k}, grid) for k in (2, 3)
        ]
        schedulers += [
            ("Heun", d.HeunDiscreteScheduler, plain | options, grid),
            ("Euler", d.EulerDiscreteScheduler, plain | options, grid),
        ]
    schedulers += [
        ("EDM Euler", d.EDMEulerScheduler, {}, "karras"),
        ("EDM DPM++2M", d.EDMDPMSolverMultistepScheduler, {}, "karras"),
    ]
    schedulers += [("EDM DPM++3M", d.EDMDPMSolverMultistepScheduler, {"solver_order": 3}, "karras")]
    for name, kind, options, grid in schedulers:
        with contextlib.suppress(
            ValueError, IndexError, RuntimeError, TypeError
        ):  # what a scheduler refuses at this budget
            out, sigma = walk(truth, kind(**options), calls)
            if out is not None:
                yield name, grid, truth.error(out, sigma)


def walk(truth: Truth, scheduler, calls: int):
    """diffusers' loop, with as many steps as cost `calls`."""
    kind = type(scheduler).__name__
    steps = {"HeunDiscreteScheduler": (calls + 1) // 2, "PNDMScheduler": calls - 1}.get(kind, calls)
    scheduler.set_timesteps(steps)
    times, exploding = scheduler.timesteps, kind.startswith(("EDM", "Euler", "Heun"))
    x, first, used = None, 0.0, 0
    for i, t in enumerate(times):
        if kind in ("DDIMScheduler", "PNDMScheduler"):
            abar = float(scheduler.alphas_cumprod[int(t)])
            alpha, sigma = abar**0.5, (1 - abar) ** 0.5
        elif kind == "IPNDMScheduler":
            sigma = float(scheduler.betas[i])
            alpha = float(scheduler.alphas[i])
        else:
            level = float(scheduler.sigmas[scheduler.step_index or 0])
            alpha, sigma = (1.0, level) if exploding else (1 / math.sqrt(1 + level**2), level / math.sqrt(1 + level**2))
        ratio = min(sigma / max(alpha, 1e-30), 1e5)
        if x is None:
            first = ratio
            x = (
                truth.noise * sigma
                if exploding
                else truth.noise * ratio * alpha
                if alpha > 1e-6
                else truth.noise.clone()
            )
        used += 1
        eps = truth.eps(x / alpha, ratio) if alpha > 1e-6 else x
        scheduler.scale_model_input(x, t)
        if kind == "IPNDMScheduler":  # its network predicts v, of which nothing counts where there is no signal
            output = (eps - sigma * x) / alpha if alpha > 1e-6 else x
        else:
            output = edm_output(x, eps, sigma, scheduler.config.sigma_data) if kind.startswith("EDM") else eps
        x = scheduler.step(output, t, x).prev_sample
    return (x, first) if used <= calls else (None, first)


def edm_output(x, eps, sigma, data):
    """The F whose preconditioning gives back the exact x_0."""
    skip, scale = data**2 / (sigma**2 + data**2), sigma * data / math.sqrt(sigma**2 + data**2)
    return (x - sigma * eps - skip * x) / scale


def azula(truth: Truth, calls: int):
    from types import SimpleNamespace

    from azula.noise import DecaySchedule, RectifiedSchedule, VESchedule
    from azula.sample import DDIMSampler, HeunSampler, REABSampler, vABSampler, xEABSampler, zABSampler, zEABSampler

    class Exact(torch.nn.Module):
        def __init__(self, schedule):
            super().__init__()
            self.schedule = schedule

        def forward(self, x, t, **_):
            alpha, sigma = (float(c) for c in self.schedule(torch.as_tensor(t, dtype=torch.float64)))
            return SimpleNamespace(mean=x / alpha - sigma / alpha * truth.eps(x / alpha, sigma / alpha))

    schedules = {
        "VE": VESchedule(0.002, 80.0),
        "rectified": RectifiedSchedule(1 / 81, 0.002),
        "decay": DecaySchedule(1 / 81, 0.002),
    }
    kinds = {"zAB": zABSampler, "vAB": vABSampler, "zEAB": zEABSampler, "xEAB": xEABSampler, "REAB": REABSampler}
    for grid, schedule in schedules.items():
        exact = Exact(schedule)
        samplers = {f"{name}{k}": (kind, {"order": k}, calls - 1) for name, kind in kinds.items() for k in (2, 3)}
        samplers |= {"DDIM": (DDIMSampler, {"eta": 0.0}, calls - 1), "Heun": (HeunSampler, {}, (calls - 1) // 2)}
        for name, (kind, options, steps) in samplers.items():
            sampler = kind(exact, steps=steps, silent=True, dtype=torch.float64, **options)
            top = schedule(torch.tensor(1.0, dtype=torch.float64))
            x = sampler(truth.noise * float(top[1]))
            x = exact(x, torch.tensor(0.0, dtype=torch.float64)).mean
            yield name, grid, truth.error(x, float(top[1] / top[0]))


def main(path: Path) -> None:
    begin, libraries = time.perf_counter(), {"unnoise": ours, "diffusers": diffusers, "azula": azula}
    found: dict[str, dict] = {}
    for work, data in works().items():
        truth, found[work] = Truth(work, data), {}
        for library, solvers in libraries.items():
            rows: dict[str, dict[int, float]] = {}
            try:
                for calls in BUDGETS:
                    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
                        for name, grid, error in solvers(truth, calls):
                            if math.isfinite(error):
                                rows.setdefault(f"{name} @ {grid}", {})[calls] = error
            except ImportError:
                print(f"{library} is not installed: left out")
                continue
            found[work][library] = rows
            best = {n: min((r[n], name) for name, r in rows.items() if n in r) for n in BUDGETS}
            for calls, (error, name) in best.items():
                print(f"{work:10} {library:10} {calls:3} calls  {error:8.1e}  {name}", flush=True)
    seconds = time.perf_counter() - begin
    path.write_text(json.dumps({**provenance(), "seconds": round(seconds, 1), "errors": found}, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(found))
    plot(found, path.with_suffix(".png"))


def table(found: dict) -> str:
    """The least error of each library at each budget, and by which solver, as Markdown."""
    lines = [
        "# Least error by number of denoiser calls",
        "",
        "`python -m benchmarks solvers`; all numbers: solvers.json",
        "",
    ]
    for work, libraries in found.items():
        lines += [
            f"## {work}",
            "",
            "| calls | " + " | ".join(libraries) + " | ours / theirs |",
            "|---" * (len(libraries) + 2) + "|",
        ]
        for n in BUDGETS:
            best = {lib: min((r[n], name) for name, r in rows.items() if n in r) for lib, rows in libraries.items()}
            theirs = min(error for lib, (error, _) in best.items() if lib != "unnoise")
            cells = [f"{error:.1e} {name}" for error, name in best.values()]
            lines.append(f"| {n} | " + " | ".join(cells) + f" | {best['unnoise'][0] / theirs:.2f} |")
        lines.append("")
    return "\n".join(lines)


def plot(found: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(found), figsize=(5 * len(found), 4))
    for axis, (work, libraries) in zip(axes, found.items(), strict=True):
        for library, rows in libraries.items():
            axis.loglog(BUDGETS, [min(r[n] for r in rows.values() if n in r) for n in BUDGETS], "o-", label=library)
        axis.set(title=work, xlabel="denoiser calls", ylabel="error, best solver and grid")
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
