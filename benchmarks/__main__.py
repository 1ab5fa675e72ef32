"""`python -m benchmarks [NAME ...]`: every benchmark of this folder, or those named; results go to results/benchmarks/.

Each is a module with `main(path)`, which prints a table and writes its numbers, with the machine, to `path` as JSON.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from pathlib import Path

HERE = Path(__file__).parent
NAMES = sorted(m.name.replace("_", "-") for m in pkgutil.iter_modules([str(HERE)]) if not m.name.startswith("_"))


def main(argv: list[str]) -> int:
    unknown = [name for name in argv if name not in NAMES]
    if unknown:
        print(f"unknown benchmark {unknown[0]!r}; known: {', '.join(NAMES)}", file=sys.stderr)
        return 2
    sys.argv = ["python", "-m", "benchmarks", *argv]  # what the results record as the command
    for name in argv or NAMES:
        print(f"\n{name}", flush=True)
        path = HERE.parent / "results" / "benchmarks" / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        importlib.import_module(f"benchmarks.{name.replace('-', '_')}").main(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
