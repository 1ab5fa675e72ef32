"""One U-Net that is, by its options, DDPM's, improved-ddpm's, ADM's, and EDM's DDPM++, NCSN++ and ADM."""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt
from typing import TYPE_CHECKING, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageProblem
from .attention import Attention
from .cross_attention import SpatialTransformer, Told
from .embeddings import STYLE, Embedding, Labels
from .norm import NormAct
from .options import Options
from .resample import BOX, double, even, halve

if TYPE_CHECKING:
    from .encoder import Encoder

Resample = Literal["up", "down"] | None


@dataclass(frozen=True)
class UNetOptions(Options):
    """What kind of U-Net. The defaults are a small modern one; `networks.published` has the papers'.

    A level is a size: level 0 is the image's, each further level is half of the one before.
    """

    channels: int = 64
    """Width at multiplier 1."""
    mult: tuple[float, ...] = (1, 2, 2)
    """Width of each level, in multiples of `channels`."""
    blocks: int = 2
    """Residual blocks per level on the way down; one more on the way up."""
    attention: tuple[int, ...] = (4,)
    """Where pixels attend to each other, as downsampling factors: 2 is half the image's side, whatever the image."""
    middle_attention: bool = True
    decoder_attention: Literal["all", "last"] = "all"
    """After each block of an attending level on the way up, or after the last one only (DDPM++)."""
    heads: int = 1
    channels_per_head: int | None = None
    """If given, it decides the number of heads."""
    transformer: int = 0
    """Layers of the spatial transformer that stands wherever pixels attend; 0 for plain attention."""
    context: int = 0
    """Width of the tokens `cond["context"]` that the pixels of spatial transformers attend to; 0 for none."""
    dropout: float = 0.0
    embedding: Literal["sin-first", "cos-first", "fourier"] = "cos-first"
    """Features of t: see `Sinusoids`."""
    embedding_mult: int = 1
    """Width of those features, in multiples of `channels`."""
    early_labels: bool = False
    """Labels join the features of t before the MLP (DDPM++) instead of after it (ADM)."""
    augment: int = 0
    """Length of the augmentation vector `cond["augment"]`; 0 for none (EDM: 9)."""
    latent: int = 0
    """Length of the random vector `cond["latent"]`, which scales and shifts both normalisations of every block through an MLP
    of its own; 0 for none (DDGAN: 100)."""
    second_time: bool = False
    """Whether it is told a second time, `cond["toward"]`, as networks that jump are (CTM)."""
    conditioning: Literal["add", "scale-shift", "none"] = "scale-shift"
    """How a block is told: added before its second normalisation, or scale and shift after it; or it is told nothing."""
    skip_scale: float = 1.0
    """Every sum of a residual is multiplied by this (DDPM++, NCSN++: sqrt(1/2))."""
    resample: Literal["residual", "conv", "conv-right"] = "residual"
    """Inside a residual block (BigGAN); or a convolution of stride 2 down, and nearest and a convolution up;
    "conv-right" pads even sides at the right and bottom only, as TensorFlow does (DDPM)."""
    resample_projection: bool = False
    """A 1x1 convolution on the skip of every resampling block (DDPM++, NCSN++)."""
    taps: tuple[int, ...] = BOX
    """The resampling filter: (1, 1) the box, (1, 3, 3, 1) NCSN++'s."""
    input_pyramid: bool = False
    """Adds the shrunk and convolved input at every level (NCSN++'s "residual" progressive input)."""
    groups: int = 32
    """Most groups of a normalisation; never fewer than 4 channels a group."""
    eps: float = 1e-5
    init: Literal["default", "xavier"] = "default"
    """torch's own and zero last layers (ADM), or Xavier-uniform and nearly zero last layers (DDPM, DDPM++)."""
    stem_mult: float = 1
    """Width of the first convolution, in multiples of `channels` (ADM: that of level 0)."""

    def build(self, in_channels: int, out_channels: int | None = None, num_classes: int | None = None) -> UNet:
        """The network, freshly initialised; `out_channels` is `in_channels` if left out."""
        return UNet(self, in_channels, out_channels or in_channels, num_classes)

    def build_encoder(self, in_channels: int, outputs: int, size: tuple[int, int]) -> Encoder:
        """The way down alone, and `outputs` numbers for images of `size` (height, width): a classifier."""
        from .encoder import Encoder

        return Encoder(self, in_channels, outputs, size)


class Block(nn.Module):
    """Residual block: `(skip(x) + conv1(dropout(norm1(conv0(resample(norm0(x))), emb)))) skip_scale`."""

    def __init__(self, o: UNetOptions, inputs: int, outputs: int, resample: Resample = None):
        super().__init__()
        self.taps, self.resample, self.skip_scale, self.p = o.taps, resample, o.skip_scale, o.dropout
        self.norm0 = NormAct(inputs, o.groups, o.eps)
        self.conv0 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.scale_shift = o.conditioning == "scale-shift"
        width, told = _embedding_width(o) * (1 + o.second_time), outputs * (2 if self.scale_shift else 1)
        self.affine = None if o.conditioning == "none" else nn.Linear(width, told)
        self.norm1 = NormAct(outputs, o.groups, o.eps)
        self.conv1 = nn.Conv2d(outputs, outputs, 3, padding=1)
        project = inputs != outputs or (resample is not None and o.resample_projection)
        self.skip = nn.Conv2d(inputs, outputs, 1) if project else None
        self.widths, self.told = (inputs, inputs, outputs, outputs), width
        self.style = nn.Linear(STYLE, sum(self.widths)) if o.latent else None

    def resized(self, x: Tensor) -> Tensor:
        if self.resample is None:
            return x
        return double(x, self.taps) if self.resample == "up" else halve(x, self.taps)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        s0 = b0 = s1 = b1 = None
        if self.style is not None and emb is not None:
            emb, style = emb.split([self.told, STYLE], dim=1)
            s0, b0, s1, b1 = self.style(style).split(self.widths, dim=1)
        h = self.conv0(self.resized(self.norm0(x, scale=s0, shift=b0)))
        told = None if self.affine is None else self.affine(emb)
        if self.scale_shift and told is not None:
            scale, shift = told.chunk(2, dim=1)
            if s1 is not None and b1 is not None:
                scale, shift = scale + s1, shift + b1
            h = self.norm1(h, scale=scale, shift=shift)
        else:
            h = self.norm1(h, add=told, scale=s1, shift=b1)
        h = self.conv1(F.dropout(h, self.p, self.training))
        x = self.resized(x)
        return _join(x if self.skip is None else self.skip(x), h, self.skip_scale)


class Down(nn.Module):
    """Convolution of stride 2; with `right`, an even side is padded at its end only."""

    def __init__(self, inputs: int, outputs: int, right: bool = False):
        super().__init__()
        self.right, self.conv = right, nn.Conv2d(inputs, outputs, 3, stride=2, padding=0 if right else 1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        if self.right:
            h, w = x.shape[-2:]
            x = F.pad(x, (w % 2, 1, h % 2, 1))
        return self.conv(x)


class Up(nn.Module):
    """Nearest-neighbour doubling, then a convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        return self.conv(double(x))


class Pyramid(nn.Module):
    """NCSN++'s progressive input: the input, or the features joined to it last, convolved and halved."""

    def __init__(self, inputs: int, outputs: int, taps: tuple[int, ...]):
        super().__init__()
        self.taps, self.conv = taps, nn.Conv2d(inputs, outputs, 3, padding=1 + (len(taps) - 1) // 2)

    def forward(self, x: Tensor) -> Tensor:
        return halve(self.conv(even(x)), self.taps, padding=0)


class Stage(nn.Module):
    """A residual block, or a resampling layer, and the attention that follows it."""

    def __init__(self, layer: nn.Module, attention: Attention | SpatialTransformer | None = None):
        super().__init__()
        self.layer, self.attention = layer, attention

    def forward(self, x: Tensor, emb: Tensor | None = None, told: Told = None) -> Tensor:
        x = self.layer(x, emb)
        if self.attention is None:
            return x
        return self.attention(x) if told is None else self.attention(x, told)


class Trunk(nn.Module):
    """The way down and the middle, which the U-Net and the classifier (encoder.py) have in common."""

    def __init__(self, options: UNetOptions, in_channels: int, num_classes: int | None = None):
        super().__init__()
        o = self.options = options
        widths = [width_of(o, m) for m in o.mult]
        self.attends = [2**level in o.attention for level in range(len(widths))]
        if extra := sorted(set(o.attention) - {2**level for level in range(len(widths))}):
            raise UsageProblem(
                f"attention at downsampling {extra[0]} needs a level of that size; "
                f"{len(widths)} levels have {', '.join(str(2**level) for level in range(len(widths)))}"
            )

        self.embedding = Embedding(
            o.embedding_mult * o.channels,
            _embedding_width(o),
            o.embedding,
            num_classes,
            o.augment,
            o.early_labels,
            o.second_time,
            o.latent,
        )
        c = width_of(o, o.stem_mult)
        self.stem = nn.Conv2d(in_channels, c, 3, padding=1)

        self.down, self.pyramid, self.skips, seen = nn.ModuleList(), nn.ModuleList(), [c], in_channels
        for level, width in enumerate(widths):
            stages = nn.ModuleList()
            if level:
                right = o.resample == "conv-right"
                stages.append(_stage(o, c, c, "down") if o.resample == "residual" else Stage(Down(c, c, right)))
                self.skips.append(c)
                if o.input_pyramid:
                    self.pyramid.append(Pyramid(seen, c, o.taps))
                    seen = c
            for _ in range(o.blocks):
                stages.append(_stage(o, c, width, attend=self.attends[level]))
                self.skips.append(c := width)
            self.down.append(stages)

        self.middle = nn.ModuleList([_stage(o, c, c, attend=o.middle_attention), _stage(o, c, c)])

    def told(self, cond: dict[str, Tensor] | None) -> Told:
        """The tokens that pixels attend to, and which of them there are. Raises UsageProblem where they do not fit the network."""
        context = (cond or {}).get("context")
        if (context is None) == bool(self.options.context):
            raise UsageProblem(
                "this network attends to no tokens; build it with context to condition on them"
                if context is not None
                else 'this network attends to tokens, and was given none; give cond["context"]'
            )
        return None if context is None else (context, (cond or {}).get("there"))

    def descend(self, x: Tensor, emb: Tensor, told: Told = None) -> tuple[Tensor, list[Tensor]]:
        """The features after the middle, and those of every stage on the way down."""
        h = self.stem(x.contiguous(memory_format=torch.channels_last))
        skips, seen = [h], x
        for level, stages in enumerate(self.down):
            for i, stage in enumerate(stages):  # type: ignore[arg-type]
                h = stage(h, emb, told)
                if level and i == 0 and self.pyramid:
                    h = seen = _join(h, self.pyramid[level - 1](seen), sqrt(0.5))
                skips.append(h)
        for stage in self.middle:
            h = stage(h, emb, told)
        return h, skips


class UNet(Trunk):
    """`network(x, t, cond) -> (batch, out_channels, height, width)`.

    x: (batch, in_channels, height, width), any sides (those that do not halve evenly are padded on the way down and
    cropped on the way up); t: (batch,) any number; cond: {"label": (batch,) int64, -1 for none, "augment": vectors,
    "toward": (batch,)}. Raises UsageProblem for options that do not fit together and for conditions it was not built for.
    """

    def __init__(self, options: UNetOptions, in_channels: int, out_channels: int, num_classes: int | None = None):
        super().__init__(options, in_channels, num_classes)
        o, skips = options, list(self.skips)
        c, levels = skips[-1], len(o.mult)
        self.up = nn.ModuleList()
        for level in reversed(range(levels)):
            stages, width = nn.ModuleList(), width_of(o, o.mult[level])
            if level < levels - 1:
                stages.append(_stage(o, c, c, "up") if o.resample == "residual" else Stage(Up(c)))
            for i in range(o.blocks + 1):
                attend = self.attends[level] and (o.decoder_attention == "all" or i == o.blocks)
                stages.append(_stage(o, c + skips.pop(), width, attend=attend))
                c = width
            self.up.append(stages)

        self.norm = NormAct(c, o.groups, o.eps)
        self.head = nn.Conv2d(c, out_channels, 3, padding=1)
        initialise(self, o.init, self.head)
        self.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    def forward(self, x: Tensor, t: Tensor, cond: dict[str, Tensor] | None = None) -> Tensor:
        emb, told = self.embedding(t, cond), self.told(cond)
        h, skips = self.descend(x, emb, told)
        for level, stages in enumerate(self.up):
            for i, stage in enumerate(stages):  # type: ignore[arg-type]
                if level and i == 0:  # back to the size of the level's skips, which may have been odd
                    height, width = skips[-1].shape[-2:]
                    h = stage(h, emb, told)[..., :height, :width]
                else:
                    h = stage(torch.cat([h, skips.pop()], dim=1), emb, told)
        return self.head(self.norm(h))


def _stage(o: UNetOptions, inputs: int, outputs: int, resample: Resample = None, attend: bool = False) -> Stage:
    return Stage(Block(o, inputs, outputs, resample), attention(o, outputs) if attend else None)


def _join(x: Tensor, h: Tensor, scale: float) -> Tensor:
    return x + h if scale == 1 else (x + h) * scale


def width_of(o: UNetOptions, mult: float) -> int:
    return int(o.channels * mult)


def _embedding_width(o: UNetOptions) -> int:
    return 4 * o.channels


def heads_of(o: UNetOptions, channels: int) -> int:
    """Attention heads of a layer this wide."""
    size = o.channels_per_head or channels / o.heads
    if channels % size:
        raise UsageProblem(
            f"{channels} channels cannot be shared out to heads of {size:g}; change heads or channels_per_head"
        )
    return int(channels // size)


def attention(o: UNetOptions, channels: int) -> Attention | SpatialTransformer:
    if o.transformer:
        return SpatialTransformer(channels, heads_of(o, channels), o.transformer, o.context, o.groups)
    if o.context:
        raise UsageProblem("only spatial transformers attend to tokens; give the network transformer 1 or more")
    return Attention(channels, heads_of(o, channels), o.groups, o.eps, o.skip_scale)


@torch.no_grad()
def initialise(network: Trunk, kind: str, *heads: nn.Module) -> None:
    """The last layer of every residual, and of the network, starts at (or by) nothing, so that each block starts as the
    identity. "xavier": bounds sqrt(6 / (fan_in + fan_out)), biases 0, times sqrt(0.2) for q, k, v, times 1e-5 for the
    last layers; "default": torch's own, and 0 for the last layers."""
    attentions = [m for m in network.modules() if isinstance(m, Attention)]
    last = {*heads, *(m.conv1 for m in network.modules() if isinstance(m, Block)), *(a.proj for a in attentions)}
    last |= {m.out for m in network.modules() if isinstance(m, SpatialTransformer)}
    qkv = {a.qkv for a in attentions}
    for module in network.modules():
        if isinstance(module, Labels) and kind == "xavier":  # as a matrix applied to one-hots times sqrt(classes)
            bound = sqrt(6 * module.classes / (module.classes + module.rows.embedding_dim))
            nn.init.uniform_(module.rows.weight, -bound, bound)
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            continue
        if kind == "xavier":
            gain = 1e-5 if module in last else sqrt(0.2) if module in qkv else 1.0
            nn.init.xavier_uniform_(module.weight, gain)
        elif module in last:
            nn.init.zeros_(module.weight)
        if module.bias is not None and (kind == "xavier" or module in last):
            nn.init.zeros_(module.bias)
