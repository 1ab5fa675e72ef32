"""Writes the tables of the README and of docs/ from results/: papers with their verdicts, benchmarks, solvers, pictures."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from unnoise.cli.papers import VERDICTS, verified
from unnoise.papers import shelf

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
PAGES = [ROOT / "README.md", ROOT / "docs" / "solvers.md", ROOT / "docs" / "gallery.md"]


def papers() -> str:
    """The table of papers."""
    lines = ["| paper | | verified | what it does |", "|---|---|---|---|"]
    for slug, recipe in sorted(shelf().items(), key=lambda item: (item[1].info.year, item[0])):
        info, found = recipe.info, verified(slug, RESULTS)
        counts = "-" if found is None else f"[{' / '.join(str(found[v]) for v in VERDICTS)}](results/{slug}.json)"
        title = f"[{info.title}](https://arxiv.org/abs/{info.arxiv}), {info.authors[0].split()[-1]} et al. {info.year}"
        lines.append(f"| `{slug}` | {title} | {counts} | {info.summary} |")
    return "\n".join(lines)


def benchmarks() -> str:
    """One line for each benchmark that has left results."""
    lines = ["| measured | ours | compared with |", "|---|---|---|"]
    for name, row in ROWS.items():
        path = RESULTS / "benchmarks" / f"{name}.json"
        if path.exists():
            lines.extend(row(json.loads(path.read_text())))
    return "\n".join(lines)


def _quality(r: dict) -> list[str]:
    ours, theirs = r["medians"]["ours"], r["medians"]["theirs"]
    runs = f"{r['minutes']:g} minutes on Fashion-MNIST ({len(r['ours'])} pair)"
    what = f"Frechet distance (project's classifier) after {runs}, floor {r['floor']:.2f}"
    return [f"| {what} | {ours:.2f} | {theirs:.2f}, diffusers' unconditional example |"]


def _import(r: dict) -> list[str]:
    return [
        f"| `import unnoise` beyond `import torch` | {r['beyond torch']:.3f} s | |",
        f"| `unnoise --help` | {r['medians']['unnoise --help']:.2f} s | |",
    ]


def _step(r: dict) -> list[str]:
    rate, speed = r["images_per_second"], f"{r['times_diffusers']:.2f} times diffusers"
    return [
        f"| training step, U-Net of {r['parameters']['unnoise'] / 1e6:.1f} M, 64 images of 3x32x32, {r['threads']} threads "
        f"| {rate['unnoise']:.0f} images/s, {100 * r['of_gemm_2048']:.0f} % of the bf16 matrix product "
        f"| {rate['diffusers']:.0f} images/s, diffusers' example ({speed}) |"
    ]


def _overhead(r: dict) -> list[str]:
    lines = []
    for shape in sorted({tuple(row["shape"]) for row in r["rows"]}):
        rows = [row for row in r["rows"] if tuple(row["shape"]) == shape]
        most = max(rows, key=lambda row: row["over"])
        theirs = [row["diffusers"] - row["bare"] for row in rows if "diffusers" in row]
        lines.append(
            f"| most that a step of {len(rows)} samplers costs over its bare arithmetic, {'x'.join(map(str, shape))} "
            f"| {most['over']:.0f} us ({most['sampler']}) | {min(theirs):.0f} to {max(theirs):.0f} us, diffusers |"
        )
    return lines


def _solvers(r: dict) -> list[str]:
    lines = []
    for work, part in r["works"].items():
        found = {lib: group["any"]["error"] for lib, group in part["errors"]["8"].items()}
        theirs = min((found[lib], lib) for lib in found if lib not in ("unnoise", "tuned"))
        lines.append(
            f"| error of 8 evaluations, {work}, best solver and grid on held-out latents "
            f"| {found['unnoise']:.2g}, tuned {found['tuned']:.2g} | {theirs[0]:.2g}, {theirs[1]} |"
        )
    return lines


def solvers() -> str:
    """Errors on held-out latents by number of evaluations: each library's best, and what tuning makes of ours."""
    path = RESULTS / "benchmarks" / "solvers.json"
    if not path.exists():
        return ""
    lines = []
    for work, part in json.loads(path.read_text())["works"].items():
        libraries = ["tuned", "unnoise", "diffusers", "azula"]
        lines += [
            f"**{work}** ({part['measure']})",
            "",
            "| evaluations | tuned | ours | diffusers | azula | our best |",
        ]
        lines += ["|---|---|---|---|---|---|"]
        for calls, row in part["errors"].items():
            cells = [f"{row[lib]['any']['error']:.2g}" if lib in row else "" for lib in libraries]
            best = row["unnoise"]["any"]
            lines.append(f"| {calls} | {' | '.join(cells)} | {best['solver']}; {best['grid']} |")
        lines.append("")
    return "\n".join(lines).rstrip()


def gallery() -> str:
    """Every picture that a claim left, under its paper, with what was claimed and what came of it."""
    lines = []
    for slug, recipe in sorted(shelf().items(), key=lambda item: (item[1].info.year, item[0])):
        path = RESULTS / f"{slug}.json"
        claims = json.loads(path.read_text())["claims"] if path.exists() else []
        drawn = [claim for claim in claims if claim.get("pictures")]
        if drawn:
            lines += [f"## {slug}: {recipe.info.title}", ""]
        for claim in drawn:
            lines += [f"{claim['statement']}: **{claim['verdict']}**.", ""]
            lines += [f"![{slug}: {name}](../results/{slug}/{name}.png)" for name in claim["pictures"]] + [""]
    return "\n".join(lines).rstrip()


ROWS = {
    "training-step": _step,
    "quality-per-minute": _quality,
    "sampler-overhead": _overhead,
    "import-time": _import,
    "solvers": _solvers,
}


def updated(text: str) -> str:
    """A page with its tables renewed."""
    tables = {"papers": papers(), "benchmarks": benchmarks(), "solvers": solvers(), "gallery": gallery()}
    for mark, table in tables.items():
        pattern = rf"(<!-- {mark}: [^\n]*-->\n).*?(<!-- /{mark} -->)"
        text = re.sub(pattern, lambda m, table=table: f"{m[1]}{table}\n{m[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    for page in PAGES:
        new = updated(page.read_text("utf-8"))
        if "--check" in sys.argv and new != page.read_text("utf-8"):
            sys.exit(f"{page.name} is behind results/: run scripts/update_readme.py")
        page.write_text(new, "utf-8")
