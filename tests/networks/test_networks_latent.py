"""The parts of latent diffusion: parity with diffusers on the same weights, and what its parts promise."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from unnoise.denoisers import classifier_free
from unnoise.denoisers.guidance import drop
from unnoise.errors import UsageProblem
from unnoise.networks import UNetOptions
from unnoise.networks.attention import attend
from unnoise.networks.autoencoder import AutoencoderOptions
from unnoise.networks.captioned import Captioned, Reader, ReaderOptions
from unnoise.networks.cross_attention import CrossAttention, SpatialTransformer
from unnoise.networks.quantiser import VectorQuantiser, perplexity
from unnoise.objectives import Criticised, Reconstruction
from unnoise.processes import Gaussian
from unnoise.rng import Rng
from unnoise.samplers import DDIM, Integers, sample
from unnoise.schedules import FromBetas, sqrt_linear_betas
from unnoise.spaces import Latents

OPTIONS = AutoencoderOptions(channels=32, mult=(1, 2), blocks=1, latent=4, groups=8)


@pytest.fixture
def diffusers():
    return pytest.importorskip("diffusers")


def put(ours, theirs) -> None:
    """Copy a layer's weights, in whatever shape."""
    with torch.no_grad():
        ours.weight.copy_(theirs.weight.reshape(ours.weight.shape))
        if theirs.bias is not None:
            ours.bias.copy_(theirs.bias)


def put_block(stage, theirs, attention=None) -> None:
    ours = stage.layer
    for a, b in (("norm0", "norm1"), ("conv0", "conv1"), ("norm1", "norm2"), ("conv1", "conv2")):
        put(getattr(ours, a), getattr(theirs, b))
    if ours.skip is not None:
        put(ours.skip, theirs.conv_shortcut)
    if attention is not None:
        with torch.no_grad():
            for name in ("weight", "bias"):
                rows = [getattr(getattr(attention, f"to_{x}"), name) for x in "qkv"]
                getattr(stage.attention.qkv, name).copy_(
                    torch.cat(rows).reshape(getattr(stage.attention.qkv, name).shape)
                )
        put(stage.attention.norm, attention.group_norm)
        put(stage.attention.proj, attention.to_out[0])


def put_autoencoder(ours, theirs) -> None:
    down = iter(ours.down)
    put(next(down), theirs.encoder.conv_in)
    for i, block in enumerate(theirs.encoder.down_blocks):
        if i:
            put(next(down).conv, theirs.encoder.down_blocks[i - 1].downsamplers[0].conv)
        for resnet in block.resnets:
            put_block(next(down), resnet)
    middle = theirs.encoder.mid_block
    put_block(next(down), middle.resnets[0], middle.attentions[0])
    put_block(next(down), middle.resnets[1])
    for layer in (theirs.encoder.conv_norm_out, theirs.encoder.conv_out, theirs.quant_conv):
        put(next(down), layer)
    up = iter(ours.up)
    put(next(up), theirs.post_quant_conv)
    put(next(up), theirs.decoder.conv_in)
    middle = theirs.decoder.mid_block
    put_block(next(up), middle.resnets[0], middle.attentions[0])
    put_block(next(up), middle.resnets[1])
    for block in theirs.decoder.up_blocks:
        for resnet in block.resnets:
            put_block(next(up), resnet)
        if block.upsamplers:
            put(next(up).conv, block.upsamplers[0].conv)
    put(next(up), theirs.decoder.conv_norm_out)
    put(next(up), theirs.decoder.conv_out)
    assert next(down, None) is next(up, None) is None


def shape(kind: str) -> dict:
    return dict(
        in_channels=3, out_channels=3, block_out_channels=(32, 64), layers_per_block=1, latent_channels=4, norm_num_groups=8,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        **({"num_vq_embeddings": 32} if kind == "vq" else {}),
    )  # fmt: skip


@torch.no_grad()
def test_parity_of_the_kl_autoencoder(diffusers):
    theirs = diffusers.AutoencoderKL(**shape("kl")).double().eval()
    space = Latents(OPTIONS, 3).double()
    put_autoencoder(space.autoencoder, theirs)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    law, expected = space.law(x), theirs.encode(x).latent_dist
    torch.testing.assert_close(law.mean, expected.mean)
    torch.testing.assert_close(law.std, expected.std)
    torch.testing.assert_close(space.penalty(law, 1) / OPTIONS.weight, expected.kl())
    torch.testing.assert_close(space.decode(law.mean), theirs.decode(law.mean).sample)


@torch.no_grad()
def test_parity_of_the_vq_autoencoder(diffusers):
    theirs = diffusers.VQModel(**shape("vq")).double().eval()
    space = Latents(replace(OPTIONS, regularise="vq", codes=32), 3).double()
    put_autoencoder(space.autoencoder, theirs)
    space.quantiser.codes.copy_(theirs.quantize.embedding.weight)
    x = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    h = space.law(x).mean
    torch.testing.assert_close(h, theirs.encode(x).latents)
    code, _, (_, _, index) = theirs.quantize(h)
    torch.testing.assert_close(space.quantiser(h), code)
    assert torch.equal(space.quantiser.nearest(h).flatten(), index)
    torch.testing.assert_close(space.decode(h), theirs.decode(h).sample)


@pytest.mark.parametrize("legacy", [False, True])
def test_parity_of_the_quantisers_penalty_and_its_gradient(diffusers, legacy):
    from diffusers.models.autoencoders.vae import VectorQuantizer

    theirs, ours = VectorQuantizer(32, 4, 0.25, legacy=legacy), VectorQuantiser(32, 4, legacy=legacy)
    ours.codes.data = theirs.embedding.weight.data.clone()
    z = (0.05 * torch.randn(2, 4, 5, 5)).requires_grad_()
    _, expected, _ = theirs(z)
    found = ours.penalty(z).mean()
    torch.testing.assert_close(found, expected)
    pulls = torch.autograd.grad(found, [z, ours.codes])
    for a, b in zip(pulls, torch.autograd.grad(expected, [z, theirs.embedding.weight]), strict=True):
        torch.testing.assert_close(a, b)


@torch.no_grad()
@pytest.mark.parametrize("depth", [1, 2])
def test_parity_of_the_spatial_transformer(diffusers, depth):
    theirs = diffusers.Transformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=16, num_layers=depth, norm_num_groups=4, cross_attention_dim=6
    ).double()  # fmt: skip
    ours = SpatialTransformer(16, 2, depth, 6, groups=4).double()
    for a, b in (("norm", "norm"), ("proj", "proj_in"), ("out", "proj_out")):
        put(getattr(ours, a), getattr(theirs, b))
    for mine, block in zip(ours.layers, theirs.transformer_blocks, strict=True):
        for attention, other in ((mine.own, block.attn1), (mine.cross, block.attn2)):
            put(attention.q, other.to_q)
            attention.kv.weight.copy_(torch.cat([other.to_k.weight, other.to_v.weight]))
            put(attention.out, other.to_out[0])
        for a, b in ((mine.norm0, block.norm1), (mine.norm1, block.norm2), (mine.norm2, block.norm3)):
            put(a, b)
        put(mine.inner, block.ff.net[0].proj)
        put(mine.outer, block.ff.net[2])
    x, tokens = torch.randn(2, 16, 4, 3, dtype=torch.float64), torch.randn(2, 5, 6, dtype=torch.float64)
    expected = theirs(x, encoder_hidden_states=tokens).sample
    assert not torch.allclose(expected, x)
    torch.testing.assert_close(ours(x, (tokens, None)), expected)


@torch.no_grad()
def test_parity_of_the_schedule_and_the_sampler(diffusers):
    """But for the last step, where the published code stops at the noise of the first of the chain."""
    theirs = diffusers.DDIMScheduler(
        1000, 0.00085, 0.012, "scaled_linear", clip_sample=False, set_alpha_to_one=True, steps_offset=1
    )
    process = Gaussian(FromBetas(sqrt_linear_betas(1000)))
    steps = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(process.schedule.alpha(steps) ** 2, theirs.alphas_cumprod.double(), rtol=1e-4, atol=1e-6)
    theirs.set_timesteps(50)
    assert [round(1000 * t) - 1 for t in Integers(50, "shifted").times(process)] == theirs.timesteps.tolist()

    from unnoise.denoisers import NetworkDenoiser
    from unnoise.denoisers import preconditioning as pre

    class Eps(nn.Module):
        def forward(self, x, t, cond=None):
            return 0.3 * x * (1 + t[:, None, None, None] / 1000).to(x.dtype).cos()

    start = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    ours = sample(
        NetworkDenoiser(Eps(), process, pre.DDPM(process.schedule)), DDIM(), Integers(50, "shifted"), start.shape,
        start=start, dtype=torch.float64,
    )  # fmt: skip
    x = start
    for t in theirs.timesteps:
        x = theirs.step(Eps()(x, t.expand(2)), t, x, eta=0.0).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-4)
    with pytest.raises(UsageProblem, match="go beyond the 1000"):
        Integers(1000, "shifted").times(process)


def test_tokens_that_are_absent_change_nothing():
    attention = CrossAttention(8, 2, 5).double()
    x, tokens = torch.randn(2, 6, 8).double(), torch.randn(2, 4, 5).double()
    there = torch.tensor([[True, True, False, False], [True, False, True, True]])
    found = attention(x, tokens, there)
    torch.testing.assert_close(found[0], attention(x[:1], tokens[:1, :2])[0])
    tokens[~there] = 9.0
    torch.testing.assert_close(attention(x, tokens, there), found)
    q, k = torch.randn(2, 1100, 4), torch.randn(2, 4, 4)  # many pixels go another way
    torch.testing.assert_close(attend(q, k, k, there=there)[:, :7], attend(q[:, :7], k, k, there=there))


@pytest.mark.parametrize("features", [0, 6])
def test_padding_and_the_empty_caption(features):
    torch.manual_seed(0)
    kind = {"features": features} if features else {"rows": 9}
    unet = UNetOptions(channels=16, mult=(1,), blocks=1, attention=(1,), transformer=1, context=8).build(3)
    for parameter in unet.parameters():
        nn.init.normal_(parameter, std=0.1)
    network = Captioned(unet, Reader(ReaderOptions(8, 1, 2), 5, **kind)).double()
    x, t = torch.randn(2, 3, 4, 4).double(), torch.zeros(2).double()
    tokens = torch.randn(2, 2, features).double() if features else torch.tensor([[1, 2], [8, 0]])
    absent = torch.nan if features else -1
    padded = torch.cat([tokens, torch.full_like(tokens, absent)], 1)
    told = network(x, t, {"text": tokens})
    torch.testing.assert_close(network(x, t, {"text": padded}), told)
    nothing = network(x, t)
    assert not torch.allclose(told, nothing)
    mask = torch.tensor([True, False])
    dropped = network(x, t, drop({"text": padded}, mask))
    torch.testing.assert_close(dropped, torch.where(mask[:, None, None, None], nothing, told))
    with pytest.raises(UsageProblem, match="are not what this network reads"):
        network(x, t, {"text": torch.zeros(2, 6, dtype=torch.int64)})


def test_guidance_reaches_captions_of_either_kind():
    class Sum(nn.Module):
        def forward(self, x, t, cond):
            there = cond["text"].nan_to_num() if cond["text"].is_floating_point() else cond["text"].clamp(min=0)
            return x + there.flatten(1).sum(1)[:, None].to(x.dtype)

    from unnoise.denoisers import NetworkDenoiser
    from unnoise.denoisers import preconditioning as pre

    process = Gaussian(FromBetas(sqrt_linear_betas(1000)))
    denoiser = classifier_free(3.0)(NetworkDenoiser(Sum(), process, pre.Raw("x0")))
    x, t = torch.zeros(1, 2), torch.full((1,), 0.5)
    for tokens in (torch.tensor([[2, 3]]), torch.tensor([[[2.0], [3.0]]])):
        torch.testing.assert_close(denoiser(x, t, {"text": tokens}).mean, torch.full((1, 2), 15.0))


def test_options_that_do_not_fit_are_refused():
    with pytest.raises(UsageProblem, match="only spatial transformers attend"):
        UNetOptions(channels=16, mult=(1,), attention=(1,), context=8).build(3)
    plain = UNetOptions(channels=16, mult=(1,), blocks=1, attention=(1,)).build(3)
    with pytest.raises(UsageProblem, match="attends to no tokens"):
        plain(torch.zeros(1, 3, 4, 4), torch.zeros(1), {"context": torch.zeros(1, 2, 8)})
    with pytest.raises(UsageProblem, match="do not divide by 2"):
        Latents(OPTIONS, 3).shape((3, 7, 8))


def test_perplexity():
    assert perplexity(torch.tensor([3, 3]), 8) == pytest.approx(1)
    assert perplexity(torch.arange(8), 8) == pytest.approx(8)


def test_a_frozen_space_stays_as_it_is():
    space = Latents(replace(OPTIONS, dropout=0.5), 3).freeze().train()
    assert not space.training and not any(p.requires_grad for p in space.parameters())
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(space.law(x).mean, space.law(x).mean)


def test_the_scale_is_undone_before_decoding():
    torch.manual_seed(0)
    space, x = Latents(OPTIONS, 3), torch.randn(64, 3, 8, 8)
    rng = [Rng.from_seeds(range(64)) for _ in range(3)]
    with torch.no_grad():
        plain = space.decode(space.encode(x, rng[0]))
        space.measure(x, rng[1])
        z = space.encode(x, rng[2])
        torch.testing.assert_close(float(z.std()), 1.0, atol=0.05, rtol=0)
        torch.testing.assert_close(space.decode(z), plain, atol=1e-4, rtol=1e-4)
    vq = Latents(replace(OPTIONS, regularise="vq"), 3)
    vq.measure(x, rng[1])
    assert float(vq.scale) == 1


def test_the_reconstruction_is_laplaces_likelihood():
    """At the best scale, log of the mean error, the loss is 1 + that log, and its gradient in the scale vanishes."""
    torch.manual_seed(0)
    space, x = Latents(replace(OPTIONS, weight=0.0), 3), torch.randn(4, 3, 8, 8)
    objective = Reconstruction()
    rng = lambda: Rng.from_seeds(range(4))  # noqa: E731
    error = objective(space, x, None, rng()).terms["error"].mean().detach()
    objective.log_scale.data = error.log()
    loss = objective(space, x, None, rng()).per_example.mean()
    torch.testing.assert_close(loss, 1 + error.log())
    (pull,) = torch.autograd.grad(loss, objective.log_scale)
    assert abs(float(pull)) < 1e-5


def test_the_critic_is_silent_before_its_time_and_weighs_as_told():
    torch.manual_seed(0)
    space, x = Latents(OPTIONS, 3), torch.randn(4, 3, 24, 24)
    objective = Criticised(3, after=1, width=8)
    rng = lambda: Rng.from_seeds(range(4))  # noqa: E731
    plain = Reconstruction()(space, x, None, rng())
    first = objective(space, x, None, rng(), "autoencoder")
    torch.testing.assert_close(first.per_example, plain.per_example)
    assert objective(space, x, None, rng(), "critic").per_example.sum() == 0
    for _ in objective.turns:
        objective.observe(first)
    loss = objective(space, x, None, rng(), "autoencoder")
    weight = loss.terms["critic_weight"][0]
    torch.testing.assert_close(loss.per_example, plain.per_example + weight * loss.terms["critic"])
    last = space.autoencoder.last
    (whole,) = torch.autograd.grad(loss.per_example.mean(), last, retain_graph=True)
    (rest,) = torch.autograd.grad(Reconstruction()(space, x, None, rng()).per_example.mean(), last)
    torch.testing.assert_close((whole - rest).norm() / rest.norm(), torch.tensor(0.5), atol=0.02, rtol=0)
    hinge = objective(space, x, None, rng(), "critic").per_example
    assert (hinge > 0).all() and not {id(p) for p in objective.parameters_of(space, "critic")} & {
        id(p) for p in objective.parameters_of(space, "autoencoder")
    }
    (hinge.mean()).backward()
    assert all(p.grad is None for p in space.parameters()) and objective.critic.head.weight.grad is not None
