"""Sounds: the built-in words, folders of files of all lengths and rates, and what is wrong with a file."""

import wave

import numpy as np
import pytest
import torch

from unnoise.data import load, load_like
from unnoise.data.sound import compress, expand, read_sound
from unnoise.errors import Problem, UsageProblem
from unnoise.kinds import kind_of
from unnoise.metrics import classify, shipped


def write(path, x, rate=8000, channels=1):
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", ""))
        file.writeframes(np.round(np.asarray(x) * 32768).clip(-32768, 32767).astype("<i2").tobytes())


def tone(hertz, seconds, rate=8000, loud=0.5):
    return loud * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)


def test_the_mu_law_errs_in_proportion_to_loudness():
    """x = (256^y - 1) / 255 in steps of 1/127 in y: an error of variance (dx/dy)^2 / (12 127^2)."""
    assert expand(np.array([128])) == 0 and list(expand(np.array([1, 255]))) == [-32767, 32767]
    assert np.array_equal(compress(expand(np.arange(1, 256)) / 32767), np.arange(1, 256))
    for loud in (0.9, 0.1, 0.01):
        x = loud * np.random.default_rng(0).uniform(-1, 1, 20_000)
        error = expand(compress(x)) / 32767 - x
        expected = np.mean((np.log(256) * (np.abs(x) + 1 / 255) / 127) ** 2) / 12
        assert np.mean(error**2) == pytest.approx(expected, rel=0.05)


def test_the_words_are_those_of_their_facts():
    seen = set()
    for split, count in (("train", 480), ("held-out", 120)):
        data = load("spoken-digits", split)
        assert len(data) == count and data.shape == (1, 4096) and data.rate == 8000 and data.kind == "sound"
        assert torch.bincount(data.labels).tolist() == [count // 10] * 10
        assert all(name.endswith(data.classes[k]) for name, k in zip(data.names, data.labels.tolist(), strict=True))
        combinations = {name.split("/")[0] for name in data.names}
        assert {name.split("-")[0] for name in combinations} == {"awb", "kal16", "rms", "slt"}
        assert not combinations & seen
        seen |= combinations
        x = data.batch(range(count)).x
        assert x.dtype == torch.float32 and x.abs().max() <= 1
        loud = x.abs() > 0.003
        assert bool(loud[:, 0, :400].any(1).all())  # a word begins at once
        assert 0.03 < float(x.std()) < 0.15
    assert load("spoken-digits", size=1000).shape == (1, 1000)
    with pytest.raises(UsageProblem, match="number of samples"):
        load("spoken-digits", size=(3, 4))


def test_held_out_words_are_recognised():
    from unnoise.mel import SPEECH, picture

    data = load("spoken-digits", "held-out")
    x = data.batch(range(len(data))).x
    right = classify(picture(SPEECH(x)), "spoken-digits").argmax(1) == data.labels
    assert float(right.double().mean()) > 0.95
    for hiss in (0.003, 0.01, 0.02):  # as people hear a word through noise far below it
        noisy = x + hiss * torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        through = classify(picture(SPEECH(noisy)), "spoken-digits").argmax(1) == data.labels
        assert float(through.double().mean()) > 0.95
    assert shipped()["spoken-digits"]["accuracy"]["held_out"] == pytest.approx(float(right.double().mean()), abs=0.02)


def test_a_folder_is_cut_into_rows(tmp_path):
    for word, hertz in (("high", 440), ("low", 110)):
        for i in range(20):
            write(tmp_path / word / f"{i}.wav", tone(hertz, 0.1 + 0.01 * i))
    data, out = load(tmp_path, size=1000), load(tmp_path, "held-out", size=1000)
    assert data.classes == ("high", "low") and data.rate == 8000
    lengths = [800 + 80 * int(name.split("/")[1][:-4]) for name in [*data.names, *out.names]]
    assert all(n >= 800 for n in lengths)
    assert len(data) + len(out) == sum(1 if 800 + 80 * i <= 1000 else -(-(800 + 80 * i) // 1000) for i in range(20)) * 2
    assert len(data) == data.facts.train and len(out) == data.facts.held_out
    rows = [i for i, name in enumerate(data.names) if name == data.names[-1]]
    path = tmp_path / data.names[-1]
    whole, _ = read_sound(path)
    x = data.batch(rows).x[:, 0].numpy()
    assert np.allclose(x[0], whole[:1000]) and np.allclose(x[-1], whole[-1000:])  # every sample is in a row
    short = [i for i, name in enumerate(data.names) if name.endswith("/0.wav")]
    x = data.batch(short).x[0, 0]
    assert not x[800:].any() and x[:800].any()
    assert data.fingerprint != out.fingerprint == load(tmp_path, "held-out", size=1000).fingerprint
    assert load(tmp_path).shape == (1, 800 + 80 * 19)  # its longest file


def test_rates_and_channels_are_brought_together(tmp_path):
    for i in range(12):
        write(tmp_path / f"{i}.wav", tone(200, 0.5, 16_000), 16_000)
    stereo = np.stack([tone(200, 0.5), -tone(200, 0.5) / 2], 1)
    write(tmp_path / "stereo.wav", stereo, 8000, channels=2)
    (tmp_path / "3.txt").write_text("a  tone\n")
    data = load(tmp_path)
    assert data.rate == 8000 and data.shape == (1, 4000) and data.has_captions
    x = data.batch(range(len(data)))
    for row, name, caption in zip(x.x[:, 0].numpy(), data.names, x.caption, strict=True):
        size = 0.25 if name == "stereo.wav" else 1
        assert np.abs(row - size * tone(200, 0.5))[100:-100].max() < 0.01
        assert caption == ("a tone" if name == "3.wav" else "")
    assert read_sound(tmp_path / "0.wav", 8000)[0].shape == (4000,)


def test_sounds_are_brought_to_the_rate_asked_for(tmp_path):
    for i in range(12):
        write(tmp_path / f"{i}.wav", tone(200, 0.5, 16_000), 16_000)
    for rate in (8000, 16_000, 22_050):
        data = load(tmp_path, rate=rate)
        assert data.rate == rate and data.shape == (1, rate // 2)
        assert np.abs(data.batch([0]).x[0, 0].numpy() - tone(200, 0.5, rate))[200:-200].max() < 0.01
        assert load_like(tmp_path, data, "held-out").rate == rate
    assert load(tmp_path, rate=8000).fingerprint != load(tmp_path, rate=16_000).fingerprint
    plain, quick = load("spoken-digits", "held-out"), load("spoken-digits", "held-out", rate=16_000)
    assert quick.shape == (1, 8192) and quick.rate == 16_000 and quick.names == plain.names
    x, y = plain.batch([0, 1]).x[:, 0, :2000], quick.batch([0, 1]).x[:, 0, :4000:2]
    assert float((x - y).square().mean()) < 1e-3 * float(x.square().mean())
    for name, option in (("digits", "rate"), ("state-of-the-union", "rate"), ("spoken-digits", "channels")):
        with pytest.raises(UsageProblem, match=f"--{option} is for"):
            load(name, **{option: 1})
    with pytest.raises(UsageProblem, match="rate of sounds"):
        load(tmp_path, rate=0)


def test_a_sample_is_written_and_read_whole(tmp_path):
    data = load("spoken-digits", "held-out")
    kind, x = kind_of(data), data.batch([3]).x
    stored = kind.finish(x, data)
    path = kind.save(stored[0], tmp_path / "a.wav", data)
    found, rate = read_sound(path)
    assert rate == 8000 and np.array_equal(found, x[0, 0].numpy())
    assert torch.equal(kind.read(path, data), stored[0])
    for count in (1, 7):
        sheet = kind.sheet(kind.finish(data.batch(range(count)).x, data), tmp_path, data, name=f"sheet{count}")
        assert sheet.suffix == ".png" and sheet.stat().st_size > 10_000


def test_what_cannot_be_read_is_told(tmp_path):
    write(tmp_path / "a.wav", tone(200, 20))
    with pytest.raises(UsageProblem, match="--size"):
        load(tmp_path)
    with pytest.raises(Problem, match="too few to hold one out"):
        load(tmp_path, "held-out", size=1 << 18)
    (tmp_path / "b.wav").write_bytes(b"RIFF nothing of the kind")
    with pytest.raises(Problem, match=r"b\.wav is no sound"):
        load(tmp_path, size=100)
    with pytest.raises(Problem, match="there is no file"):
        read_sound(tmp_path / "c.wav")
    write(tmp_path / "b.wav", [])
    with pytest.raises(Problem, match="holds no sound"):
        load(tmp_path, size=100)
