"""Running a paper's verification and writing results/PAPER.json: what was measured, by which command, seeds and commit."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..papers import find
from ..training import provenance
from .claims import Claim
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
    """All checks and claims of a paper, as the dictionary that is written to `results`/SLUG.json.

    Claims already measured, by the same experiment (its source) with the same seeds, are taken from the lab's folder unless
    `fresh`.
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
    if results is not None and only is None:
        write_json(results / f"{slug}.json", record)
    return record


def _measure(slug: str, claim: Claim, lab: Lab, fresh: bool) -> dict[str, Any]:
    row: dict[str, Any] = {"name": claim.name, "statement": claim.statement, "source": claim.source}
    if claim.measure is None:
        return {**row, "verdict": "not testable at this scale", "reason": claim.reason}
    version = hashlib.sha256(f"{inspect.getsource(claim.measure)}{lab.seeds}".encode()).hexdigest()[:12]
    file = lab.root / "claims" / slug / f"{claim.name}-{version}.json"
    if file.exists() and not fresh:
        return json.loads(file.read_text())
    lab.used, start = {}, time.monotonic()
    finding = claim.measure(lab)
    row |= {"verdict": finding.verdict, **asdict(finding)}
    row["seconds"] = round(time.monotonic() - start, 1)
    row |= {name: value for name, value in provenance().items() if name in ("created", "commit")}
    row["models"] = {name: round(seconds, 1) for name, seconds in lab.used.items()}
    write_json(file, row)
    return row


def write_json(path: Path, value: Any) -> None:
    """JSON, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(json.dumps(value, indent=1) + "\n")
    os.replace(aside, path)
