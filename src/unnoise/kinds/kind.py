"""What every kind of data says of itself."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Protocol

from torch import Tensor


class About(Protocol):
    """What is known of data: of a set (`Facts`), or by a model (`Spec`)."""

    @property
    def kind(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def levels(self) -> int: ...
    @property
    def alphabet(self) -> tuple[str, ...] | None: ...
    @property
    def rate(self) -> int | None: ...
    @property
    def manifold(self) -> str | None: ...


class Kind:
    """One kind of data.

    name     of the kind, a plural: images, text, ...
    one      of a sample: image, text, ...
    suffix   of a file that holds one sample, and the name of that format
    array    the name of the samples in an .npz file
    page     the file name of the overview that a person looks at first
    looks    the name of what distances between samples look at by default: `numbers`
    single   whether all samples go into one file of that suffix, instead of a file each
    """

    name: ClassVar[str]
    one: ClassVar[str]
    suffix: ClassVar[str]
    array: ClassVar[str] = "samples"
    page: ClassVar[str] = "grid.png"
    looks: ClassVar[str]
    single: ClassVar[bool] = False

    @property
    def formats(self) -> tuple[str, ...]:
        """How samples may be written: a file each, .npz files of many, or the overview alone."""
        return self.suffix, "npz", "grid"

    def decode(self, stored: Tensor, about: About) -> Tensor:
        """Stored rows as a model sees them."""
        return stored

    def finish(self, x: Tensor, about: About) -> Tensor:
        """Samples of a model, (count, *shape), as they are stored."""
        return x

    def numbers(self, stored: Tensor, about: About) -> Tensor:
        """Stored samples as vectors that distances between sets of them can be measured in, float64 (count, dimension)."""
        return stored.flatten(1).double()

    def save(self, stored: Tensor, path: Path, about: About) -> Path:
        """Write one stored sample to a file; all of them, where `single`."""
        raise NotImplementedError

    def read(self, path: Path, about: About) -> Tensor:
        """What `save` wrote."""
        raise NotImplementedError

    def sheet(self, stored: Tensor, folder: Path, about: About, columns: int | None = None, name: str = "") -> Path:
        """Write the overview of stored samples into a folder, as `page` or under another name without suffix."""
        raise NotImplementedError

    def where(self, folder: Path, name: str) -> Path:
        """The file of an overview."""
        return folder / (Path(name + Path(self.page).suffix) if name else self.page)

    def describe(self, about: About) -> str:
        """The shape, for people."""
        return "x".join(map(str, about.shape))
