"""Error against number of denoiser calls: this library's solvers, and what `unnoise tune` finds, beside diffusers' and azula's.

Three works: exact denoisers of 16 modes in the plane and of a Gaussian of 64 numbers with variances k^-1.5, and a network trained
here on digits. From one draw of noise, states in float64; every solver is judged against the flow from its own first noise level
(ours from 80, wherever they begin), exact or by a walk of 1000 evaluations. Each library's best solver and grid is chosen on some
latents, and what is reported is its error on others. azula takes part where it can be imported.

What is measured is kept in runs/bench-solvers until the code changes, so that an interrupted benchmark goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from unnoise.recipe import Sampling
from unnoise.samplers import DDIM, DEIS, IPNDM, PNDM, Adams, DPMSolverMultistep, Heun, Karras, LogSNR, UniPC
from unnoise.training import provenance
from unnoise.tuning import search
from unnoise.tuning.family import multistep

from . import _solver_peers as peers
from ._solver_works import WORKS, Task, Work

BUDGETS = (5, 8, 10, 15, 20, 30, 50)
GROUPS = {
    "any": "any grid",
    "karras": "equal grids: karras",
    "log-snr": "equal grids: even in log-SNR",
    "default": "defaults",
}
"""Which grids a library's best is chosen from."""
LIBRARIES: dict[str, Callable[[int], Iterator[peers.Entry]]] = {"diffusers": peers.diffusers, "azula": peers.azula}


def _ours(sampling: Sampling) -> Callable[[Task], float]:
    return lambda task: task.ours(sampling)


def unnoise(calls: int, scale: float) -> Iterator[peers.Entry]:
    """Ours on the equal grids, and the named samplers as they come, on Karras's grid."""
    for grid in (Karras(calls), LogSNR(calls)):
        for step in multistep(calls, scale):
            yield told(step), grid.name, _ours(Sampling(step, grid))
    for step in (DDIM(), DPMSolverMultistep(), UniPC(), DEIS(), IPNDM(), PNDM("short"), Heun(), Adams()):
        sampling = Sampling(step, Karras()).within(calls)
        if sampling is not None:
            yield step.name, "default", _ours(sampling)


def told(step: Any) -> str:
    if not isinstance(step, Adams) or step.name != "adams":
        return step.name
    return f"{step.variable} in {step.coordinate}, {step.terms} terms{', corrected' * step.corrector}"


def grid_told(grid: Any) -> str:
    more = {"karras": ("sigma_min", "rho"), "log-snr": ("sigma_min",), "straight": ("power", "scale")}
    values = ", ".join(f"{name} {getattr(grid, name):g}" for name in more.get(grid.name, ()))
    return f"{grid.name} ({values})" if values else grid.name


def chosen(entries: list[peers.Entry], work: Work) -> dict[str, dict[str, Any]]:
    """For each group the best of a library by the trial latents, with its error on the held-out ones."""
    tried = [(walk(work.trial), name, grid, walk) for name, grid, walk in entries]
    found: dict[str, dict[str, Any]] = {}
    for group in GROUPS:
        inside = [row for row in tried if group in ("any", row[2]) and math.isfinite(row[0])]
        if inside:
            error, name, grid, walk = min(inside, key=lambda row: row[0])
            found[group] = {"solver": name, "grid": grid, "chosen at": error, "error": walk(work.held_out)}
    return found


def measured(work: Work, calls: int) -> dict[str, Any]:
    """{library: {group: best}} for one number of calls; `tuned` has one group."""
    found: dict[str, Any] = {"unnoise": chosen(list(unnoise(calls, work.scale)), work)}
    best, error, fitted, lower = search(work.latents(), calls, work.scale)
    for library, sampling, at in (("unnoise", best, error), ("tuned", fitted, lower)):
        row = {"solver": told(sampling.step), "grid": grid_told(sampling.grid), "chosen at": at}
        found.setdefault(library, {})["any"] = {**row, "error": work.held_out.ours(sampling)}
    found["tuned"]["any"]["sampling"] = json.loads(json.dumps(fitted.describe()))
    for library, solvers in LIBRARIES.items():
        with contextlib.suppress(ImportError):
            found[library] = chosen(list(solvers(calls)), work)
    return found


def main(path: Path) -> None:
    found = {name: _part(name, path.parents[2] / "runs" / "bench-solvers") for name in WORKS}
    seconds = {name: round(part.pop("seconds"), 1) for name, part in found.items()}
    path.write_text(json.dumps({**provenance(), "seconds": seconds, "works": found}, indent=1) + "\n")
    path.with_suffix(".md").write_text(table(found))
    plot(found, path.with_suffix(".png"))


def _part(name: str, folder: Path) -> dict[str, Any]:
    """The numbers of one work: those that the folder keeps, and the rest measured now and kept."""
    mark, title = _code(), name.replace(" ", "-")
    kept, ends = folder / f"{title}-{mark}.json", folder / f"{title}-{mark}.safetensors"
    part = json.loads(kept.read_text()) if kept.exists() else {"measure": "", "errors": {}, "seconds": 0.0}
    if len(part["errors"]) == len(BUDGETS):
        return part
    folder.mkdir(parents=True, exist_ok=True)
    begin, work = time.perf_counter(), WORKS[name]()
    work.ends.update(load_file(ends) if ends.exists() else {})
    for calls in BUDGETS:
        if str(calls) in part["errors"]:
            continue
        with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
            row = measured(work, calls)
        now = time.perf_counter()
        part["errors"][str(calls)], part["measure"] = row, work.what
        part["seconds"], begin = part["seconds"] + now - begin, now
        if work.ends:
            save_file({key: end.contiguous() for key, end in work.ends.items()}, ends)
        kept.write_text(json.dumps(part))
        told_now = "  ".join(f"{library} {group['any']['error']:.1e}" for library, group in row.items())
        print(f"{name:18}{calls:3} calls  {told_now}", flush=True)
    return part


def _code() -> str:
    """A mark of everything that decides the numbers."""
    root = Path(__file__).parents[1]
    files = sorted([*root.glob("benchmarks/*solver*.py"), *root.glob("src/unnoise/**/*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def table(found: dict) -> str:
    """The error on held-out latents of each library's best, as Markdown."""
    lines = ["# Error by number of denoiser calls, on latents that no choice was made on", ""]
    lines += ["`python -m benchmarks solvers`; all numbers: solvers.json. `tuned`: what `unnoise tune` finds.", ""]
    for work, part in found.items():
        lines += [f"## {work}", "", f"Measure: {part['measure']}.", ""]
        rows = {int(calls): row for calls, row in part["errors"].items()}
        for group, title in GROUPS.items():
            libraries = [
                lib for lib in ("unnoise", *LIBRARIES) if any(group in row.get(lib, {}) for row in rows.values())
            ]
            tuned = ["tuned"] if group == "any" else []
            head = ["calls", *tuned, *libraries, "ours / theirs", *(["tuned / theirs"] if tuned else [])]
            lines += [f"### {title}", "", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
            for calls, row in rows.items():
                best = {lib: row.get(lib, {}).get(group) for lib in (*tuned, *libraries)}
                cells = [_cell(lib, best[lib]) for lib in best]
                theirs = min((best[lib]["error"] for lib in best if lib in LIBRARIES and best[lib]), default=math.nan)
                ratios = [f"{best[lib]['error'] / theirs:.2g}" if best[lib] else "" for lib in ("unnoise", *tuned)]
                lines.append(f"| {' | '.join([str(calls), *cells, *ratios])} |")
            lines.append("")
    return "\n".join(lines)


def _cell(library: str, best: dict | None) -> str:
    if best is None:
        return ""
    return f"{best['error']:.1e}" + ("" if library == "tuned" else f" {best['solver']} @ {best['grid']}")


def plot(found: dict, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"tuned": "black", "unnoise": "tab:blue", "diffusers": "tab:orange", "azula": "tab:green"}
    figure, axes = plt.subplots(1, len(found), figsize=(5 * len(found), 4), squeeze=False)
    for axis, (work, part) in zip(axes[0], found.items(), strict=True):
        for library, colour in colours.items():
            errors = [
                part["errors"].get(str(n), {}).get(library, {}).get("any", {}).get("error", math.nan) for n in BUDGETS
            ]
            axis.loglog(BUDGETS, errors, "o-", color=colour, label="unnoise, tuned" if library == "tuned" else library)
        axis.set(title=work, xlabel="denoiser calls", ylabel=f"{part['measure']},\nheld-out latents")
        axis.set_xticks(BUDGETS, [str(n) for n in BUDGETS])
        axis.minorticks_off()
        axis.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
