"""`unnoise sample RUN --image X.png ...`: samples of which something is known."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..errors import UsageProblem


@dataclass(frozen=True)
class KnownForm:
    """What is known of every sample: a part of an image, its grey, or the image made smaller."""

    image: Path | None = None
    """An image that all samples agree with, in what --inpaint, --colourise or --enlarge says is known."""
    inpaint: Path | None = None
    """A mask, scaled to the samples' size: the image is kept where it is black, and painted anew where it is white."""
    colourise: bool = False
    """The grey of the image is kept, the colour is not."""
    enlarge: int | None = None
    """The image, scaled to the samples' size divided by this number, is what they look like made that much smaller."""
    covariance: Literal["equal", "jacobian"] = "equal"
    """How what is known tells of the rest: equal, through what the network sees of it, by one call a step; jacobian, by how
    the network's guess hangs together as well, at about four times the work."""


def known(form: KnownForm, model: Any) -> tuple[list[Any], dict[str, Any] | None]:
    """The guidance that was asked for, and what to write down of it: [] and None for none."""
    kinds = [name for name in ("inpaint", "colourise", "enlarge") if getattr(form, name)]
    if form.image is None:
        if kinds:
            raise UsageProblem(f"--{kinds[0]} needs --image, the picture of which it keeps something")
        return [], None
    if len(kinds) != 1:
        raise UsageProblem(
            "--image needs one of --inpaint, --colourise and --enlarge, and no more, to say what of it is known"
        )
    from ..denoisers import measured

    measurement, files = _MEASUREMENTS[kinds[0]](form, model.spec.shape)
    sums = {name: hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16] for name, file in files.items()}
    told = {"kind": kinds[0], **sums, "covariance": form.covariance}
    return [measured(measurement, form.covariance)], told | ({"factor": form.enlarge} if form.enlarge else {})


def _picture(path: Path, channels: int, size: tuple[int, int]) -> Any:
    """(1, channels, height, width), in [-1, 1]."""
    import torch

    from ..data.encoded import pixels

    return torch.from_numpy(pixels(path, str(path), channels, size).copy())[None].float() / 127.5 - 1


def _inpainting(form: KnownForm, shape: tuple[int, ...]) -> tuple[Any, dict[str, Path]]:
    from ..denoisers import inpainting

    assert form.image and form.inpaint
    channels, height, width = shape
    mask = _picture(form.inpaint, 1, (height, width)) < 0  # black
    if not mask.any() or mask.all():
        raise UsageProblem(
            f"{form.inpaint} is all {'black' if mask.all() else 'white'}: black is kept, white is painted anew"
        )
    picture = _picture(form.image, channels, (height, width))
    return inpainting(picture, mask), {"image": form.image, "mask": form.inpaint}


def _colourisation(form: KnownForm, shape: tuple[int, ...]) -> tuple[Any, dict[str, Path]]:
    from ..denoisers import colourisation

    assert form.image
    if shape[0] != 3:
        raise UsageProblem("--colourise needs a model of colour images, and this one's are grey")
    return colourisation(_picture(form.image, 3, (shape[1], shape[2]))), {"image": form.image}


def _enlargement(form: KnownForm, shape: tuple[int, ...]) -> tuple[Any, dict[str, Path]]:
    from ..denoisers import enlargement

    assert form.image and form.enlarge
    channels, height, width = shape
    factor = form.enlarge
    if factor < 2 or height % factor or width % factor:
        raise UsageProblem(f"--enlarge takes a number that divides {height} and {width}, 2 or more, not {factor}")
    small = _picture(form.image, channels, (height // factor, width // factor))
    return enlargement(small, factor), {"image": form.image}


_MEASUREMENTS = {"inpaint": _inpainting, "colourise": _colourisation, "enlarge": _enlargement}
