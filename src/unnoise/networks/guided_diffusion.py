"""The weights of openai/guided-diffusion under this library's names: the same U-Net and classifier, named otherwise.

Its blocks are numbered along the whole way (`input_blocks.N`, `output_blocks.N`); ours are numbered within their level. The
two agree in everything else but attention, whose q, k and v rows come head by head in its older ("legacy") order, and kind
by kind in the newer one, which is ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

import torch
from torch import Tensor

from ..errors import Problem
from .attention import Attention
from .encoder import Encoder
from .unet import Block, Down, UNet

Order = Literal["legacy", "new"]

BLOCK = {
    "norm0": "in_layers.0",
    "conv0": "in_layers.2",
    "affine": "emb_layers.1",
    "norm1": "out_layers.0",
    "conv1": "out_layers.3",
    "skip": "skip_connection",
}
ATTENTION = {"norm": "norm", "qkv": "qkv", "proj": "proj_out"}


def load_guided_diffusion(
    network: UNet | Encoder, tensors: Mapping[str, Tensor], attention: Order = "legacy"
) -> dict[str, Tensor]:
    """`tensors`, a guided-diffusion checkpoint (safetensors), as a state dict of `network`, float32.

    attention   the order of its q, k, v rows: "new" for the published 64x64 model, "legacy" for all others and for every
                classifier (its `use_new_attention_order`).

    The row for "no label", which it does not have, is zero. Raises Problem where names or shapes are of another network.
    """
    left = dict(tensors)
    found: dict[str, Tensor] = {}
    theirs_of = dict(_modules(network))
    heads = {f"{name}.qkv": m.heads for name, m in network.named_modules() if isinstance(m, Attention)}
    for name, target in network.state_dict().items():
        module, _, leaf = name.rpartition(".")
        theirs = theirs_of[name] if name in theirs_of else f"{theirs_of[module]}.{leaf}"
        if theirs not in left:
            raise Problem(f"these weights have no {theirs}; build the network of the configuration they belong to")
        value = left.pop(theirs)
        if module == "embedding.labels.rows":
            value = torch.cat([value, torch.zeros_like(value[:1])])
        if module in heads and attention == "legacy":
            value = value.unflatten(0, (heads[module], 3, -1)).transpose(0, 1).flatten(0, 2)
        if value.numel() != target.numel() or len(value) != len(target):
            raise Problem(
                f"{theirs} is {tuple(value.shape)} in these weights and {tuple(target.shape)} here; "
                "build the network of the configuration they belong to"
            )
        found[name] = value.reshape(target.shape).float()
    if left:
        raise Problem(f"these weights also have {min(left)}; build the network of the configuration they belong to")
    return found


def _modules(network: UNet | Encoder) -> Iterator[tuple[str, str]]:
    """Our modules (or parameters) and theirs, by name."""
    yield from {"embedding.inner": "time_embed.0", "embedding.outer": "time_embed.2"}.items()
    yield "embedding.labels.rows", "label_emb"
    yield "stem", "input_blocks.0.0"
    place = 1
    for level, stages in enumerate(network.down):
        for i, stage in enumerate(stages):  # type: ignore[arg-type]
            yield from _stage(f"down.{level}.{i}", stage, f"input_blocks.{place}", 0)
            place += 1
    yield from _stage("middle.0", network.middle[0], "middle_block", 0)
    yield from _stage("middle.1", network.middle[1], "middle_block", 1 + _attends(network.middle[0]))
    yield "norm", "out.0"
    if isinstance(network, Encoder):
        yield from {"pool.positions": "out.2.positional_embedding", "pool.qkv": "out.2.qkv_proj"}.items()
        yield "pool.proj", "out.2.c_proj"
        return
    yield "head", "out.2"
    place, before = 0, network.middle[1]
    for level, stages in enumerate(network.up):
        for i, stage in enumerate(stages):  # type: ignore[arg-type]
            if level and i == 0:  # a level begins with the doubling that ends their block before it
                yield from _stage(f"up.{level}.0", stage, f"output_blocks.{place - 1}", 1 + _attends(before))
                continue
            yield from _stage(f"up.{level}.{i}", stage, f"output_blocks.{place}", 0)
            place, before = place + 1, stage


def _attends(stage) -> bool:
    return stage.attention is not None


def _stage(ours: str, stage, theirs: str, first: int) -> Iterator[tuple[str, str]]:
    """The modules of a stage; `first`: the place of its layer within their block."""
    if isinstance(stage.layer, Block):
        for a, b in BLOCK.items():
            yield f"{ours}.layer.{a}", f"{theirs}.{first}.{b}"
    else:
        yield f"{ours}.layer.conv", f"{theirs}.{first}.{'op' if isinstance(stage.layer, Down) else 'conv'}"
    for a, b in ATTENTION.items():
        yield f"{ours}.attention.{a}", f"{theirs}.{first + 1}.{b}"
