"""Reader of images: PNG, JPEG, BMP, TIFF, WebP and JPEG 2000 with 8 bits, and grey PNG and TIFF with 16 bits.

Pixels of 8 bits are returned as stored, turned upright by the EXIF orientation as in every viewer. No colour profile or
gamma is applied, because training and the inspection line must see the same numbers. An image that requires such a
decision (CMYK, transparency) is refused. Grey images of 16 bits are converted with the range of training.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmdiad_runtime.colour import Colour, GreyRange, PlainColour
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers._files import GREY16, ContentError, FilePath, decoding, open_input
from cmdiad_runtime.readers._grey16 import open_grey16
from cmdiad_runtime.readers._image_formats import open_image
from cmdiad_runtime.readers._orientation import load_upright, stored_orientation
from cmdiad_runtime.sample import RgbImage

_EXPECTED = "an 8-bit colour or grey image (PNG, JPEG, BMP, TIFF, WebP or JPEG 2000)"
_EXPECTED_16 = "a grey image of 16 bits (PNG or TIFF), as in training"
_NAMES: dict[PlainColour, str] = {"rgb": "a colour image", "grey": "a grey image"}


def read_rgb(path: FilePath, *, colour: Colour = "rgb", registered: bool = False) -> RgbImage:
    """Read an image.

    Palette colours are looked up and a fully opaque alpha channel is dropped; neither loses information. The image is
    turned upright by its EXIF orientation, so that pixels, viewers and drawn masks agree. A registered image with such
    an orientation is refused, because its pixels would no longer belong to the points of the cloud.

    Args:
        path: Image file. The content, not the name, decides about the format.
        colour: Kind of image that the detector was trained on. Grey images are returned with three equal channels.
        registered: True if another file, such as a cloud, belongs to the image pixel by pixel.

    Returns:
        uint8 `[h, w, 3]`, RGB order, 0-255; grey levels of the range for images of 16 bits.

    Raises:
        InputError: The file is missing, empty, damaged, in another format, beyond a limit (see `limits`), grey
            instead of colour or the reverse, of another number of bits, CMYK, partly transparent, or registered and
            turned by EXIF; holds several images, or has values outside the range.
    """
    if isinstance(colour, GreyRange):
        levels = colour.levels(path, read_grey16(path, registered=registered))
        return np.repeat(levels[..., None], 3, axis=2)
    with _open_image(path) as stored:
        _check_colour(path, _plain_colour(path, stored), colour)
        image = load_upright(stored, registered=registered)
        del stored  # Frees its pixels if the image was turned.
        return np.array(_opaque(path, image).convert("RGB"), dtype=np.uint8)


def read_grey16(path: FilePath, *, registered: bool = False) -> npt.NDArray[np.uint16]:
    """Read a grey image of 16 bits.

    Args:
        path: PNG or TIFF file. The content, not the name, decides about the format.
        registered: See `read_rgb`.

    Returns:
        uint16 `[h, w]`, turned upright by the EXIF orientation.

    Raises:
        InputError: See `read_rgb`; the image is not grey, or has another number of bits.
    """
    with _decoding(path, _EXPECTED_16) as file:
        image = open_grey16(path, file)
        if getattr(image, "is_animated", False) or image.has_transparency_data:
            raise ContentError("several images or transparent pixels in one file", GREY16)
        return np.asarray(load_upright(image, registered=registered)).astype(np.uint16)


def is_grey16(path: FilePath) -> bool:
    """Return True if the header of a file is that of a grey image of 16 bits, which `read_grey16` reads."""
    try:
        with _decoding(path, _EXPECTED_16) as file:
            open_grey16(path, file)
    except InputError:
        return False
    return True


def image_colour(path: FilePath) -> PlainColour:
    """Return the kind of image of 8 bits in a file, from the header.

    The file format decides, not the pixels: a grey part in the image of a colour camera is still `"rgb"`. A palette
    that contains only greys is `"grey"`.

    Args:
        path: Image file.

    Raises:
        InputError: See `read_rgb`; only problems that the header shows are found.
    """
    with _open_image(path) as image:
        return _plain_colour(path, image)


def image_orientation(path: FilePath) -> int:
    """Return the EXIF orientation that `read_rgb` applies to an image of 8 bits, 1 to 8; 1 means stored upright.

    Args:
        path: Image file.

    Raises:
        InputError: See `read_rgb`; only problems that the header shows are found.
    """
    with _open_image(path) as image:
        return stored_orientation(image)


def _unsupported(path: FilePath, problem: str, action: str) -> InputError:
    return InputError(path, found=problem, expected=_EXPECTED, action=action, reason="unsupported")


@contextmanager
def _open_image(path: FilePath) -> Iterator[Image.Image]:
    """Open an image and read its header; errors of the decoder inside the context are InputErrors."""
    with _decoding(path, _EXPECTED) as file:
        yield open_image(path, file)


@contextmanager
def _decoding(path: FilePath, expected: str) -> Iterator[BinaryIO]:
    """Open a file whose decoder's errors become InputErrors."""
    with open_input(path, expected=expected) as file, _without_exif_warnings(), decoding(path, expected=expected):
        yield file


@contextmanager
def _without_exif_warnings() -> Iterator[None]:
    """Silence warnings of Pillow about unusual EXIF fields; only the orientation is used here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _plain_colour(path: FilePath, image: Image.Image) -> PlainColour:
    if getattr(image, "is_animated", False):
        action = "save each image as a separate file"
        raise _unsupported(path, "several images in one file", action)
    if image.mode == "P":
        return _palette_colour(image)
    if image.mode in ("RGB", "RGBA"):
        return "rgb"
    if image.mode in ("L", "LA"):
        return "grey"
    action = "save the image as 8-bit RGB or grey"
    raise _unsupported(path, f"the colour model {image.mode}", action)


def _palette_colour(image: Image.Image) -> PlainColour:
    entries = image.getpalette("RGB")
    if not entries:
        raise ValueError("a palette image without a palette")
    palette = np.array(entries).reshape(-1, 3)  # [entries, 3]
    return "grey" if (palette == palette[:, :1]).all() else "rgb"


def _check_colour(path: FilePath, colour: PlainColour, expected: PlainColour) -> None:
    if colour != expected:
        raise InputError(
            path,
            found=_NAMES[colour],
            expected=f"{_NAMES[expected]}, as in training",
            action="use the camera settings of the training images, or train on images like this one",
            reason="unsupported",
        )


def _opaque(path: FilePath, image: Image.Image) -> Image.Image:
    """Return the image without an alpha channel or transparent colour, if no pixel is transparent."""
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    lowest = int(np.asarray(rgba)[..., 3].min())
    if lowest < 255:
        action = "save the image without an alpha channel"
        raise _unsupported(path, f"transparent pixels (alpha {lowest})", action)
    return rgba
