"""How good are the pictures after the same minutes? Ours against diffusers' unconditional example, one judge.

Both train on the shipped Fashion-MNIST for the same wall-clock time on the same threads, in turns of one process each, then draw
the same number of pictures with about the same number of network calls; the judge is the Frechet distance to held-out
images in the features of the project's classifier, and the floor is that of training images.

Theirs: examples/unconditional_image_generation with its defaults (batch 16, AdamW 1e-4, betas 0.95 and 0.999, weight
decay 1e-6, cosine schedule with 500 steps of warm-up, clipping at 1, EMAModel, float32, 1000 linear betas), a
`UNet2DModel` of about the same number of parameters, sampled by DDIM with 35 steps. Ours: `unnoise train edm
--no-conditional` with its laptop preset, 18 steps of Heun (35 calls).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from unnoise.data import load
from unnoise.metrics import features, frechet_distance
from unnoise.training import provenance


def ours(minutes: float, count: int, seed: int, folder: Path) -> tuple[torch.Tensor, dict]:
    from dataclasses import replace

    from unnoise.model import train_model
    from unnoise.papers.edm import EDM

    recipe = EDM(conditional=False)
    recipe = replace(recipe, training=replace(recipe.training, minutes=minutes, seed=seed, preview_every=0))
    start = time.perf_counter()
    model, result = train_model(recipe, load("fashion-mnist"), folder / "run", preview=False)
    seconds = time.perf_counter() - start
    parts = [model.sample(range(i, min(i + 250, count))) for i in range(0, count, 250)]
    parameters = sum(p.numel() for p in model.denoiser.parameters())
    return torch.cat(parts), {"seconds": seconds, "images": result.images, "parameters": parameters}


def theirs(minutes: float, count: int, seed: int, folder: Path) -> tuple[torch.Tensor, dict]:
    from accelerate import Accelerator
    from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    torch.manual_seed(seed)
    data = load("fashion-mnist")
    accelerator = Accelerator(cpu=True)
    network = UNet2DModel(
        sample_size=28,
        in_channels=1,
        out_channels=1,
        layers_per_block=2,
        block_out_channels=(32, 64, 64),
        down_block_types=("DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D"),
    )
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    noising = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)

    class Rows(torch.utils.data.Dataset):
        def __len__(self):
            return len(data)

        def __getitem__(self, i):
            return data.batch([i]).x[0]

    loader = torch.utils.data.DataLoader(Rows(), batch_size=16, shuffle=True)
    schedule = None
    network, optimizer, loader = accelerator.prepare(network, optimizer, loader)
    start, step, steps = time.perf_counter(), 0, None
    while steps is None or step < steps:
        for clean in loader:
            noise = torch.randn_like(clean)
            t = torch.randint(0, 1000, (len(clean),))
            guess = network(noising.add_noise(clean, noise, t), t).sample
            accelerator.backward(torch.nn.functional.mse_loss(guess, noise))
            accelerator.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            if schedule is not None:
                schedule.step()
            optimizer.zero_grad()
            average.step(network.parameters())
            step += 1
            if step == 60:  # the schedule needs the number of steps: as many as the time holds
                steps = max(61, int(60 * minutes * 60 / (time.perf_counter() - start)))
                schedule = get_scheduler(
                    "cosine", optimizer, num_warmup_steps=min(500, steps // 4), num_training_steps=steps
                )
                for _ in range(60):
                    schedule.step()
            if steps is not None and (step >= steps or time.perf_counter() - start > 60 * minutes):
                steps = step
                break
    seconds = time.perf_counter() - start
    average.copy_to(network.parameters())
    network.eval()
    sampler = DDIMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    sampler.set_timesteps(35)
    parts = []
    with torch.no_grad():
        for i in range(0, count, 250):
            x = torch.randn(min(250, count - i), 1, 28, 28)
            for t in sampler.timesteps:
                x = sampler.step(network(x, t).sample, t, x).prev_sample
            parts.append(x.clamp(-1, 1))
    parameters = sum(p.numel() for p in network.parameters())
    return torch.cat(parts), {"seconds": seconds, "images": step * 16, "parameters": parameters}


def main(path: Path, minutes: float = 2.5, count: int = 1000, seeds: tuple[int, ...] = (0, 1, 2)) -> None:
    held_out = load("fashion-mnist", "held-out").images()
    judge = features("classifier:fashion-mnist")
    truth = judge(held_out)
    chosen = torch.randperm(10_000, generator=torch.Generator().manual_seed(0))[:count]
    floor = frechet_distance(judge(load("fashion-mnist").images()[chosen]), truth)
    rows: dict[str, list[dict]] = {"ours": [], "theirs": []}
    for seed in seeds:
        for side in rows:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "x.safetensors"
                command = [
                    sys.executable,
                    "-m",
                    "benchmarks.quality_per_minute",
                    side,
                    str(minutes),
                    str(count),
                    str(seed),
                    folder,
                ]
                row = json.loads(
                    subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]
                )
                from safetensors.torch import load_file

                row["frechet"] = frechet_distance(judge(load_file(out)["x"]), truth)
            rows[side].append(row)
            print(
                f"{side:8} seed {seed}: {row['images']:7d} images in {row['seconds']:.0f} s, Frechet {row['frechet']:.2f}"
            )
    medians = {side: statistics.median(r["frechet"] for r in found) for side, found in rows.items()}
    ratio = medians["ours"] / medians["theirs"]
    print(f"frechet[classifier:fashion-mnist] ours {medians['ours']:.2f}, theirs {medians['theirs']:.2f}, ", end="")
    print(f"ratio {ratio:.2f} (at most 0.5), floor {floor:.2f}")
    record = {"minutes": minutes, "count": count, "floor": floor, "medians": medians, "ratio": ratio, **rows}
    path.write_text(json.dumps({**provenance(), **record}, indent=1) + "\n")


def side() -> None:
    parser = argparse.ArgumentParser()
    for name, kind in {"side": str, "minutes": float, "count": int, "seed": int, "folder": Path}.items():
        parser.add_argument(name, type=kind)
    a = parser.parse_args()
    from safetensors.torch import save_file

    x, row = (ours if a.side == "ours" else theirs)(a.minutes, a.count, a.seed, a.folder)
    save_file({"x": x.contiguous()}, a.folder / "x.safetensors")
    print(json.dumps(row))


if __name__ == "__main__":
    side()
