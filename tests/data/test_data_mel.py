"""Mel spectrograms: scales, filters, tones in their bands, and what cannot be."""

import math
from dataclasses import replace

import pytest
import torch

from unnoise.errors import UsageProblem
from unnoise.mel import SPEECH, Mel, filters, from_mel, picture, to_mel

PLAIN = Mel(bands=20, window=512, hop=128, high=8000.0, rate=16_000)
HTK = replace(PLAIN, scale="decibel")


def test_the_scales_have_their_known_values():
    hertz = torch.tensor([0.0, 500.0, 1000.0, 6400.0], dtype=torch.float64)
    torch.testing.assert_close(to_mel(hertz, "log"), torch.tensor([0.0, 7.5, 15.0, 42.0], dtype=torch.float64))
    assert float(to_mel(hertz[2], "decibel")) == pytest.approx(999.9855, abs=1e-3)  # 1000 mel are 1000 Hz, nearly
    many = torch.linspace(0, 11_025, 500, dtype=torch.float64)
    for scale in ("log", "decibel"):
        torch.testing.assert_close(from_mel(to_mel(many, scale), scale), many)
        assert bool((to_mel(many, scale).diff() > 0).all())


def test_filters_are_triangles_of_area_one_or_of_height_one():
    fine = replace(PLAIN, window=8192, low=100.0)
    area = filters(fine).sum(1) * 16_000 / 8192
    torch.testing.assert_close(area, torch.ones(20), rtol=2e-3, atol=0)
    fine = replace(fine, scale="decibel")
    corners = from_mel(torch.linspace(*to_mel(torch.tensor([100.0, 8000.0]), "decibel").tolist(), 22), "decibel")
    f = torch.linspace(0, 8000, 4097)
    inner = (f >= corners[1]) & (f <= corners[-2])
    torch.testing.assert_close(filters(fine).sum(0)[inner], torch.ones(int(inner.sum())), rtol=0, atol=1e-4)
    assert float(filters(fine).max()) == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("mel", [PLAIN, HTK], ids=["log", "decibel"])
@pytest.mark.parametrize("bin_", [20, 64, 150])
def test_a_tone_is_heard_where_it_is(mel, bin_):
    """A tone of amplitude a on bin k has |STFT| = a sum(w) / 2 there, half of it on both sides, and nothing elsewhere."""
    n = torch.arange(4096, dtype=torch.float64)
    x = (0.3 * torch.cos(2 * math.pi * bin_ * n / 512)).float()
    heard = mel(x[None])
    assert heard.shape == (20, mel.frames(4096)) == (20, 33)
    w = torch.hann_window(512)
    w = w / w.norm() if mel.scale == "decibel" else w
    line = torch.zeros(257)
    line[bin_], line[bin_ - 1], line[bin_ + 1] = 1, 0.5, 0.5
    size = (filters(mel) @ line) * 0.3 * float(w.sum()) / 2
    expected = size.clamp(min=1e-5).log() if mel.scale == "log" else ((20 * size.clamp(min=1e-5).log10() + 80) / 100)
    loud = size > 1e-3 * size.max()
    torch.testing.assert_close(heard[loud, 16], expected[loud].clamp(max=1.0), rtol=0, atol=2e-3)


def test_silence_shapes_and_pictures():
    assert torch.equal(PLAIN(torch.zeros(2, 1, 1024)), torch.full((2, 20, 9), math.log(1e-5)))
    assert torch.equal(HTK(torch.zeros(1, 1024)), torch.zeros(20, 9))
    shown = picture(SPEECH(torch.zeros(2, 1, 4096)))
    assert shown.shape == (2, 1, 40, 65) and float(shown.max()) == -1
    n = torch.arange(4096)
    low = picture(SPEECH(0.5 * torch.sin(2 * math.pi * 300 / 8000 * n)[None, None]))
    assert float(low[0, 0, -15:].mean()) > float(low[0, 0, :15].mean())  # high bands above


def test_a_frame_is_centred_on_its_samples():
    x = torch.zeros(1, 4096)
    x[0, 1280] = 1
    assert int(PLAIN(x).mean(0).argmax()) == 10


def test_what_cannot_be_heard_is_told():
    with pytest.raises(UsageProblem, match="give `rate`"):
        Mel()(torch.zeros(1, 4096))
    with pytest.raises(UsageProblem, match="no shorter than the hop"):
        Mel(window=128)
    with pytest.raises(UsageProblem, match="lower `low`"):
        Mel(low=5000.0, rate=8000)
    with pytest.raises(UsageProblem, match="shorter than half a window"):
        PLAIN(torch.zeros(1, 100))
    with pytest.raises(UsageProblem, match="one channel"):
        PLAIN(torch.zeros(2, 4096))
