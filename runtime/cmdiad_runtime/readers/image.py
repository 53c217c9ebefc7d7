"""Reader of 8-bit images: PNG, JPEG, BMP, TIFF, WebP and JPEG 2000.

Pixels are returned exactly as stored. No colour profile, gamma or rotation is applied, because training and the
inspection line must see the same numbers. An image that requires such a decision (16 bits, CMYK, transparency, an
EXIF rotation) is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
from PIL import ExifTags, Image

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers._files import FilePath, decoding, open_input
from cmdiad_runtime.readers._image_formats import open_image
from cmdiad_runtime.sample import RgbImage

Colour = Literal["rgb", "grey"]
"""Kind of image that a camera delivers and a detector is trained on: colour, or one grey channel."""

_EXPECTED = "an 8-bit colour or grey image (PNG, JPEG, BMP, TIFF, WebP or JPEG 2000)"
_NAMES: dict[Colour, str] = {"rgb": "a colour image", "grey": "a grey image"}


def read_rgb(path: FilePath, *, colour: Colour = "rgb") -> RgbImage:
    """Read an 8-bit image.

    Palette colours are looked up and a fully opaque alpha channel is dropped; neither loses information. An image with
    an EXIF rotation is refused: if the rotation were ignored, viewers and drawn masks would differ from the pixels, and
    if the rotation were applied, the image would no longer be registered to the point cloud.

    Args:
        path: Image file. The content, not the name, decides about the format.
        colour: Kind of image that the detector was trained on. A `"grey"` image is returned with three equal channels.

    Returns:
        uint8 `[h, w, 3]`, RGB order, 0-255, as stored.

    Raises:
        InputError: The file is missing, empty, damaged, in another format, beyond a limit (see `limits`), grey
            instead of colour or the reverse, not 8-bit, CMYK, rotated by EXIF or partly transparent, or holds several
            images.
    """
    with _open_image(path) as image:
        _check_colour(path, _plain_colour(path, image), colour)
        image.load()
        _check_orientation(path, image)
        return np.array(_opaque(path, image).convert("RGB"), dtype=np.uint8)


def image_colour(path: FilePath) -> Colour:
    """Return the kind of image in a file, from the header.

    The file format decides, not the pixels: a grey part in the image of a colour camera is still `"rgb"`. A palette
    that contains only greys is `"grey"`.

    Args:
        path: Image file.

    Raises:
        InputError: See `read_rgb`; only problems that the header shows are found.
    """
    with _open_image(path) as image:
        return _plain_colour(path, image)


def _unsupported(path: FilePath, problem: str, action: str) -> InputError:
    return InputError(path, found=problem, expected=_EXPECTED, action=action, reason="unsupported")


@contextmanager
def _open_image(path: FilePath) -> Iterator[Image.Image]:
    """Open an image and read its header; errors of the decoder inside the context are InputErrors."""
    with (
        open_input(path, expected=_EXPECTED) as file,
        _without_exif_warnings(),
        decoding(path, expected=_EXPECTED),
    ):
        yield open_image(path, file)


@contextmanager
def _without_exif_warnings() -> Iterator[None]:
    """Silence warnings of Pillow about unusual EXIF fields; only the orientation is used here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _plain_colour(path: FilePath, image: Image.Image) -> Colour:
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


def _palette_colour(image: Image.Image) -> Colour:
    entries = image.getpalette("RGB")
    if not entries:
        raise ValueError("a palette image without a palette")
    palette = np.array(entries).reshape(-1, 3)  # [entries, 3]
    return "grey" if (palette == palette[:, :1]).all() else "rgb"


def _check_colour(path: FilePath, colour: Colour, expected: Colour) -> None:
    if colour != expected:
        raise InputError(
            path,
            found=_NAMES[colour],
            expected=f"{_NAMES[expected]}, as in training",
            action="use the camera settings of the training images, or train on images like this one",
            reason="unsupported",
        )


def _check_orientation(path: FilePath, image: Image.Image) -> None:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in range(2, 9):
        raise InputError(
            path,
            found=f"an EXIF orientation of {orientation}",
            expected="pixels stored upright (orientation 1)",
            action="switch off automatic rotation in the camera, or save the image upright without the EXIF tag",
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
