"""The WaveNet against its formulas written out sample by sample, its reach, its conditions, and its published weights' names."""

import math
from dataclasses import replace

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.networks import WaveNetOptions
from unnoise.networks.wavenet import BASE, Growing, Upsampler

SMALL = WaveNetOptions(channels=3, layers=3, cycle=2, upsample=(2, 4))


def built(options=SMALL, classes=4, bands=5, seed=0):
    torch.manual_seed(seed)
    network = options.build(1, 2, classes, bands).double()
    torch.nn.init.normal_(network.head.weight)
    return network


def given(batch=2, samples=24):
    g = torch.Generator().manual_seed(3)
    x = torch.randn(batch, 1, samples, generator=g, dtype=torch.float64)
    mel = torch.randn(batch, 5, samples // 8 + 1, generator=g, dtype=torch.float64)
    return x, torch.tensor([0.0, 7.25], dtype=torch.float64), {"label": torch.tensor([2, -1]), "mel": mel}


def by_hand(conv, x):
    """A convolution along time as a sum over taps, outside of the sound silence; weights of unit norm times their size."""
    norm = conv.weight.flatten(1).square().sum(1).sqrt()[:, None, None]
    kernel = conv.weight if conv.size is None else conv.weight / norm * conv.size[:, None, None]
    out = conv.bias[None, :, None].expand(len(x), -1, x.shape[2]).clone()
    for tap in range(kernel.shape[2]):
        shift = (tap - kernel.shape[2] // 2) * conv.dilation
        for n in range(x.shape[2]):
            if 0 <= n + shift < x.shape[2]:
                out[:, :, n] += x[:, :, n + shift] @ kernel[:, :, tap].T
    return out


@torch.no_grad()
@pytest.mark.parametrize("carry", ["with-time", "input"])
def test_it_is_its_formulas(carry):
    network = built(replace(SMALL, carry=carry))
    x, t, cond = given()
    f = 10_000 ** (-torch.arange(64, dtype=torch.float64) / 63)
    time = torch.cat([(t[:, None] * f).sin(), (t[:, None] * f).cos()], 1)
    for layer in (network.inner, network.outer):
        time = time @ layer.weight.T + layer.bias
        time = time / (1 + (-time).exp())
    rows = network.labels.rows.weight
    label = torch.stack([rows[2], rows[4]])[:, :, None]
    mel = network.upsampler(cond["mel"])[:, :, : x.shape[2]]
    h, total = by_hand(network.stem, x).clamp(min=0), 0
    for i, layer in enumerate(network.layers):
        assert layer.dilated.dilation == (1, 2, 1)[i]
        seen = h + (time @ layer.time.weight.T + layer.time.bias)[:, :, None]
        z = by_hand(layer.dilated, seen) + by_hand(layer.mel, mel) + by_hand(layer.label, label)
        g = torch.tanh(z[:, :3]) / (1 + torch.exp(-z[:, 3:]))
        total = total + by_hand(layer.skip, g)
        h = ((seen if carry == "with-time" else h) + by_hand(layer.residual, g)) / math.sqrt(2)
    expected = by_hand(network.head, by_hand(network.last, total / math.sqrt(3)).clamp(min=0))
    torch.testing.assert_close(network(x, t, cond), expected, rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_a_spectrogram_is_stretched_frame_by_frame():
    up, mel = Upsampler(WaveNetOptions(upsample=(4,), stretch="published")).double(), given()[2]["mel"]
    kernel = up.weights[0][0, 0] / up.weights[0].square().sum().sqrt() * up.sizes[0]
    frames = mel.shape[2]
    expected = torch.full((2, 5, 4 * frames), float(up.biases[0]), dtype=torch.float64)
    for band in range(5):
        for k in range(frames):
            for db in range(3):
                for dn in range(8):
                    b, n = band + db - 1, 4 * k + dn - 2
                    if 0 <= b < 5 and 0 <= n < 4 * frames:
                        expected[:, b, n] += mel[:, band, k] * kernel[db, dn]
    expected = torch.where(expected > 0, expected, 0.4 * expected)
    torch.testing.assert_close(up(mel), expected, rtol=1e-12, atol=1e-12)
    assert up(mel, 13).shape == (2, 5, 13)
    assert Upsampler(BASE)(torch.zeros(1, 80, 3)).shape == (1, 80, 3 * 256)


@torch.no_grad()
def test_a_spectrogram_begins_as_straight_lines_between_its_frames():
    up = Upsampler(WaveNetOptions(upsample=(4, 8))).double()
    ramp = torch.arange(6, dtype=torch.float64).expand(1, 3, 6)
    inner = up(ramp)[0, 1, 48:-48]
    torch.testing.assert_close(inner.diff(), torch.full_like(inner[1:], 1 / 32))
    assert float(inner[0]) == pytest.approx((48 + 0.5) / 32 - 0.5)  # frame k in the middle of its 32 samples


def test_its_reach_is_what_it_says():
    options = replace(SMALL, layers=6, cycle=3)
    assert options.receptive_field == 2 * 2 * (1 + 2 + 4) + 1
    network = built(options)
    for bias in (network.stem.bias, network.last.bias):
        torch.nn.init.constant_(bias, 9.0)
    x = torch.linspace(-1, 1, 64, dtype=torch.float64).reshape(1, 1, -1).requires_grad_()
    network(x, torch.ones(1, dtype=torch.float64))[0, 0, 32].backward()
    heard = x.grad[0, 0].nonzero()
    assert (int(heard.min()), int(heard.max())) == (32 - 14, 32 + 14)
    assert len(heard) == options.receptive_field


@torch.no_grad()
def test_folded_it_is_a_network_of_places():
    """Sample n lies at place n // fold, and is channel n % fold of it."""
    folded = built(replace(SMALL, fold=4, upsample=(2,)))
    torch.manual_seed(0)
    places = replace(SMALL, upsample=(2,)).build(4, 8, 4, 5).double()
    places.load_state_dict(folded.state_dict())
    x, t, cond = given(samples=24)
    laid = torch.stack([x[:, 0, k::4] for k in range(4)], 1)
    expected = torch.empty(2, 2, 24, dtype=torch.float64)
    out = places(laid, t, cond)
    for channel in range(2):
        for k in range(4):
            expected[:, channel, k::4] = out[:, 4 * channel + k]
    torch.testing.assert_close(folded(x, t, cond), expected)
    assert folded.options.hop == 8 and folded.options.receptive_field == 4 * SMALL.receptive_field
    short = torch.cat([x[:, :, :21], torch.zeros(2, 1, 3, dtype=torch.float64)], 2)
    torch.testing.assert_close(folded(x[:, :, :21], t, cond), folded(short, t, cond)[:, :, :21])


@torch.no_grad()
def test_no_label_is_one_label_and_no_spectrogram_adds_nothing():
    network = built()
    x, t, cond = given()
    none = network(x, t, {"label": torch.tensor([-1, -1])})
    torch.testing.assert_close(network(x, t), none)
    assert not torch.allclose(network(x, t, {"label": torch.tensor([0, 1])}), none)
    assert not torch.allclose(network(x, t, {"mel": cond["mel"]}), none)


@torch.no_grad()
def test_kernels_have_a_size_and_a_direction():
    network, other = built(), built(replace(SMALL, weight_norm=False))
    x, t, cond = given()
    before = network(x, t, cond)
    other.load_state_dict({k: v for k, v in network.state_dict().items() if "size" not in k})
    torch.testing.assert_close(other(x, t, cond), before)  # at first the size is the kernel's own
    for name, p in network.named_parameters():
        if name.endswith("weight") and "head" not in name and ("layers" in name and "time" not in name):
            p.mul_(3)
    torch.testing.assert_close(network(x, t, cond), before)


def test_an_untrained_network_says_zero():
    network = SMALL.build(1, 1, None, 5)
    x, t, cond = given()
    assert not network(x.float(), t.float(), {"mel": cond["mel"].float()}).any()


def test_growing_frequencies_are_a_table_with_straight_lines():
    waves = Growing(128).double()
    t = torch.tensor([0.0, 3.0, 4.0, 3.25], dtype=torch.float64)
    rows = waves(t)
    torch.testing.assert_close(rows[1, 63], torch.tensor(math.sin(3e4), dtype=torch.float64))
    torch.testing.assert_close(rows[1, 64], torch.tensor(math.cos(3.0), dtype=torch.float64))
    torch.testing.assert_close(rows[3], 0.75 * rows[1] + 0.25 * rows[2])


@pytest.mark.parametrize("upsamplers", ["one", "each"])
def test_low_precision_and_gradients(upsamplers):
    network = replace(SMALL, upsamplers=upsamplers).build(1, 1, 4, 5)
    torch.nn.init.normal_(network.head.weight)
    x, t, cond = given()
    cond = {"label": cond["label"], "mel": cond["mel"].float()}
    with torch.autocast("cpu", torch.bfloat16):
        out = network(x.float(), t.float(), cond)
    torch.testing.assert_close(out.float(), network(x.float(), t.float(), cond), rtol=0.1, atol=0.1)
    out.float().square().sum().backward()
    idle = {name for name, p in network.named_parameters() if p.grad is None}
    assert idle == {
        f"layers.2.residual.{leaf}" for leaf in ("weight", "bias", "size")
    }  # nobody hears the last one go on


def test_what_cannot_be_is_told():
    x, t, cond = given()
    network = built(classes=None, bands=None)
    with pytest.raises(UsageProblem, match="takes no labels"):
        network(x, t, {"label": cond["label"]})
    with pytest.raises(UsageProblem, match="no mel bands"):
        network(x, t, {"mel": cond["mel"]})
    with pytest.raises(UsageProblem, match="too short"):
        built()(x, t, {"mel": cond["mel"][:, :, :2]})
    with pytest.raises(UsageProblem, match="even factors"):
        WaveNetOptions(upsample=(3, 8))
    with pytest.raises(UsageProblem, match="1 or more"):
        WaveNetOptions(layers=0)
