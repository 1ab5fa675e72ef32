"""Text: rows of token numbers; token i stands for alphabet[i]."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from ..disk import write_file
from ..errors import Problem
from .kind import About, Kind


class Text(Kind):
    """(length,) int64."""

    name: ClassVar[str] = "text"
    one: ClassVar[str] = "text"
    suffix: ClassVar[str] = "txt"
    array: ClassVar[str] = "tokens"
    page: ClassVar[str] = "grid.txt"
    looks: ClassVar[str] = "bigrams"

    def decode(self, stored: Tensor, about: About) -> Tensor:
        return stored.to(torch.int64)

    def finish(self, x: Tensor, about: About) -> Tensor:
        return x.to(torch.uint8 if len(about.alphabet or ()) <= 256 else torch.int32)

    def numbers(self, stored: Tensor, about: About) -> Tensor:
        """How often each pair of neighbours occurs in a row; each single symbol, where the alphabet has more than 40."""
        size, rows = len(about.alphabet or ()), stored.long()
        at = rows[:, :-1] * size + rows[:, 1:] if size <= 40 else rows
        counts = torch.zeros(len(rows), size**2 if size <= 40 else size, dtype=torch.float64)
        return counts.scatter_add_(1, at, torch.ones_like(at, dtype=torch.float64)) / at.shape[1]

    def words(self, stored: Tensor, about: About) -> str:
        """One row as a string; a token beyond the alphabet (one that is still masked) as a low line."""
        alphabet = [*(about.alphabet or ())]
        return "".join(alphabet[i] if i < len(alphabet) else "_" for i in stored.tolist())

    def tokens(self, words: str, about: About) -> Tensor:
        """A string as a row, int64. Raises Problem for a character that is none of the alphabet."""
        numbers = {symbol: i for i, symbol in enumerate(about.alphabet or ())}
        if strange := sorted(set(words) - set(numbers)):
            raise Problem(f"the character {strange[0]!r} is none of the {len(numbers)} that this model knows")
        return torch.tensor([numbers[symbol] for symbol in words], dtype=torch.int64)

    def save(self, stored: Tensor, path: Path, about: About) -> Path:
        write_file(path, self.words(stored, about).encode())
        return path

    def read(self, path: Path, about: About) -> Tensor:
        return self.finish(self.tokens(path.read_bytes().decode(), about), about)

    def sheet(self, stored: Tensor, folder: Path, about: About, columns: int | None = None, name: str = "") -> Path:
        path = self.where(folder, name)
        write_file(path, ("\n\n".join(self.words(row, about) for row in stored) + "\n").encode())
        return path

    def describe(self, about: About) -> str:
        return f"{about.shape[0]} characters of {len(about.alphabet or ())}"
