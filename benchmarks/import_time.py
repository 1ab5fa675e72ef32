"""How long `import unnoise` takes beyond `import torch`, and how long `unnoise --help` takes: whole processes, in turns."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from unnoise.training import provenance

COMMANDS = {
    "import torch": [sys.executable, "-c", "import torch"],
    "import torch, unnoise": [sys.executable, "-c", "import torch, unnoise"],
    "import torch, unnoise.papers.edm": [sys.executable, "-c", "import torch, unnoise.papers.edm"],
    "unnoise --help": [sys.executable, "-m", "unnoise", "--help"],
}


def main(path: Path, turns: int = 9) -> None:
    seconds: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for turn in range(turns + 1):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            if turn:  # the first turn warms the disk's cache
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    pairs = zip(seconds["import torch, unnoise"], seconds["import torch"], strict=True)
    extra = statistics.median(ours - torch for ours, torch in pairs)
    for name, value in medians.items():
        print(f"{name:36} {value:6.3f} s")
    print(f"{'import unnoise beyond torch':36} {extra:6.3f} s (at most 0.2)")
    path.write_text(json.dumps({**provenance(), "medians": medians, "beyond torch": extra}, indent=1) + "\n")
