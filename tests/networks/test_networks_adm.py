"""ADM: its published sizes, and weights of guided-diffusion's names and shapes in our network.

The network on the other side is written here, from torch's own pieces and a table of weights by name, by the description
in the paper and the names of a checkpoint: it shares nothing with ours.
"""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F

from unnoise.errors import Problem, UsageProblem
from unnoise.networks import UNetOptions, published
from unnoise.networks.guided_diffusion import load_guided_diffusion
from unnoise.papers.adm import ADM, adopt
from unnoise.recipe import Spec

OPTIONS = UNetOptions(
    channels=128,
    mult=(1, 1.5, 2),
    blocks=2,
    attention=(2, 4),
    channels_per_head=32,
    stem_mult=1,
)


class Theirs:
    """A U-Net, or its way down with an attention pool, as functions of a table of weights that it fills on first use."""

    def __init__(self, o: UNetOptions, order: str, classes: int | None = None, labels: int | None = None, seed=0):
        self.o, self.order, self.classes, self.labels = o, order, classes, labels
        self.w: dict[str, torch.Tensor] = {}
        self.random = torch.Generator().manual_seed(seed)

    def __call__(self, name: str, *shape: int) -> torch.Tensor:
        if name not in self.w:
            fan = math.prod(shape[1:]) or 1
            base = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
            self.w[name] = base + torch.randn(shape, generator=self.random, dtype=torch.float64) / math.sqrt(fan) * (
                0.1 if len(shape) == 1 else 1
            )
        return self.w[name]

    def linear(self, name, x, out):
        return x @ self(f"{name}.weight", out, x.shape[1]).T + self(f"{name}.bias", out)

    def conv(self, name, x, out, size=3, stride=1):
        w = self(f"{name}.weight", out, x.shape[1], size, size)
        return F.conv2d(x, w, self(f"{name}.bias", out), stride=stride, padding=size // 2)

    def norm(self, name, x):
        c = x.shape[1]
        groups = x.unflatten(1, (32, c // 32)).flatten(2)
        mean, variance = groups.mean(2, keepdim=True), groups.var(2, keepdim=True, correction=0)
        y = ((groups - mean) / (variance + 1e-5).sqrt()).reshape(x.shape)
        shape = (1, c, *[1] * (x.ndim - 2))
        return y * self(f"{name}.weight", c).view(shape) + self(f"{name}.bias", c).view(shape)

    def block(self, name, x, emb, out, resize=None):
        h = F.silu(self.norm(f"{name}.in_layers.0", x))
        if resize == "down":
            h, x = (F.avg_pool2d(v, 2) for v in (h, x))
        if resize == "up":
            h, x = (v.repeat_interleave(2, 2).repeat_interleave(2, 3) for v in (h, x))
        h = self.conv(f"{name}.in_layers.2", h, out)
        if self.o.conditioning == "scale-shift":
            told = self.linear(f"{name}.emb_layers.1", F.silu(emb), 2 * out)[:, :, None, None]
            h = self.norm(f"{name}.out_layers.0", h) * (1 + told[:, :out]) + told[:, out:]
        else:
            h = h + self.linear(f"{name}.emb_layers.1", F.silu(emb), out)[:, :, None, None]
            h = self.norm(f"{name}.out_layers.0", h)
        h = self.conv(f"{name}.out_layers.3", F.silu(h), out)
        return h + (x if x.shape[1] == out else self.conv(f"{name}.skip_connection", x, out, size=1))

    def attend(self, qkv, heads, order):
        b, c, n = qkv.shape
        d = c // 3 // heads
        if order == "legacy":
            q, k, v = qkv.view(b, heads, 3, d, n).unbind(2)
        else:
            q, k, v = qkv.view(b, 3, heads, d, n).unbind(1)
        weight = torch.einsum("bhdt,bhds->bhts", q, k).div(math.sqrt(d)).softmax(-1)
        return torch.einsum("bhts,bhds->bhdt", weight, v).reshape(b, c // 3, n)

    def attention(self, name, x):
        c = x.shape[1]
        flat = x.flatten(2)
        qkv = F.conv1d(
            self.norm(f"{name}.norm", flat), self(f"{name}.qkv.weight", 3 * c, c, 1), self(f"{name}.qkv.bias", 3 * c)
        )
        a = self.attend(qkv, c // self.o.channels_per_head, self.order)
        out = F.conv1d(a, self(f"{name}.proj_out.weight", c, c, 1), self(f"{name}.proj_out.bias", c))
        return (flat + out).reshape(x.shape)

    def resampled(self, name, x, emb, way):
        if self.o.resample == "residual":
            return self.block(name, x, emb, x.shape[1], way)
        if way == "down":
            return self.conv(f"{name}.op", x, x.shape[1], stride=2)
        return self.conv(f"{name}.conv", x.repeat_interleave(2, 2).repeat_interleave(2, 3), x.shape[1])

    def forward(self, x, t, label=None):
        o, mc = self.o, self.o.channels
        frequencies = torch.exp(-math.log(10000) * torch.arange(mc // 2, dtype=torch.float64) / (mc // 2))
        angle = t.double()[:, None] * frequencies
        emb = torch.cat([angle.cos(), angle.sin()], 1)
        emb = self.linear("time_embed.2", F.silu(self.linear("time_embed.0", emb, 4 * mc)), 4 * mc)
        if self.labels:
            emb = emb + self("label_emb.weight", self.labels, 4 * mc)[label]

        h = self.conv("input_blocks.0.0", x, int(o.mult[0] * mc))
        kept, place, factor = [h], 1, 1
        for level, mult in enumerate(o.mult):
            for _ in range(o.blocks):
                h = self.block(f"input_blocks.{place}.0", h, emb, int(mult * mc))
                if factor in o.attention:
                    h = self.attention(f"input_blocks.{place}.1", h)
                kept.append(h)
                place += 1
            if level < len(o.mult) - 1:
                h = self.resampled(f"input_blocks.{place}.0", h, emb, "down")
                kept.append(h)
                place, factor = place + 1, factor * 2
        h = self.block("middle_block.0", h, emb, h.shape[1])
        h = self.attention("middle_block.1", h)
        h = self.block("middle_block.2", h, emb, h.shape[1])
        if self.classes:
            return self.pooled(F.silu(self.norm("out.0", h)))

        place = 0
        for level, mult in reversed(list(enumerate(o.mult))):
            for i in range(o.blocks + 1):
                h = self.block(f"output_blocks.{place}.0", torch.cat([h, kept.pop()], 1), emb, int(mult * mc))
                inner = 1
                if factor in o.attention:
                    h, inner = self.attention(f"output_blocks.{place}.1", h), 2
                if level and i == o.blocks:
                    h, factor = self.resampled(f"output_blocks.{place}.{inner}", h, emb, "up"), factor // 2
                place += 1
        return self.conv("out.2", F.silu(self.norm("out.0", h)), 6)

    def pooled(self, h):
        c, h = h.shape[1], h.flatten(2)
        h = torch.cat([h.mean(2, keepdim=True), h], 2)
        h = h + self("out.2.positional_embedding", c, h.shape[2])
        qkv = F.conv1d(h, self("out.2.qkv_proj.weight", 3 * c, c, 1), self("out.2.qkv_proj.bias", 3 * c))
        a = self.attend(qkv, c // self.o.channels_per_head, "new")
        out = F.conv1d(a, self("out.2.c_proj.weight", self.classes, c, 1), self("out.2.c_proj.bias", self.classes))
        return out[:, :, 0]


def images(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


X, T, LABEL = images(2, 3, 16, 16), torch.tensor([3.0, 876.0]), torch.tensor([2, 0])


@pytest.mark.parametrize("order", ["legacy", "new"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"resample": "conv", "conditioning": "add", "attention": (4,)},
        {"mult": (0.5, 1), "stem_mult": 0.5, "attention": ()},
    ],
    ids=["adm", "ablated", "as at 512"],
)
@torch.no_grad()
def test_the_u_net_gives_what_theirs_gives(changes, order):
    options = dataclasses.replace(OPTIONS, **changes)
    if 0.5 in options.mult:
        options = dataclasses.replace(options, channels=256)  # theirs has 32 groups at any width, ours at 128 or more
    theirs = Theirs(options, order, labels=4)
    want = theirs.forward(X, T, LABEL)
    network = options.build(3, 6, num_classes=4).eval()
    tensors = {name: w.float() for name, w in theirs.w.items()}
    network.load_state_dict(load_guided_diffusion(network, tensors, order))
    torch.testing.assert_close(network(X.float(), T, {"label": LABEL}), want.float(), atol=1e-5, rtol=1e-5)
    assert want.abs().mean() > 0.1

    rows = network.embedding.labels.rows.weight
    assert torch.equal(rows[:4], tensors["label_emb.weight"]) and float(rows[4].abs().max()) == 0
    if options.attention and order == "legacy":  # and the order matters
        network.load_state_dict(load_guided_diffusion(network, tensors, "new"))
        assert float((network(X.float(), T, {"label": LABEL}) - want.float()).abs().max()) > 1e-2


@torch.no_grad()
def test_the_classifier_gives_what_theirs_gives():
    theirs = Theirs(OPTIONS, "legacy", classes=7)
    want = theirs.forward(X, T)
    network = OPTIONS.build_encoder(3, 7, (16, 16)).eval()
    network.load_state_dict(load_guided_diffusion(network, {k: v.float() for k, v in theirs.w.items()}))
    torch.testing.assert_close(network(X.float(), T), want.float(), atol=1e-5, rtol=1e-5)
    assert want.shape == (2, 7) and want.abs().mean() > 0.1
    with pytest.raises(UsageProblem, match="16 x 16, not 16 x 8"):
        network(X.float()[..., :8], T)


def test_weights_of_another_network_are_refused_by_name():
    theirs = Theirs(OPTIONS, "legacy", labels=4)
    theirs.forward(X, T, LABEL)
    network = OPTIONS.build(3, 6, num_classes=4)
    for change, says in (
        (lambda w: w.pop("middle_block.1.qkv.weight"), "have no middle_block.1.qkv.weight"),
        (lambda w: w.update(extra=torch.zeros(1)), "also have extra"),
        (lambda w: w.update({"out.2.weight": w["out.2.weight"][:3]}), "out.2.weight is"),
    ):
        weights = dict(theirs.w)
        change(weights)
        with pytest.raises(Problem, match=says):
            load_guided_diffusion(network, weights)
    with pytest.raises(Problem, match="also have label_emb"):
        load_guided_diffusion(OPTIONS.build(3, 6), theirs.w)


# Parameters of the authors' networks and classifiers at these settings, counted in their code: 296, 422, 554 and 559 million.
SIZES = {
    64: (295_904_454, 65_438_568),
    128: (421_529_606, 42_568_040),
    256: (553_838_086, 54_096_360),
    512: (558_997_638, 54_448_360),
}


@pytest.mark.parametrize("size", SIZES)
def test_published_sizes(size):
    with torch.device("meta"):
        network = published.ADM[size].build(3, 6, 1000)
        classifier = published.ADM_CLASSIFIER[size].build_encoder(3, 1000, (size, size))
    null = network.embedding.labels.rows.embedding_dim  # we have a row for "no label"
    counts = (sum(p.numel() for p in network.parameters()) - null, sum(p.numel() for p in classifier.parameters()))
    assert counts == SIZES[size]


@pytest.mark.parametrize("preset", ADM.presets[1:])
def test_published_presets_build_and_run(preset):
    recipe = ADM.preset(preset)
    size = int(next((part for part in preset.split("-") if part.isdigit()), "64"))
    assert recipe.network is published.ADM[size] and recipe.conditional == ("unconditional" not in preset)
    with torch.device("meta"):
        denoiser = recipe.denoiser(Spec((3, size, size), tuple(map(str, range(1000)))))
        x, t = torch.zeros(1, 3, size, size), torch.full((1,), 0.5, dtype=torch.float64)
        assert denoiser.log_probs(x, t).shape == (1, 1000)
        assert denoiser(x, t, {"label": torch.zeros(1, dtype=torch.int64)}).fraction.shape == x.shape


def test_the_authors_weights_become_a_run(tmp_path, monkeypatch):
    """Both networks at 64x64, made small: the run is loaded and sampled as any other."""
    from safetensors.torch import save_file

    from unnoise.model import Model
    from unnoise.samplers import Integers

    small = dataclasses.replace(OPTIONS, mult=(1, 1), blocks=1, attention=(2,))
    recipe = ADM(network=small, classifier_network=small, conditional=True, timesteps=100)
    monkeypatch.setattr(ADM, "paper", classmethod(lambda cls: recipe))
    x, t = images(1, 3, 64, 64), torch.zeros(1)
    network, classifier = Theirs(small, "new", labels=4), Theirs(small, "legacy", classes=4, seed=1)
    network.forward(x[..., :8, :8], t, torch.zeros(1, dtype=torch.int64))
    classifier("out.2.positional_embedding", 128, 32 * 32 + 1)
    classifier.classes = 4
    with torch.no_grad():
        classifier.forward(x, t)
    for name, theirs in (("diffusion", network), ("classifier", classifier)):
        save_file({k: v.float().contiguous() for k, v in theirs.w.items()}, tmp_path / f"{name}.safetensors")
    run = adopt(
        tmp_path / "run",
        "paper",
        tmp_path / "diffusion.safetensors",
        tmp_path / "classifier.safetensors",
        tuple("abcd"),
    )
    model = Model.load(run)
    assert torch.equal(model.denoiser.network.stem.weight.cpu(), network.w["input_blocks.0.0.weight"].float())
    assert torch.equal(model.denoiser.classifier.pool.positions, classifier.w["out.2.positional_embedding"].float())
    assert (
        model.recipe.classifier
        and model.sample([0], dataclasses.replace(model.recipe.sampling(), grid=Integers(1))).isfinite().all()
    )
    with pytest.raises(UsageProblem, match="unknown preset 'laptop'"):
        adopt(tmp_path / "other", "laptop", tmp_path / "diffusion.safetensors")
    with pytest.raises(Problem, match="have no"):
        adopt(tmp_path / "other", "paper", tmp_path / "classifier.safetensors", None, tuple("abcd"))
    assert not (tmp_path / "other").exists()
