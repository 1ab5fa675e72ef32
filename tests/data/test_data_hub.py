"""Hub data sets, through local copies: parquet and imagefolder."""

from io import BytesIO

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.data import load
from unnoise.errors import Problem, UsageProblem

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    """Tables go to a folder of the test; nothing is fetched."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def arrays(count, height=6, width=9, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def table(images, **columns):
    """A table with a column `image`; columns are (feature, values)."""
    features = {"image": datasets.Image()} | {name: feature for name, (feature, _) in columns.items()}
    data = {"image": [Image.fromarray(a) for a in images]} | {name: values for name, (_, values) in columns.items()}
    return datasets.Dataset.from_dict(data, features=datasets.Features(features))


KINDS = datasets.ClassLabel(names=["cat", "dog"])
TEXT = datasets.Value("string")


@pytest.fixture
def parquet(tmp_path):
    folder = tmp_path / "copy"
    folder.mkdir()
    train, test = arrays(20), arrays(6, seed=1)
    for name, images in (("train", train), ("test", test)):
        n = len(images)
        labelled = table(
            images, label=(KINDS, [i % 2 for i in range(n)]), caption=(TEXT, [f"no. {i}" for i in range(n)])
        )
        labelled.to_parquet(folder / f"{name}.parquet")
    return folder, train, test


def same(data, rows, images):
    got = data.images().permute(0, 2, 3, 1).numpy()
    return np.array_equal(got, images[rows])


def test_parquet_with_a_test_split(parquet):
    folder, train, test = parquet
    data, held = load(f"hf:{folder}"), load(f"hf:{folder}", "held-out")
    assert (len(data), len(held)) == (20, 6) and data.shape == (3, 6, 9) and data.classes == ("cat", "dog")
    assert same(data, range(20), train) and same(held, range(6), test)
    batch = data.batch([5, 0, 5])
    assert batch.label.tolist() == [1, 0, 1] and batch.caption == ["no. 5", "no. 0", "no. 5"]
    assert torch.equal(data.to_levels(batch.x[1]).permute(1, 2, 0), torch.from_numpy(train[0]).long())
    assert (data.facts.train, data.facts.held_out) == (20, 6) and "test" in data.rule
    assert data.fingerprint == load(f"hf:{folder}").fingerprint != held.fingerprint


def test_a_single_file_is_split_by_row(parquet):
    folder, train, _ = parquet
    name = f"hf:{folder}/train.parquet"
    data, held = load(name), load(name, "held-out")
    assert len(data) + len(held) == 20 and len(held) > 0
    numbers = [int(c[4:]) for c in data.captions + held.captions]
    assert sorted(numbers) == list(range(20))
    assert same(data, numbers[: len(data)], train) and same(held, numbers[len(data) :], train)
    assert data.labels.tolist() == [n % 2 for n in numbers[: len(data)]]


def test_imagefolder(tmp_path):
    images = arrays(30)
    for i, a in enumerate(images):
        path = tmp_path / "set" / ("cat", "dog")[i % 2] / f"{i:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(a).save(path)
    data, held = load(f"hf:{tmp_path}/set"), load(f"hf:{tmp_path}/set", "held-out")
    assert len(data) + len(held) == 30 and data.classes == ("cat", "dog")
    want = {a.tobytes(): i % 2 for i, a in enumerate(images)}
    for part in (data, held):
        for x, k in zip(part.images(), part.labels, strict=True):
            assert want[x.permute(1, 2, 0).numpy().tobytes()] == k


def test_sizes_and_channels(tmp_path):
    rows = [Image.fromarray(arrays(1, 8 + i, 12)[0]) for i in range(4)]
    made = datasets.Dataset.from_dict({"image": rows}, features=datasets.Features({"image": datasets.Image()}))
    made.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UsageProblem, match=r"4 different sizes, from 12 x 8 to 12 x 11 pixels.*--size"):
        load(f"hf:{tmp_path}/a.parquet")
    data = load(f"hf:{tmp_path}/a.parquet", size=(4, 6), channels=1)
    assert data.shape == (1, 4, 6) and data.batch([0]).cond is None and not data.has_captions
    assert load(f"hf:{tmp_path}/a.parquet", size=8).shape == (3, 8, 8)


def save(tmp_path, **columns):
    table(arrays(12), **columns).to_parquet(tmp_path / "a.parquet")
    return f"hf:{tmp_path}/a.parquet"


def test_ambiguous_labels_are_asked_for(tmp_path):
    fine, coarse = (KINDS, [0, 1] * 6), (KINDS, [0] * 6 + [1] * 6)
    name = save(tmp_path, fine=fine, coarse=coarse)
    with pytest.raises(UsageProblem, match=r"several columns that could be the label: fine, coarse.*\?label=fine"):
        load(name)
    rows = [load(name + "?label=coarse", s) for s in ("train", "held-out")]
    assert sorted(k for r in rows for k in r.labels.tolist()) == [0] * 6 + [1] * 6
    assert load(name + "?label=").labels is None


def test_ambiguous_images_and_captions(tmp_path):
    images = [Image.fromarray(a) for a in arrays(4)]
    kind, word = datasets.Image(), ["one", "two", "three", "four"]
    features = datasets.Features({"left": kind, "right": kind, "text": TEXT, "prompt": TEXT})
    made = datasets.Dataset.from_dict(
        {"left": images, "right": images, "text": word, "prompt": word[::-1]}, features=features
    )
    made.to_parquet(tmp_path / "a.parquet")
    name = f"hf:{tmp_path}/a.parquet"
    with pytest.raises(UsageProblem, match="several columns that could be the image: left, right"):
        load(name)
    with pytest.raises(UsageProblem, match="several columns that could be the caption: text, prompt"):
        load(name + "?image=left")
    assert set(load(name + "?image=right&caption=prompt").captions) <= set(word)


def test_labels_that_are_integers_or_words(tmp_path):
    name = save(tmp_path, label=(datasets.Value("int64"), [7, 9, None] * 4))
    rows = [load(name, s) for s in ("train", "held-out")]
    assert rows[0].classes == ("7", "9")
    assert sorted(k for r in rows for k in r.labels.tolist()) == [-1] * 4 + [0] * 4 + [1] * 4
    other = tmp_path / "b"
    other.mkdir()
    assert load(save(other, label=(TEXT, ["b", "a"] * 6))).classes == ("a", "b")


def test_several_captions_a_row(tmp_path):
    several = datasets.List(TEXT) if hasattr(datasets, "List") else datasets.Sequence(TEXT)
    data = load(save(tmp_path, captions=(several, [["first", "second"], []] * 6)))
    assert set(data.captions) == {"first", ""}


def sentence(caught, *words):
    text = str(caught.value)
    assert "\n" not in text and all(str(word) in text for word in words), text


def test_no_images(tmp_path):
    datasets.Dataset.from_dict({"text": ["a", "b"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(UsageProblem) as caught:
        load(f"hf:{tmp_path}/a.parquet")
    sentence(caught, "no column of images", "text (string)")
    for query in ("?image=picture", "?label=kind"):
        with pytest.raises(UsageProblem) as caught:
            load(save(tmp_path) + query)
        sentence(caught, "has no column", "it has image")


def test_a_broken_image_is_named(tmp_path):
    good = BytesIO()
    Image.fromarray(arrays(1)[0]).save(good, "PNG")
    cells = [{"bytes": good.getvalue(), "path": None}] * 5 + [{"bytes": good.getvalue()[:120], "path": None}]
    made = datasets.Dataset.from_dict({"image": cells}, features=datasets.Features({"image": datasets.Image()}))
    made.to_parquet(tmp_path / "a.parquet")
    with pytest.raises(Problem) as caught:
        for split in ("train", "held-out"):
            load(f"hf:{tmp_path}/a.parquet", split).images()
    sentence(caught, "row 5", "a.parquet", "cannot be read")


@pytest.mark.parametrize("name", ["hf:", "hf:a/b?colour=x", "hf:a/b/c"])
def test_addresses_of_a_wrong_form(name):
    with pytest.raises(UsageProblem) as caught:
        load(name)
    sentence(caught, name, "hf:owner/name")


def test_missing_copies_and_no_network(tmp_path):
    with pytest.raises(Problem) as caught:
        load(f"hf:{tmp_path}/nothing")
    sentence(caught, "no folder or file", tmp_path / "nothing")
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    with pytest.raises(Problem) as caught:
        load(f"hf:{tmp_path}/a.csv")
    sentence(caught, "a.csv", ".parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 broken")
    with pytest.raises(Problem) as caught:
        load(f"hf:{tmp_path}/a.parquet")
    sentence(caught, "cannot load", "a.parquet")
    with pytest.raises(Problem) as caught:
        load("hf:nobody/nothing-of-this-name")
    sentence(caught, "cannot load nobody/nothing-of-this-name", "network")


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    import logging
    from types import SimpleNamespace

    import datasets
    import huggingface_hub

    from unnoise.data.hub import _one_attempt

    asked = []

    def head(url, timeout):
        asked.append(url)
        raise OSError("no network")

    monkeypatch.setattr(huggingface_hub, "get_session", lambda: SimpleNamespace(head=head))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    logger = logging.getLogger("huggingface_hub")
    level = logger.level
    with _one_attempt() as reached:
        assert not reached and huggingface_hub.constants.HF_HUB_OFFLINE and datasets.config.HF_HUB_OFFLINE
        assert logger.level == logging.ERROR
    assert len(asked) == 1 and logger.level == level
    assert not huggingface_hub.constants.HF_HUB_OFFLINE and not datasets.config.HF_HUB_OFFLINE


def test_without_the_package_datasets(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(Problem) as caught:
        load("hf:owner/name")
    sentence(caught, "pip install 'unnoise[hub]'")
