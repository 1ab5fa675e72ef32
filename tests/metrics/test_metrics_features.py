"""Named features and the shipped classifiers: what they claim, and what a wrong name or file gets."""

import hashlib
import importlib.util
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch

from unnoise.data import load
from unnoise.errors import Problem, UsageProblem
from unnoise.metrics import classifier, classifiers, classify, features, shipped
from unnoise.rng import stream

SCRIPT = Path(__file__).parents[2] / "scripts" / "train_classifiers.py"


def pictures(n, *shape, seed=0):
    return torch.randint(256, (n, *shape), generator=stream(seed), dtype=torch.uint8)


def brightness(x):
    """Features of a user's own: mean and deviation of each image, in [-1, 1]."""
    assert x.dtype == torch.float32 and x.min() >= -1 and x.max() <= 1
    return np.stack([x.mean((1, 2, 3)).numpy(), x.std((1, 2, 3)).numpy()], axis=1)


def one_row(x):
    return x.mean((0, 2, 3))[None]


def test_pixels_are_the_image_in_minus_one_to_one():
    x = pictures(300, 3, 4, 5)
    found = features("pixels")(x)
    assert found.dtype == torch.float64 and found.shape == (300, 60)
    assert torch.allclose(found, (x.double() / 127.5 - 1).flatten(1), atol=1e-7)


def test_a_tensor_and_its_file_have_the_same_features():
    x = pictures(20, 1, 28, 28)
    as_sampled = x.float() / 127.5 - 1 + 0.003 * torch.rand(x.shape, generator=stream(1)) - 0.0015
    for name in ("pixels", "classifier:fashion-mnist"):
        assert torch.equal(features(name)(x), features(name)(as_sampled))
    assert torch.equal(features("pixels")(torch.full((1, 1, 2, 2), 1.7)), torch.ones(1, 4))


@pytest.mark.parametrize(("name", "least"), [("fashion-mnist", 0.9), ("digits", 0.97), ("emoji", 0.7)])
def test_a_shipped_classifier_is_what_its_card_says(name, least):
    card = shipped()[name]
    held_out = [load(data, "held-out") for data in card["data"]]
    train = [load(data, "train") for data in card["data"]]
    images, labels = torch.cat([d.images() for d in held_out]), torch.cat([d.labels for d in held_out])
    pixels, classes = torch.cat([d.images() for d in train]), torch.cat([d.labels for d in train])
    for side, x, y in (("held_out", images, labels), ("train", pixels, classes)):
        assert hashlib.sha256(x.numpy().tobytes() + y.numpy().tobytes()).hexdigest() == card["data_sha256"][side]
    probabilities = classify(images, name)
    assert (
        probabilities.shape == (len(images), len(held_out[0].classes)) and tuple(card["classes"]) == held_out[0].classes
    )
    assert torch.allclose(probabilities.sum(1), torch.ones(len(images), dtype=torch.float64), atol=1e-5)
    accuracy = (probabilities.argmax(1) == labels).double().mean().item()
    assert accuracy >= least and accuracy == pytest.approx(card["accuracy"]["held_out"], abs=0.003)
    if len(pixels) < 5000:
        seen = features(f"classifier:{name}")(pixels)
        assert seen.shape[1] == card["feature_dim"] == 64
        assert seen.mean(0).abs().max() < 0.01 and seen.var(0).mean().item() == pytest.approx(1, abs=0.01)


def test_the_logits_are_the_head_of_the_features():
    network, x = classifier("digits"), pictures(5, 1, 8, 8)
    raw = network.features(x).float() * network.scale + network.center
    logits = network.head(torch.nn.functional.silu(raw))
    assert torch.allclose(logits.softmax(1).double(), network.classify(x), atol=1e-5)


def test_a_bare_classifier_is_found_by_the_shape_and_says_which():
    assert features("classifier", (1, 28, 28)).name == "classifier:fashion-mnist"
    assert features("classifier:emoji-google").name == "classifier:emoji"
    assert torch.equal(classify(pictures(3, 1, 8, 8)), classify(pictures(3, 1, 8, 8), "digits"))
    with pytest.raises(Problem, match=r"no shipped classifier takes images of \(3, 64, 64\)"):
        features("classifier", (3, 64, 64))
    with pytest.raises(UsageProblem, match="which"):
        features("classifier")
    with pytest.raises(Problem, match=r"the digits classifier takes images of \(1, 8, 8\), not \(1, 28, 28\)"):
        features("classifier:digits")(pictures(2, 1, 28, 28))


def test_weights_that_are_not_those_of_the_card_are_refused(tmp_path, monkeypatch):
    good = (classifiers.WEIGHTS / "digits.safetensors").read_bytes()
    monkeypatch.setattr(classifiers, "WEIGHTS", tmp_path)
    for bad in (None, good[:1000], good[:-1] + bytes([good[-1] ^ 1])):
        if bad is not None:
            (tmp_path / "digits.safetensors").write_bytes(bad)
        with pytest.raises(Problem, match="is not the file its card describes"):
            classifier.__wrapped__("digits")


def test_your_own_function_by_its_import_path():
    path = f"{__name__}:brightness"
    own = features(path)
    x = pictures(400, 3, 6, 6)
    assert own.name == path and own(x).shape == (400, 2)
    assert torch.allclose(own(x)[:, 0], features("pixels")(x).mean(1), atol=1e-6)


def test_your_own_function_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_features.py").write_text("def flat(x):\n    return x.flatten(1)\n")
    (tmp_path / "my_mistake.py").write_text("def flat(x:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    x = pictures(3, 1, 4, 4)
    assert torch.equal(features("my_features:flat")(x), features("pixels")(x))
    with pytest.raises(UsageProblem, match="cannot be imported"):
        features("my_mistake:flat")


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("no.such.module:f", "cannot be imported"),
        ("unnoise.errors:nothing", "cannot be imported"),
        (":f", "cannot be imported"),
        ("unnoise:__version__", "not callable"),
        ("pixel", "did you mean 'pixels'"),
        ("classifier:mnist", "known: digits, emoji, emoji-google"),
    ],
)
def test_a_wrong_name_is_told_in_a_sentence(name, word):
    with pytest.raises(UsageProblem, match=word) as caught:
        features(name)
    assert "\n" not in str(caught.value)


def test_a_function_that_gives_no_row_per_image():
    with pytest.raises(Problem, match="failed on images"):
        features("os:getcwd")(torch.zeros(2, 1, 8, 8))
    with pytest.raises(Problem, match="one row per image"):
        features(f"{__name__}:one_row")(pictures(3, 1, 4, 4))


@pytest.mark.parametrize(
    ("images", "word"),
    [
        (torch.zeros(3, 8, 8), "count, channel, height, width"),
        (torch.zeros(0, 1, 8, 8), "not empty"),
        (torch.full((1, 1, 2, 2), float("nan")), "not finite"),
        (torch.zeros(1, 1, 2, 2, dtype=torch.int64), "uint8"),
    ],
)
def test_images_that_are_none(images, word):
    with pytest.raises(UsageProblem, match=word):
        features("pixels")(images)


def test_inception_where_torch_fidelity_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(Problem, match="torch-fidelity"):
        features("inception")


def test_inception_is_given_three_channels_of_bytes(monkeypatch):
    """The published extractor takes uint8 (N, 3, H, W) and gives a tuple; a stand-in checks what it is handed."""

    class Extractor(torch.nn.Module):
        def __init__(self, name, layers):
            super().__init__()
            assert layers == ["2048"]

        def forward(self, x):
            assert x.dtype == torch.uint8 and x.shape[1] == 3
            return (x.float().mean((2, 3)),)

    module = types.ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = Extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", types.ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    x = pictures(7, 1, 5, 5)
    assert torch.allclose(features("inception")(x), x.double().mean((2, 3)).expand(-1, 3), atol=1e-4)


def test_training_is_deterministic_and_learns(tmp_path):
    spec = importlib.util.spec_from_file_location("train_classifiers", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    images, labels, classes = script.together(("digits",), "train")
    recipe = script.Recipe(("digits",), epochs=4, flip=False, shift=1)
    first, second = (script.train(images, labels, len(classes), recipe, "digits").state_dict() for _ in range(2))
    assert all(torch.equal(first[key], second[key]) for key in first)
    network = script.train(images, labels, len(classes), recipe, "digits")
    fresh, fresh_labels, _ = script.together(("digits",), "held-out")
    assert script.accuracy(network, fresh, fresh_labels) > 0.8


def test_augmenting_moves_and_mirrors_but_invents_nothing():
    spec = importlib.util.spec_from_file_location("train_classifiers", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = script
    spec.loader.exec_module(script)
    x = torch.zeros(200, 1, 9, 9)
    x[:, 0, 4, 3] = 1
    moved = script.augment(x, script.Recipe((), epochs=1, flip=True, shift=2), stream(0))
    assert torch.equal(moved.sum((1, 2, 3)), torch.ones(200))
    rows, columns = moved[:, 0].nonzero()[:, 1:].T
    assert set(rows.tolist()) == set(range(2, 7)) and set(columns.tolist()) == set(range(1, 8))
