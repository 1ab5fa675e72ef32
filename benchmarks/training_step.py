"""How quick is a training step? Ours against diffusers', on the very same architecture, and against the machine.

A U-Net of about 2 M parameters on 32 x 32 x 3 images, batch 64. Ours: bfloat16 where the processor has it,
channels_last, fused AdamW, foreach EMA. Theirs: `UNet2DModel` of the same widths, depth, attention and resampling in the
loop of diffusers' unconditional example: float32, accelerate, AdamW, gradient clipping, learning-rate schedule, EMAModel.
The networks compute the same (the parity tests copy weights), so the ratio of the times is that of the GFLOP/s; torch's
counter sees a little less in theirs, since it does not count the fused attention on a CPU.

Both sides take turns in one process; medians over the turns are compared, and in each turn the machine's bfloat16 matrix
product is timed beside them. Times are wall-clock. With busy neighbours, OMP_NUM_THREADS=1 and the "cpu" clock, which
counts this process's own time, tell more.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from unnoise.networks import UNetOptions
from unnoise.runtime import autocast, best_precision, tune_allocator
from unnoise.training import provenance

NETWORK = UNetOptions(channels=32, mult=(1, 4), blocks=1, attention=())  # attention in the middle, at 16 x 16
BATCH, SIZE = 64, 32


def our_step(options: UNetOptions, images: Tensor, precision: str) -> tuple[Callable[[], None], int]:
    """One step of training on `images`, and the number of parameters."""
    network = options.build(3)
    weights = list(network.parameters())
    average = [w.detach().clone() for w in weights]
    optimizer = torch.optim.AdamW(weights, 1e-4, fused=True)

    def step() -> None:
        noise, t = torch.randn_like(images), torch.rand(len(images))
        mix = t[:, None, None, None]
        with autocast("cpu", precision):
            guess = network((1 - mix) * images + mix * noise, 1000 * t)
        F.mse_loss(guess.float(), noise).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        torch._foreach_lerp_(average, [w.detach() for w in weights], 1e-3)

    return step, sum(w.numel() for w in weights)


def their_step(options: UNetOptions, images: Tensor) -> tuple[Callable[[], None], int]:
    """The same in the loop of diffusers' examples/unconditional_image_generation, with its defaults."""
    from accelerate import Accelerator
    from diffusers import DDPMScheduler, UNet2DModel
    from diffusers.optimization import get_scheduler
    from diffusers.training_utils import EMAModel

    residual, told = options.resample == "residual", options.conditioning == "scale-shift"
    attends = [2**level in options.attention for level in range(len(options.mult))]
    down, up = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if residual else ("DownBlock2D", "UpBlock2D")
    network = UNet2DModel(
        sample_size=SIZE,
        block_out_channels=tuple(int(options.channels * m) for m in options.mult),
        layers_per_block=options.blocks,
        down_block_types=["AttnDownBlock2D" if a else down for a in attends],
        up_block_types=["AttnUpBlock2D" if a else up for a in reversed(attends)],
        attention_head_dim=options.channels_per_head,  # None: one head
        norm_num_groups=8,  # divides every width
        downsample_type="resnet" if residual else "conv",
        upsample_type="resnet" if residual else "conv",
        resnet_time_scale_shift="scale_shift" if told else "default",
        attn_norm_num_groups=8,
    )
    accelerator = Accelerator(cpu=True, mixed_precision="no")
    average = EMAModel(network.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=0.75)
    process = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    schedule = get_scheduler("cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=10000)
    network, optimizer, schedule = accelerator.prepare(network, optimizer, schedule)

    def step() -> None:
        noise = torch.randn(images.shape)
        t = torch.randint(0, 1000, (len(images),)).long()
        noisy = process.add_noise(images, noise, t)
        with accelerator.accumulate(network):
            accelerator.backward(F.mse_loss(network(noisy, t).sample.float(), noise.float()))
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
        if accelerator.sync_gradients:
            average.step(network.parameters())

    return step, sum(w.numel() for w in network.parameters())


def gemm(n: int) -> Callable[[], None]:
    """A product of two n x n bfloat16 matrices."""
    a, b, out = torch.randn(3, n, n).bfloat16().unbind(0)

    def product() -> None:
        torch.mm(a, b, out=out)

    return product


def count(step: Callable[[], None]) -> int:
    """Floating-point operations of a step, by torch's counter (matrix products and convolutions)."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def run(rounds: int = 9, clock: str = "wall") -> dict:
    """Measure; returns what `main` prints, ready for JSON."""
    now = time.process_time if clock == "cpu" else time.perf_counter
    tune_allocator()
    torch.manual_seed(0)
    images, precision = torch.randn(BATCH, 3, SIZE, SIZE), best_precision("cpu")
    ours, our_size = our_step(NETWORK, images, precision)
    theirs, their_size = their_step(NETWORK, images)
    sides = {"unnoise": ours, "diffusers": theirs}
    flops = {name: count(step) for name, step in sides.items()}
    sizes = (512, 1024, 2048)
    work = {**sides, **{f"gemm {n}": gemm(n) for n in sizes}}
    flops |= {f"gemm {n}": 2 * n**3 for n in sizes}

    times: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(rounds + 1):
        for name, job in work.items():
            start = now()
            job()
            if turn:  # the first is a warm-up
                times[name].append(now() - start)
    rate = {name: flops[name] / statistics.median(ts) / 1e9 for name, ts in times.items()}
    pairs = [a / b for a, b in zip(times["diffusers"], times["unnoise"], strict=True)]
    return {
        "benchmark": "training-step",
        "network": asdict(NETWORK),
        "batch": BATCH,
        "size": SIZE,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "clock": clock,
        "rounds": rounds,
        "parameters": {"unnoise": our_size, "diffusers": their_size},
        "gflop_per_image": {name: flops[name] / BATCH / 1e9 for name in sides},
        "seconds": {name: statistics.median(ts) for name, ts in times.items()},
        "gflop_per_second": rate,
        "images_per_second": {name: BATCH / statistics.median(times[name]) for name in sides},
        "times_diffusers": statistics.median(pairs),
        "of_gemm_2048": rate["unnoise"] / rate["gemm 2048"],
    }


def table(result: dict) -> str:
    """The result for a reader."""
    lines = [f"{'':12}{'parameters':>12}{'GFLOP/image':>13}{'s/step':>9}{'images/s':>10}{'GFLOP/s':>9}"]
    for name in ("unnoise", "diffusers"):
        lines.append(
            f"{name:12}{result['parameters'][name]:>12,}{result['gflop_per_image'][name]:>13.2f}"
            f"{result['seconds'][name]:>9.3f}{result['images_per_second'][name]:>10.1f}"
            f"{result['gflop_per_second'][name]:>9.0f}"
        )
    for name in ("gemm 512", "gemm 1024", "gemm 2048"):
        lines.append(f"{'bf16 ' + name:46}{'':10}{result['gflop_per_second'][name]:>9.0f}")
    lines.append(
        f"{result['times_diffusers']:.2f} times diffusers' speed; "
        f"{100 * result['of_gemm_2048']:.0f} % of the bf16 matrix product (n = 2048); "
        f"{result['precision']}, {result['threads']} threads, {result['clock']} clock"
    )
    return "\n".join(lines)


def main(path: Path, rounds: int = 9, clock: str = "wall") -> None:
    result = run(rounds, clock)
    print(table(result))
    path.write_text(json.dumps({**provenance(), **result}, indent=1) + "\n")
