"""Train the classifiers that ship with unnoise.metrics: `python scripts/train_classifiers.py [NAME ...]`.

Deterministic: one thread, fixed seeds, deterministic kernels; the same machine gives the same file to the last byte,
another kind of processor the same accuracy to about a percent. Writes NAME.safetensors and its card NAME.json.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import save
from torch import Tensor, nn

from unnoise.data import DataSet, load, to_uint8
from unnoise.disk import write_file
from unnoise.mel import SPEECH, picture
from unnoise.metrics.classifiers import WEIGHTS, Classifier
from unnoise.metrics.images import to_float
from unnoise.rng import stream


@dataclass(frozen=True)
class Recipe:
    """AdamW, a linear warm-up, a linear decay to zero; images randomly shifted, and mirrored where that is safe."""

    data: tuple[str, ...]
    epochs: int
    flip: bool
    shift: int
    batch: int = 128
    learning_rate: float = 4e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    warmup: float = 0.2
    precision: str = "bfloat16"
    widths: tuple[int, ...] = (32, 64, 128, 128)
    hissing: int = 0
    """Copies of each sound in white noise, so that a word is heard through a hiss as people hear it."""
    seed: int = 0


RECIPES = {
    "fashion-mnist": Recipe(("fashion-mnist",), epochs=30, flip=True, shift=1),
    "digits": Recipe(("digits",), epochs=60, flip=False, shift=1),
    "spoken-digits": Recipe(("spoken-digits",), epochs=20, flip=False, shift=3, widths=(16, 32, 64, 64), hissing=5),
    "emoji": Recipe(("emoji-twitter", "emoji-google"), epochs=60, flip=True, shift=2),
}


def augment(x: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Each image moved by up to `shift` pixels either way, the edge repeated, and mirrored half of the time."""
    n, _, height, width = x.shape
    padded = nn.functional.pad(x, (recipe.shift,) * 4, mode="replicate")
    down, right = torch.randint(2 * recipe.shift + 1, (2, n, 1), generator=generator)
    rows, columns = down + torch.arange(height), right + torch.arange(width)
    if recipe.flip:
        columns = torch.where(torch.rand(n, 1, generator=generator) < 0.5, columns.flip(1), columns)
    example = torch.arange(n)[:, None, None]
    return padded.movedim(1, -1)[example, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)


def train(images: Tensor, labels: Tensor, classes: int, recipe: Recipe, name: str) -> Classifier:
    torch.manual_seed(recipe.seed)  # the initial weights
    network = Classifier(images.shape[1], classes, recipe.widths)
    generator, per_epoch = stream(recipe.seed, 0), len(images) // recipe.batch
    steps = recipe.epochs * per_epoch
    optimizer = torch.optim.AdamW(network.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)

    def ramp(step: int) -> float:
        return min((step + 1) / (recipe.warmup * steps), (steps - step) / ((1 - recipe.warmup) * steps))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, ramp)
    precision = getattr(torch, recipe.precision)
    for _ in track(range(recipe.epochs), f"training {name}"):
        for batch in torch.randperm(len(images), generator=generator)[: per_epoch * recipe.batch].split(recipe.batch):
            x = augment(to_float(images[batch]), recipe, generator)
            with torch.autocast("cpu", precision, enabled=precision != torch.float32):
                logits = network(x)
            loss = nn.functional.cross_entropy(logits.float(), labels[batch], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return network.eval().requires_grad_(False)


QUIET, LOUD = 1e-3, 0.05
"""Deviations between which, log-evenly, the noise of a hissing copy lies; words have 0.1."""


def pictures(data: DataSet, hissing: int = 0) -> Tensor:
    """The images of a set, uint8; of sounds, their mel spectrograms, and those of `hissing` copies in noise."""
    if data.kind != "sound":
        return data.images()
    x, generator = data.batch(range(len(data))).x, stream(0, 3)
    sounds = [x]
    for _ in range(hissing):
        level = QUIET * (LOUD / QUIET) ** torch.rand(len(x), 1, 1, generator=generator)
        sounds.append((x + level * torch.randn(x.shape, generator=generator)).clamp(-1, 1))
    return torch.cat([to_uint8(picture(SPEECH(sound))) for sound in sounds])


def together(names: tuple[str, ...], split: str, hissing: int = 0) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Images uint8, labels, and class names of one split of several data sets of the same classes."""
    sets = [load(name, split) for name in names]
    labels = torch.cat([s.labels for s in sets]).repeat(1 + hissing)
    return torch.cat([pictures(s, hissing) for s in sets]), labels, sets[0].classes


def fingerprint(images: Tensor, labels: Tensor) -> str:
    return hashlib.sha256(images.numpy().tobytes() + labels.numpy().tobytes()).hexdigest()


def accuracy(network: Classifier, images: Tensor, labels: Tensor) -> float:
    return (network.classify(images).argmax(1) == labels).double().mean().item()


def make(name: str, folder: Path, console: Console) -> None:
    recipe, start = RECIPES[name], time.process_time()
    images, labels, classes = together(recipe.data, "train", recipe.hissing)
    fresh, fresh_labels, _ = together(recipe.data, "held-out")
    network = train(images, labels, len(classes), recipe, name)
    seen = network.features(images)
    network.center.copy_(seen.mean(0))
    network.scale.fill_(seen.var(0).mean().sqrt())
    held_out, on_train = accuracy(network, fresh, fresh_labels), accuracy(network, images, labels)
    heard = {}
    if recipe.hissing:
        hissed, hissed_labels, _ = together(recipe.data, "held-out", 1)
        heard = {"held_out_in_noise": round(accuracy(network, hissed[len(fresh) :], hissed_labels[len(fresh) :]), 4)}
    weights = save({key: value.contiguous() for key, value in network.state_dict().items()})
    card = {
        "name": name,
        "data": list(recipe.data),
        "classes": list(classes),
        "image_shape": list(images.shape[1:]),
        "widths": list(recipe.widths),
        "feature_dim": len(network.center),
        "accuracy": {"held_out": round(held_out, 4), **heard, "train": round(on_train, 4)},
        "count": {"held_out": len(fresh), "train": len(images)},
        "data_sha256": {"held_out": fingerprint(fresh, fresh_labels), "train": fingerprint(images, labels)},
        "recipe": asdict(recipe),
        "made_by": f"scripts/train_classifiers.py {name}",
        "torch": torch.__version__,
        "weights_sha256": hashlib.sha256(weights).hexdigest(),
    }
    write_file(folder / f"{name}.safetensors", weights)
    write_file(folder / f"{name}.json", (json.dumps(card, indent=2, ensure_ascii=False) + "\n").encode())
    console.print(
        f"{name}: accuracy {held_out:.4f} on {len(fresh):,} held-out images ({on_train:.4f} on train), "
        f"{len(weights) / 1e6:.2f} MB, {time.process_time() - start:.0f} CPU-seconds"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the classifiers that ship with unnoise.metrics.")
    parser.add_argument("names", nargs="*", metavar="NAME", choices=[*RECIPES], help="data sets (default: all)")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder of the weights and cards")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.names or RECIPES:
        make(name, options.out, Console())


if __name__ == "__main__":
    main()
