"""Folders of images, well and badly made."""

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.data import load
from unnoise.data.encoded import MAX_PIXELS
from unnoise.errors import Problem, UsageProblem


def picture(path, height=6, width=9, mode="RGB", seed=None):
    seed = abs(hash(str(path))) % 2**32 if seed is None else seed
    depth = {"RGB": (3,), "RGBA": (4,), "LA": (2,), "L": ()}[mode]
    array = np.random.default_rng(seed).integers(0, 256, (height, width, *depth), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array, mode).save(path) if mode == "LA" else Image.fromarray(array).save(path)
    return array


@pytest.fixture
def animals(tmp_path):
    """40 non-square colour images of cats and dogs, half of them with a caption."""
    arrays = {}
    for i in range(40):
        kind = ("cat", "dog")[i % 2]
        name = f"{kind}/{i:02}.png"
        arrays[name] = picture(tmp_path / name, seed=i)
        if i % 4 < 2:
            (tmp_path / name).with_suffix(".txt").write_text(f"a {kind},\n  number {i} \n", encoding="utf-8")
    return tmp_path, arrays


def test_pixels_labels_captions_and_splits(animals):
    root, arrays = animals
    train, held = load(root), load(str(root), "held-out")
    assert len(train) + len(held) == 40 and 0 < len(held) < 15
    assert sorted(train.names + held.names) == sorted(arrays) and train.names == sorted(train.names)
    assert (train.facts.train, train.facts.held_out) == (len(train), len(held))
    for data in (train, held):
        assert data.shape == (3, 6, 9) and data.classes == ("cat", "dog") and data.has_captions
        batch = data.batch(range(len(data)))
        for i, name in enumerate(data.names):
            assert np.array_equal(data.images()[i].permute(1, 2, 0).numpy(), arrays[name])
            assert torch.equal(data.to_levels(batch.x[i]), data.images()[i].long())
            kind, number = name[:3], int(name[4:6])
            assert data.classes[batch.label[i]] == kind
            assert batch.caption[i] == (f"a {kind}, number {number}" if number % 4 < 2 else "")


def test_a_row_keeps_its_split_when_others_come(animals):
    root, _ = animals
    before = set(load(root, "held-out").names)
    for i in range(40, 60):
        picture(root / "cat" / f"{i}.png")
    assert before <= set(load(root, "held-out").names) and not before & set(load(root).names)


def test_images_are_decoded_once_and_only_when_asked_for(animals):
    root, arrays = animals
    data = load(root)
    (root / data.names[1]).unlink()
    data.batch([0])
    (root / data.names[0]).unlink()
    assert np.array_equal(data.images(1)[0].permute(1, 2, 0).numpy(), arrays[data.names[0]])
    with pytest.raises(Problem, match=f"{data.names[1]} cannot be read"):
        data.batch([1])


def test_without_a_cache_the_files_are_read_again(animals, monkeypatch):
    from unnoise.data import pixels

    monkeypatch.setattr(pixels.Lazy.__init__, "__defaults__", (0, torch.uint8))
    root, _ = animals
    data = load(root)
    first = data.batch([3, 1, 3])
    assert torch.equal(first.x, load(root).batch([3, 1, 3]).x)
    (root / data.names[3]).unlink()
    with pytest.raises(Problem):
        data.batch([3])


def test_size_covers_and_cuts_the_centre(tmp_path):
    """A picture that is black left, white in its middle square and black right, at three sizes."""
    for i, n in enumerate((8, 16, 40)):
        array = np.zeros((n, 3 * n), np.uint8)
        array[:, n : 2 * n] = 255
        Image.fromarray(array).save(tmp_path / f"{i}.png")
    with pytest.raises(UsageProblem, match=r"3 different sizes, from 24 x 8 to 120 x 40 pixels.*--size"):
        load(tmp_path)
    data = load(tmp_path, size=8)
    assert data.shape == (1, 8, 8) and (data.images()[..., 1:-1] > 240).all()
    wide = load(tmp_path, size=(8, 24)).images()
    assert wide.shape[1:] == (1, 8, 24) and (wide[..., 9:15] > 240).all() and (wide[..., :6] < 15).all()
    assert load(tmp_path, size=80).shape == (1, 80, 80)


def test_mixed_grey_and_colour_become_colour_unless_told(tmp_path):
    grey, colour = picture(tmp_path / "a.png", mode="L"), picture(tmp_path / "b.png")
    for i in range(5):
        picture(tmp_path / f"c{i}.png", mode="L")
    data = {s: load(tmp_path, s) for s in ("train", "held-out")}
    found = {n: d.images()[i] for d in data.values() for i, n in enumerate(d.names)}
    assert data["train"].shape == (3, 6, 9) == data["held-out"].shape
    assert all(np.array_equal(found["a.png"][c].numpy(), grey) for c in range(3))
    assert np.array_equal(found["b.png"].permute(1, 2, 0).numpy(), colour)
    assert load(tmp_path, channels=1).shape == (1, 6, 9)


def test_grey_stays_grey(tmp_path):
    for i in range(3):
        picture(tmp_path / f"{i}.jpg", mode="L")
    assert load(tmp_path).shape == (1, 6, 9)


def test_every_kind_of_pixel(tmp_path):
    """16 bits, a palette, transparency, black and white, and a camera held sideways."""
    ramp = np.linspace(0, 65535, 54).reshape(6, 9).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    Image.new("RGBA", (9, 6), (200, 0, 0, 0)).save(tmp_path / "clear.png")
    Image.new("LA", (9, 6), (100, 255)).save(tmp_path / "opaque.png")
    Image.new("1", (9, 6), 1).save(tmp_path / "white.png")
    Image.new("P", (9, 6), 0).save(tmp_path / "palette.gif")
    Image.new("CMYK", (9, 6), (0, 0, 0, 0)).save(tmp_path / "print.jpg")
    sideways = Image.new("RGB", (6, 9))
    sideways.paste((255, 255, 255), (0, 0, 3, 9))
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by a quarter clockwise
    sideways.save(tmp_path / "sideways.png", exif=turned)
    data = [load(tmp_path, s, channels=3) for s in ("train", "held-out")]
    x = {n: d.images()[i] for d in data for i, n in enumerate(d.names)}
    assert data[0].shape == (3, 6, 9)
    assert np.array_equal(x["deep.png"][0].numpy(), np.rint(ramp / 257))
    assert (x["clear.png"] == 255).all() and (x["opaque.png"] == 100).all() and (x["white.png"] == 255).all()
    assert (x["palette.gif"] == 0).all() and (x["print.jpg"] == 255).all()
    assert (x["sideways.png"][:, :3] == 255).all() and (x["sideways.png"][:, 3:] == 0).all()


def test_train_and_test_folders_are_splits(tmp_path):
    for part, count in (("train", 4), ("test", 2)):
        for kind in ("a", "b"):
            for i in range(count):
                picture(tmp_path / part / kind / f"{i}.png")
    train, held = load(tmp_path), load(tmp_path, "held-out")
    assert len(train) == 8 and len(held) == 4 and train.classes == held.classes == ("a", "b")
    assert all(n.startswith("test/") for n in held.names) and "test" in held.rule


def test_one_folder_is_no_class_and_strays_have_none(tmp_path):
    for i in range(4):
        picture(tmp_path / "only" / f"{i}.png")
    assert load(tmp_path).classes is None and load(tmp_path).batch([0]).cond is None
    for i in range(4):
        picture(tmp_path / "other" / "deep" / f"{i}.png")
        picture(tmp_path / f"stray{i}.png")
    data = load(tmp_path)
    assert data.classes == ("only", "other")
    assert {int(k) for k, n in zip(data.labels, data.names, strict=True) if n.startswith("stray")} == {-1}


def test_hidden_and_other_files_are_skipped_and_links_followed(tmp_path):
    for i in range(4):
        picture(tmp_path / "real" / f"{i}.png")
        picture(tmp_path / "set" / f"x{i}.PNG")
    picture(tmp_path / "set" / ".hidden.png")
    picture(tmp_path / "set" / ".trash" / "a.png")
    (tmp_path / "set" / "notes.md").write_text("not an image")
    os.symlink(tmp_path / "real", tmp_path / "set" / "link")
    os.symlink(tmp_path / "set", tmp_path / "set" / "link2")  # a circle
    names = load(tmp_path / "set").names + load(tmp_path / "set", "held-out").names
    assert sorted(names) == [*(f"link/{i}.png" for i in range(4)), *(f"x{i}.PNG" for i in range(4))]


def test_the_fingerprint_follows_the_files(animals, tmp_path_factory):
    import shutil

    root, _ = animals
    first = load(root)
    elsewhere = tmp_path_factory.mktemp("copy") / "animals"
    shutil.copytree(root, elsewhere)
    assert load(elsewhere).fingerprint == first.fingerprint != load(root, channels=1).fingerprint
    (elsewhere / first.names[0]).unlink()
    assert load(elsewhere).fingerprint != first.fingerprint


def bomb(path, side=12_000):
    """A PNG that claims to be `side` x `side`."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b""))


def sentence(caught, *words):
    text = str(caught.value)
    assert "\n" not in text and all(str(word) in text for word in words), text


def test_a_missing_folder_and_a_file(tmp_path):
    with pytest.raises(Problem) as caught:
        load(tmp_path / "nothing")
    sentence(caught, "no folder", tmp_path / "nothing")
    (tmp_path / "a.png").write_text("x")
    with pytest.raises(Problem) as caught:
        load(tmp_path / "a.png")
    sentence(caught, "is a file", "a.png")


def test_an_empty_folder(tmp_path):
    (tmp_path / "readme.txt").write_text("no images")
    with pytest.raises(Problem) as caught:
        load(tmp_path)
    sentence(caught, "no image in", tmp_path, ".png")


def test_one_image_cannot_be_held_out(tmp_path):
    picture(tmp_path / "a.png")
    assert len(load(tmp_path)) == 1
    with pytest.raises(Problem) as caught:
        load(tmp_path, "held-out")
    sentence(caught, "too few")


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "webp", "tif", "bmp"])
@pytest.mark.parametrize("part", [0.0, 0.01, 0.5, 0.9])
def test_a_truncated_image_is_named(tmp_path, suffix, part):
    for i in range(6):
        picture(tmp_path / f"{i}.{suffix}", 40, 40, seed=i)
    broken = tmp_path / f"3.{suffix}"
    broken.write_bytes(broken.read_bytes()[: int(part * broken.stat().st_size)])
    with pytest.raises(Problem) as caught:
        for split in ("train", "held-out"):
            load(tmp_path, split).images()
    sentence(caught, broken, "take it away")


def test_a_text_file_called_png(tmp_path):
    picture(tmp_path / "a.png")
    (tmp_path / "b.png").write_text("<html>404</html>")
    for options in ({}, {"size": 4, "channels": 1}):
        with pytest.raises(Problem) as caught:
            for split in ("train", "held-out"):
                load(tmp_path, split, **options).images()
        sentence(caught, tmp_path / "b.png", "not an image")


@pytest.mark.parametrize("side", [9_000, 12_000, 60_000])
def test_a_decompression_bomb_is_refused_unread(tmp_path, side, recwarn):
    picture(tmp_path / "a.png")
    bomb(tmp_path / "b.png", side)
    with pytest.raises(Problem) as caught:
        load(tmp_path)
    sentence(caught, tmp_path / "b.png", f"{MAX_PIXELS:,}", "shrink")
    assert not len(recwarn)


def test_floating_point_tiff_is_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(Problem) as caught:
        load(tmp_path).images()
    sentence(caught, tmp_path / "a.tif", "floating-point")
