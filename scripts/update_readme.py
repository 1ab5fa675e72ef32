"""Writes the README's tables from results/: the papers with their verdicts, and the benchmarks' headline numbers."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from unnoise.cli.papers import VERDICTS, verified
from unnoise.papers import shelf

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"


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
    what = f"Frechet distance (project's classifier) after {r['minutes']:g} minutes on Fashion-MNIST, floor {r['floor']:.2f}"
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


ROWS = {"training-step": _step, "quality-per-minute": _quality, "import-time": _import}


def updated(text: str) -> str:
    """The README with its tables renewed."""
    for mark, table in (("papers", papers()), ("benchmarks", benchmarks())):
        pattern = rf"(<!-- {mark}: [^\n]*-->\n).*?(<!-- /{mark} -->)"
        text = re.sub(pattern, lambda m, table=table: f"{m[1]}{table}\n{m[2]}", text, flags=re.DOTALL)
    return text


if __name__ == "__main__":
    readme = ROOT / "README.md"
    new = updated(readme.read_text("utf-8"))
    if "--check" in sys.argv and new != readme.read_text("utf-8"):
        sys.exit("README.md is behind results/: run scripts/update_readme.py")
    readme.write_text(new, "utf-8")
