"""Running a paper's verification and writing results/PAPER.json: what was measured, by which command, seeds and commit."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..disk import disk_errors, write_file, write_json
from ..errors import Diverged
from ..papers import find
from ..training import provenance
from .claims import Absent, Claim
from .experiment import fingerprint
from .lab import Lab


def verify(
    slug: str,
    lab: Lab,
    *,
    results: Path | None,
    only: str | None = None,
    fresh: bool = False,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """All checks and claims of a paper, as the dictionary that is written to `results`/SLUG.json; figures to `results`/SLUG/.

    A claim whose experiment ends in `Diverged` has failed, with that sentence, and is tried again next time.
    Claims already measured, by the same experiment with the same seeds, are taken from the lab's folder unless `fresh`.
    """
    recipe = find(slug)
    record: dict[str, Any] = {
        "paper": slug,
        "arxiv": recipe.info.arxiv,
        "title": recipe.info.title,
        **provenance(),
        "seeds": list(lab.seeds),
        "checks": [],
        "claims": [],
    }
    for check in recipe.info.checks:
        row = check.run()
        record["checks"].append(row)
        say(
            f"{'ok  ' if row['holds'] else 'FAIL'} {check.statement}: {row['measured']:.6g} (expected {row['expected']:.6g})"
        )
    for claim in recipe.info.claims:
        if only is not None and claim.name != only:
            continue
        row = _measure(slug, claim, lab, fresh)
        record["claims"].append(row)
        say(f"{row['verdict']}: {claim.statement}" + (f"  {row['interval']}" if "interval" in row else ""))
        if row["verdict"] in ("skipped", "failed"):
            say(f"  {row['reason']}")
        for name in row.get("pictures", ()):
            folder = _gallery(lab, slug) if results is None or only is not None else results / slug
            say(f"  figure: {folder / name}.png")
    if results is not None and only is None:
        hang(record, lab, results / slug)
        write_json(results / f"{slug}.json", record)
    return record


def _measure(slug: str, claim: Claim, lab: Lab, fresh: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"name": claim.name, "statement": claim.statement, "source": claim.source}
    if claim.measure is None:
        return {**row, "verdict": "not testable at this scale", "reason": claim.reason}
    file = lab.root / "claims" / slug / f"{claim.name}-{fingerprint(claim.measure, lab.seeds)}.json"
    lab.gallery = _gallery(lab, slug)
    if file.exists() and not fresh:
        kept = json.loads(file.read_text())
        if all((lab.gallery / f"{name}.png").exists() for name in kept.get("pictures", ())):
            return {**kept, **row}  # the wording is today's
    lab.used, start = {}, time.monotonic()
    try:
        finding = claim.measure(lab)
    except Absent as absent:
        return {**row, "verdict": "skipped", "reason": str(absent)}
    except Diverged as diverged:  # the claims after it are measured all the same
        return {**row, "verdict": "failed", "reason": str(diverged)}
    row |= {"verdict": finding.verdict, **asdict(finding)}
    row["seconds"] = round(time.monotonic() - start, 1)
    row |= {name: value for name, value in provenance().items() if name in ("created", "commit")}
    row["models"] = {name: round(seconds, 1) for name, seconds in lab.used.items()}
    write_json(file, row)
    return row


def _gallery(lab: Lab, slug: str) -> Path:
    return lab.root / "pictures" / slug


def hang(record: dict[str, Any], lab: Lab, folder: Path) -> None:
    """The figures of a record's claims, and no others, as `folder`/NAME.png; no folder where there are none."""
    names = [name for row in record["claims"] for name in row.get("pictures", ())]
    for old in folder.glob("*.png"):
        if old.stem not in names:
            old.unlink()
    with disk_errors(f"the figures in {folder}"):
        for name in names:
            write_file(folder / f"{name}.png", (_gallery(lab, record["paper"]) / f"{name}.png").read_bytes())
