"""Sounds as a data set: a folder of .wav, .flac or .ogg files, and the built-in spoken digits.

    load("spoken-digits")                   # ten words, 8 kHz
    load("recordings/", size=16_000, rate=8000)        # a folder of files, in rows of two seconds

Rows have `size` samples (of a folder, those of its longest file, if left out): a shorter file is followed by silence, a
longer one cut into rows that lie end to end, the last one ending where the file does. Channels are averaged; all are
brought to `rate` Hz, or to the lowest among them. Labels, captions and what is held out: as of a folder of images
(`unnoise.data.folder`). Files are read by soundfile (`pip install 'unnoise[sound]'`).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from functools import cache, lru_cache
from math import gcd
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..errors import Problem, UsageProblem
from .dataset import DataSet, Facts
from .encoded import Size
from .pixels import InMemory, Lazy

SUFFIXES = (".wav", ".flac", ".ogg")
LONGEST = 1 << 17  # samples of a row that nobody asked for by its size
SHIPPED = Path(__file__).parent / "shipped" / "spoken-digits" / "words.npz"
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
OWN = 8000  # Hz
WORDS = Facts(
    name="spoken-digits",
    shape=(1, 4096),
    train=480,
    held_out=120,
    rule="one in five of each voice's speeds and pitches, by the sha256 of their names",
    licence="Flite (BSD-like)",
    source="ten words by four voices of Flite 2.2, each at three speeds and five pitches, 8 kHz",
    citation="Black, Lenzo. Flite: a small fast run-time synthesis engine. 4th ISCA Workshop on Speech Synthesis, 2001.",
    classes=DIGITS,
    kind="sound",
    rate=OWN,
)


def expand(code: np.ndarray) -> np.ndarray:
    """int16 from the 8 bits of the mu law, |x| = (256^|y| - 1) / 255 with y evenly spaced (G.711's curve, mu = 255)."""
    y = (code.astype(np.float64) - 128) / 127
    return np.round(32767 * np.sign(y) * np.expm1(np.abs(y) * np.log(256)) / 255).astype(np.int16)


def compress(x: np.ndarray) -> np.ndarray:
    """The 8 bits of the mu law nearest to x in [-1, 1]."""
    y = np.sign(x) * np.log1p(255 * np.abs(x)) / np.log(256)
    return np.round(128 + 127 * y).clip(1, 255).astype(np.uint8)


@cache
def _words() -> tuple[list[np.ndarray], list[str]]:
    """Every word, int16, and its name VOICE-SPEED-PITCH/WORD."""
    with np.load(SHIPPED, allow_pickle=False) as file:
        codes, ends, names = file["mu_law"], file["ends"], file["names"]
    return np.split(expand(codes), ends[:-1]), [str(name) for name in names]


def spoken_digits(split: str, size: Size | None = None, rate: int | None = None) -> DataSet:
    """The built-in words, each followed by silence, or cut, to `size` samples (0.512 s by default), at `rate` Hz (8000)."""
    sounds, names = _words()
    rate = _rate(rate) or OWN
    length = _length(-(-WORDS.shape[1] * rate // OWN) if size is None else size)
    if rate != OWN:
        sounds = [_whole(resampled(sound / np.float32(32768), OWN, rate)) for sound in sounds]
    combinations = sorted({name.split("/")[0] for name in names})
    out: set[str] = set()
    for voice in sorted({name.split("-")[0] for name in combinations}):
        own = [c for c in combinations if c.split("-")[0] == voice]
        out |= set(sorted(own, key=_hash)[: len(own) // 5])
    rows = [i for i, name in enumerate(names) if (name.split("/")[0] in out) == (split == "held-out")]
    rows.sort(key=lambda i: _hash(names[i]))  # so that the first of them are of all kinds
    x = np.zeros((len(rows), 1, length), np.int16)
    for row, i in zip(x, rows, strict=True):
        row[0, : min(length, len(sounds[i]))] = sounds[i][:length]
    labels = torch.tensor([DIGITS.index(names[i].split("/")[1]) for i in rows])
    facts = replace(WORDS, shape=(1, length), rate=rate)
    return DataSet(facts, split, InMemory(torch.from_numpy(x)), labels, names=[names[i] for i in rows])


def _hash(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()


def _length(size: Any) -> int:
    if not isinstance(size, int) or size < 1:
        raise UsageProblem(f"the size of sounds is a number of samples, 1 or more, not {size}")
    return size


def _rate(rate: Any) -> int | None:
    if rate is not None and (not isinstance(rate, int) or rate < 1):
        raise UsageProblem(f"the rate of sounds is a number of samples in a second, 1 or more, not {rate}")
    return rate


def _whole(x: np.ndarray) -> np.ndarray:
    """int16 from [-1, 1]."""
    return np.round(x * 32768).clip(-32768, 32767).astype(np.int16)


def _soundfile():
    try:
        import soundfile
    except (ImportError, OSError) as error:
        raise Problem(f"sounds are read by soundfile ({error}); install it: pip install 'unnoise[sound]'") from None
    return soundfile


class _Head(NamedTuple):
    samples: int
    rate: int

    def at(self, rate: int) -> int:
        """Samples at another rate."""
        return -(-self.samples * rate // self.rate)


def _head(path: Path) -> _Head:
    reader = _soundfile()
    try:
        info = reader.info(str(path))
    except (reader.LibsndfileError, OSError) as error:
        raise Problem(f"{path} is no sound that can be read ({error}); remove it") from None
    if not info.frames:
        raise Problem(f"{path} holds no sound; remove it")
    return _Head(info.frames, info.samplerate)


def read_sound(path: str | Path, rate: int | None = None) -> tuple[np.ndarray, int]:
    """A file as float32 (samples,) in [-1, 1], its channels averaged, at `rate` Hz or its own; and that rate.

    Raises Problem for a file that is missing or no sound.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise Problem(f"there is no file {path}; give the path of a .wav, .flac or .ogg")
    head, reader = _head(path), _soundfile()
    try:
        x = reader.read(str(path), dtype="float32", always_2d=True)[0].mean(1)
    except (reader.LibsndfileError, OSError) as error:
        raise Problem(f"{path} is damaged ({error}); remove it") from None
    return (x, head.rate) if rate in (None, head.rate) else (resampled(x, head.rate, rate), rate)


def resampled(x: np.ndarray, rate: int, wanted: int) -> np.ndarray:
    """x at another rate, by a polyphase filter."""
    from scipy.signal import resample_poly

    shared = gcd(rate, wanted)
    return resample_poly(x, wanted // shared, rate // shared).astype(np.float32)


def load(folder: str | Path, split: str, size: Size | None = None, rate: int | None = None) -> DataSet:
    """The sounds of a folder. Raises `Problem` or `UsageProblem` when there are none, or their length must be told."""
    from .folder import caption, divide, walk

    root = Path(folder).expanduser()
    paths = sorted(walk(root, SUFFIXES), key=lambda path: path.as_posix())
    if not paths:
        raise Problem(f"there is no sound in {root} ({', '.join(SUFFIXES)} are looked for); put some there")
    part = divide(paths)
    paths, out, kinds, classes = part.paths, part.out, part.kinds, part.classes
    heads = [_head(root / path) for path in paths]
    rate = _rate(rate) or min(head.rate for head in heads)
    longest = max(head.at(rate) for head in heads)
    if size is None and longest > LONGEST:
        raise UsageProblem(
            f"the longest sound of {root} lasts {longest / rate:.1f} s; say how many samples a row shall have "
            f"(--size {2 * rate} for two seconds)"
        )
    length = _length(longest if size is None else size)

    rows = [
        (i, start)
        for i, head in enumerate(heads)
        if out[i] == (split == "held-out")
        for start in _starts(head.at(rate), length)
    ]
    if not rows:
        raise Problem(f"{root} holds {len(paths)} sound, too few to hold one out; add some")
    texts = [caption(root / path) for path in paths]

    @lru_cache(maxsize=8)
    def sound(i: int) -> np.ndarray:
        return _whole(read_sound(root / paths[i], rate)[0])

    def decode(row: int) -> np.ndarray:
        i, start = rows[row]
        here, stretch = sound(i)[start : start + length], np.zeros((1, length), np.int16)
        stretch[0, : len(here)] = here
        return stretch

    count = {kept: sum(len(_starts(h.at(rate), length)) for h, o in zip(heads, out, strict=True) if o == kept)
             for kept in (False, True)}  # fmt: skip
    facts = Facts(
        name=str(folder),
        shape=(1, length),
        train=count[False],
        held_out=count[True],
        rule=part.rule,
        licence="as the owner of the folder says",
        source=str(root.resolve()),
        classes=classes,
        captions=any(text is not None for text in texts),
        kind="sound",
        rate=rate,
    )
    labels = None
    if classes is not None:
        labels = torch.tensor([-1 if (kind := kinds[i]) is None else classes.index(kind) for i, _ in rows])
    described = "\n".join(
        f"{paths[i].as_posix()} {(root / paths[i]).stat().st_size} {start} {rate}" for i, start in rows
    )
    return DataSet(
        facts,
        split,
        Lazy(len(rows), facts.shape, decode, dtype=torch.int16),
        labels,
        [texts[i] or "" for i, _ in rows] if facts.captions else None,
        [paths[i].as_posix() for i, _ in rows],
        hashlib.sha256(described.encode()).hexdigest(),
    )


def _starts(samples: int, length: int) -> list[int]:
    """Where the rows of a sound begin."""
    if samples <= length:
        return [0]
    return [*range(0, samples - length, length), samples - length]
