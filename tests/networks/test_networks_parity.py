"""Parity with diffusers' UNet2DModel on the same weights.

Its ways, met by options: `downsample_padding=0` pads even sides at the right and bottom ("conv-right"), 1 pads all round
("conv"); `flip_sin_to_cos=False, freq_shift=1` is sin-first, `True, 0` (its default) cos-first; its `norm_num_groups` is a
number, ours a maximum. Its time features are always float32: in float64 it is given ours.
"""

import dataclasses

import pytest
import torch

from unnoise.networks import UNetOptions
from unnoise.networks.attention import Attention
from unnoise.networks.unet import Block

diffusers = pytest.importorskip("diffusers")

DDPM = UNetOptions(
    channels=32,
    mult=(1, 2, 2),
    blocks=2,
    attention=(2,),
    embedding="sin-first",
    conditioning="add",
    resample="conv-right",
    groups=8,
    eps=1e-6,
    init="xavier",
)


def theirs(o: UNetOptions):
    widths = tuple(int(o.channels * m) for m in o.mult)
    attends = [2**level in o.attention for level in range(len(widths))]
    kind = "resnet" if o.resample == "residual" else "conv"
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if kind == "resnet" else ("DownBlock2D", "UpBlock2D")
    return diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=widths,
        layers_per_block=o.blocks,
        down_block_types=["AttnDownBlock2D" if a else plain[0] for a in attends],
        up_block_types=["AttnUpBlock2D" if a else plain[1] for a in reversed(attends)],
        attention_head_dim=o.channels_per_head,
        norm_num_groups=o.groups,
        norm_eps=o.eps,
        dropout=o.dropout,
        flip_sin_to_cos=o.embedding == "cos-first",
        freq_shift=1 if o.embedding == "sin-first" else 0,
        downsample_padding=0 if o.resample == "conv-right" else 1,
        downsample_type=kind,
        upsample_type=kind,
        resnet_time_scale_shift="scale_shift" if o.conditioning == "scale-shift" else "default",
        attn_norm_num_groups=o.groups,
    )


def put(ours, theirs) -> None:
    ours.load_state_dict({k: v.reshape(getattr(ours, k).shape) for k, v in theirs.state_dict().items()})


def put_block(b: Block, r) -> None:
    for a, c in ((b.norm0, r.norm1), (b.conv0, r.conv1), (b.affine, r.time_emb_proj), (b.norm1, r.norm2)):
        put(a, c)
    put(b.conv1, r.conv2)
    assert (b.skip is None) == (r.conv_shortcut is None)
    if b.skip is not None:
        put(b.skip, r.conv_shortcut)


def put_attention(a: Attention, r) -> None:
    assert a.heads == r.heads
    put(a.norm, r.group_norm)
    put(a.proj, r.to_out[0])
    for name in ("weight", "bias"):
        joined = torch.cat([getattr(part, name) for part in (r.to_q, r.to_k, r.to_v)])
        getattr(a.qkv, name).data.copy_(joined.reshape(getattr(a.qkv, name).shape))


def put_stages(stages, level, sampler) -> None:
    """`sampler`: None, or the level's down- or upsampler, which is our next stage's own layer."""
    attentions = getattr(level, "attentions", None) or [None] * len(level.resnets)
    for stage, resnet, attention in zip(stages, level.resnets, attentions, strict=True):
        put_block(stage.layer, resnet)
        assert (stage.attention is None) == (attention is None)
        if attention is not None:
            put_attention(stage.attention, attention)
    if sampler is not None:
        stage, layer = sampler
        put_block(stage.layer, layer) if isinstance(stage.layer, Block) else put(stage.layer.conv, layer.conv)


def copy_weights(ours, ref) -> None:
    put(ours.embedding.inner, ref.time_embedding.linear_1)
    put(ours.embedding.outer, ref.time_embedding.linear_2)
    put(ours.stem, ref.conv_in)
    put(ours.norm, ref.conv_norm_out)
    put(ours.head, ref.conv_out)
    last = len(ours.down) - 1
    for level, (stages, block) in enumerate(zip(ours.down, ref.down_blocks, strict=True)):
        sampler = (ours.down[level + 1][0], block.downsamplers[0]) if level < last else None
        put_stages(list(stages)[1 if level else 0 :], block, sampler)
    put_block(ours.middle[0].layer, ref.mid_block.resnets[0])
    put_attention(ours.middle[0].attention, ref.mid_block.attentions[0])
    put_block(ours.middle[1].layer, ref.mid_block.resnets[1])
    for level, (stages, block) in enumerate(zip(ours.up, ref.up_blocks, strict=True)):
        sampler = (ours.up[level + 1][0], block.upsamplers[0]) if level < last else None
        put_stages(list(stages)[1 if level else 0 :], block, sampler)


CONFIGURATIONS = {
    "ddpm": dataclasses.replace(DDPM, channels_per_head=64),
    "ddpm, padded all round, cos-first": dataclasses.replace(
        DDPM, resample="conv", embedding="cos-first", channels_per_head=64
    ),
    "heads and two attending levels": dataclasses.replace(DDPM, attention=(2, 4), channels_per_head=16),
    "residual resampling": dataclasses.replace(DDPM, resample="residual", channels_per_head=64),
    "scale and shift": dataclasses.replace(DDPM, conditioning="scale-shift", channels_per_head=32),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_same_weights_same_output(name, size):
    options = CONFIGURATIONS[name]
    torch.manual_seed(0)
    ref = theirs(options).eval()
    with torch.no_grad():
        for p in ref.parameters():  # nothing left at zero
            p.add_(0.05 * torch.randn_like(p))
    ours = options.build(3).eval()
    copy_weights(ours, ref)
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in ref.parameters())
    x, t = torch.randn(3, 3, *size), torch.tensor([0.0, 17.0, 999.0])
    with torch.no_grad():
        torch.testing.assert_close(ours(x, t), ref(x, t).sample, atol=1e-5, rtol=1e-5)

        ours.double(), ref.double()
        ref.time_proj = ours.embedding.sinusoids
        torch.testing.assert_close(ours(x.double(), t.double()), ref(x.double(), t.double()).sample, atol=1e-12, rtol=0)


def test_same_gradients():
    options = CONFIGURATIONS["ddpm"]
    torch.manual_seed(0)
    ref, ours = theirs(options).double(), options.build(3).double()
    copy_weights(ours, ref)
    ref.time_proj = ours.embedding.sinusoids
    x, t = torch.randn(2, 3, 16, 16, dtype=torch.float64), torch.tensor([3.0, 500.0], dtype=torch.float64)
    ours(x, t).square().sum().backward()
    ref(x, t).sample.square().sum().backward()
    got = sum(p.grad.square().sum() for p in ours.parameters())
    want = sum(p.grad.square().sum() for p in ref.parameters())
    torch.testing.assert_close(got, want, rtol=1e-10, atol=0)
    torch.testing.assert_close(ours.stem.weight.grad, ref.conv_in.weight.grad, rtol=1e-9, atol=1e-12)
