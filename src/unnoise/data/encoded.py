"""Pictures as files are: PNG, JPEG, WebP, GIF, BMP, TIFF, PPM; of any size, grey or colour; sometimes broken."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ..errors import Problem, UsageProblem

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM")  # no format that runs a program to be read
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm")
MAX_PIXELS = 1 << 26  # 67 million, 200 MB decoded: a larger one is a mistake or a decompression bomb

Size = int | tuple[int, int]
Place = Path | BytesIO


def check_options(size: Size | None, channels: int | None) -> tuple[tuple[int, int] | None, int | None]:
    """The wanted (height, width) and channels, or `UsageProblem`."""
    if channels not in (None, 1, 3):
        raise UsageProblem(f"channels is 1 (grey) or 3 (colour), not {channels}")
    if size is None:
        return None, channels
    pair = (size, size) if isinstance(size, int) else size
    if len(pair) != 2 or not all(isinstance(n, int) and 1 <= n <= 8192 for n in pair):
        raise UsageProblem(f"size is a number of pixels from 1 to 8192, or two of them (height, width), not {size}")
    return (pair[0], pair[1]), channels


@contextmanager
def _opened(place: Place, name: str) -> Iterator[Image.Image]:
    try:
        with Image.open(place, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Problem(
                    f"image {name} is {image.width} x {image.height} pixels, more than the {MAX_PIXELS:,} that are "
                    "read; shrink it or take it away"
                )
            yield image
    except Image.DecompressionBombError as error:
        raise Problem(f"image {name} has more than the {MAX_PIXELS:,} pixels that are read; shrink it") from error
    except UnidentifiedImageError as error:
        raise Problem(f"{name} is not an image that can be read ({', '.join(FORMATS)}); take it away") from error
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error) as error:
        what = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or type(error).__name__
        raise Problem(f"image {name} cannot be read ({what}); repair it or take it away") from error


def header(place: Place, name: str) -> tuple[int, int, int]:
    """(channels, height, width) of an image as it will be shown, without decoding it. Raises `Problem`."""
    with _opened(place, name) as image:
        grey = image.mode in ("1", "L", "LA", "La", "F") or image.mode.startswith("I")
        turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        height, width = (image.width, image.height) if turned else (image.height, image.width)
        return 1 if grey else 3, height, width


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Scale so that the image just covers `size` (height, width), and cut the centre out; untouched if it has it."""
    wanted = (size[1], size[0])
    return image if image.size == wanted else ImageOps.fit(image, wanted, Image.Resampling.LANCZOS)


def _plain(image: Image.Image, name: str) -> Image.Image:
    """8 bits, no palette, nothing transparent (shown on white): mode L or RGB."""
    if image.mode == "F":
        raise Problem(f"image {name} holds floating-point numbers of unknown range; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits: Pillow's own conversion would clip at 255
        return Image.fromarray(np.rint(np.clip(np.asarray(image, np.int64), 0, 65535) / 257).astype(np.uint8))
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        grey = image.mode in ("L", "LA", "La")
        image = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, "white")
        ground.alpha_composite(image)
        return ground.convert("RGB").convert("L") if grey else ground.convert("RGB")
    return image.convert("L" if image.mode in ("1", "L") else "RGB")


def pixels(place: Place, name: str, channels: int, size: tuple[int, int]) -> np.ndarray:
    """One image as uint8 (channels, height, width), turned as its EXIF says, scaled and cut by `fit`."""
    with _opened(place, name) as image:
        if image.format == "JPEG":
            image.draft(None, (max(size), max(size)))  # decode at 1/2, 1/4 or 1/8 where that is still large enough
        image.load()
        image = fit(_plain(ImageOps.exif_transpose(image), name), size).convert("L" if channels == 1 else "RGB")
        array = np.asarray(image)
    return array[None] if channels == 1 else np.ascontiguousarray(array.transpose(2, 0, 1))


def transparent(place: Place, name: str, size: tuple[int, int]) -> np.ndarray:
    """Where one image is more transparent than not, bool (height, width), turned, scaled and cut as `pixels` does."""
    with _opened(place, name) as image:
        image.load()
        alpha = fit(ImageOps.exif_transpose(image).convert("RGBA").getchannel("A"), size)
        return np.asarray(alpha) < 128


def settle(
    headers: Callable[[], Iterable[tuple[int, int, int]]],
    where: str,
    size: tuple[int, int] | None,
    channels: int | None,
) -> tuple[int, int, int]:
    """The one shape (channels, height, width) of a set of images, given what the user asked for.

    Without `size`, all images must have the same. Without `channels`, the set is grey when every image is grey, else
    colour (a grey image loses nothing by that). The headers are read only when something is left to find out.
    """
    if size is not None and channels is not None:
        return channels, *size
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whatever Pillow warns of here is refused by name
        found = set(headers())
    channels = channels or max(c for c, _, _ in found)
    if size is not None:
        return channels, *size
    sizes = sorted({(h, w) for _, h, w in found}, key=lambda s: s[0] * s[1])
    if len(sizes) > 1:
        (h0, w0), (h1, w1) = sizes[0], sizes[-1]
        raise UsageProblem(
            f"the images of {where} have {len(sizes)} different sizes, from {w0} x {h0} to {w1} x {h1} pixels; "
            "choose one with --size (size= in Python), such as 32"
        )
    return channels, *sizes[0]


def refit(images: Tensor, size: tuple[int, int] | None, channels: int | None) -> Tensor:
    """The same for uint8 pixels 0..255 in memory (count, channel, height, width)."""
    channels, size = channels or images.shape[1], size or (images.shape[2], images.shape[3])
    if (channels, *size) == tuple(images.shape[1:]):
        return images
    from .pictures import to_pil

    mode = "L" if channels == 1 else "RGB"
    arrays = [np.asarray(fit(to_pil(x), size).convert(mode)) for x in images]
    out = torch.from_numpy(np.stack(arrays))
    return out[:, None] if channels == 1 else out.permute(0, 3, 1, 2).contiguous()
