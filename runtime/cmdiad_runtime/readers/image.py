"""Reading 8-bit PNG and JPEG images.

Pixels are taken as they are stored: no colour profile, gamma or rotation is applied, because training and
line must see the same numbers. What would need such a decision (16 bits, CMYK, transparency, an EXIF
rotation) is refused.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import numpy as np
from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers._files import FilePath, check_size, decoding, in_memory, open_input
from cmdiad_runtime.sample import RgbImage

Colour = Literal["rgb", "grey"]
"""What a camera delivers, and so what a detector is trained on: colour, or one grey channel."""

_EXPECTED = "an 8-bit colour or grey PNG or JPEG image"
_PNG = b"\x89PNG\r\n\x1a\n"
_JPEG = b"\xff\xd8\xff"
_HEADER_BYTES = 26  # PNG: signature, then the IHDR chunk with bit depth at 24 and colour type at 25
_PNG_PALETTE = 3
_NAMES: dict[Colour, str] = {"rgb": "a colour image", "grey": "a grey image"}


def read_rgb(path: FilePath, *, colour: Colour = "rgb") -> RgbImage:
    """Read an 8-bit PNG or JPEG image.

    A palette is looked up and a fully opaque alpha channel dropped; both lose nothing. An image whose EXIF
    data ask for a rotation is refused: ignoring it would differ from what every viewer (and every drawn
    mask) shows, and applying it would tear the image from the point cloud that it is registered to.

    Args:
        path: the file; its contents, not its name, say whether it is PNG or JPEG.
        colour: what the detector was trained on. A `"grey"` image comes back with its channel three times.

    Returns:
        uint8 `[h, w, 3]`, RGB order, 0-255, as stored.

    Raises:
        InputError: the file is missing, empty, damaged, neither PNG nor JPEG, larger than 100 million pixels,
            grey where colour is expected or the reverse, not 8-bit, CMYK, animated, rotated by EXIF, or
            partly transparent.
    """
    with _open_image(path) as image:
        _check_colour(path, _plain_colour(path, image), colour)
        with decoding(path, expected=_EXPECTED):
            image.load()
            _check_orientation(path, image)
            return np.array(_opaque(path, image).convert("RGB"), dtype=np.uint8)


def image_colour(path: FilePath) -> Colour:
    """Tell from the header of a PNG or JPEG file whether it holds a colour or a grey image.

    The file format decides, not the pixels: a grey part before a colour camera is still `"rgb"`. A palette
    of nothing but greys is `"grey"`.

    Raises:
        InputError: as `read_rgb`, as far as the header tells.
    """
    with _open_image(path) as image:
        return _plain_colour(path, image)


@contextmanager
def _open_image(path: FilePath) -> Iterator[Image.Image]:
    """Open a PNG or JPEG file and read its header."""
    with open_input(path, expected=_EXPECTED) as file, _without_exif_warnings():
        header = file.read(_HEADER_BYTES)
        file.seek(0)
        if not header.startswith((_PNG, _JPEG)):
            action = "save it as PNG or JPEG"
            raise InputError(path, found="a file that is neither PNG nor JPEG", expected=_EXPECTED, action=action)
        with decoding(path, expected=_EXPECTED):
            # The classes instead of Image.open: that one would also try other formats, and warn about size.
            if header.startswith(_PNG):
                image: Image.Image = PngImagePlugin.PngImageFile(in_memory(file))
                _check_depth(path, header)
            else:
                image = JpegImagePlugin.JpegImageFile(file)
        check_size(path, image.height, image.width)
        yield image


@contextmanager
def _without_exif_warnings() -> Iterator[None]:
    """Silence what Pillow says about odd EXIF fields; none but the orientation is used here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _check_depth(path: FilePath, header: bytes) -> None:
    """Refuse 1, 2, 4 and 16 bits per channel, which Pillow would stretch or cut to 8 without a word."""
    depth, colour_type = header[24], header[25]
    if depth != 8 and colour_type != _PNG_PALETTE:
        action = "set the camera to 8 bits per channel"
        raise InputError(path, found=f"{depth} bits per channel", expected=_EXPECTED, action=action)


def _plain_colour(path: FilePath, image: Image.Image) -> Colour:
    if getattr(image, "is_animated", False):
        action = "save one frame as a file of its own"
        raise InputError(path, found="an animated image", expected=_EXPECTED, action=action)
    if image.mode == "P":
        return _palette_colour(image)
    if image.mode in ("RGB", "RGBA"):
        return "rgb"
    if image.mode in ("L", "LA"):
        return "grey"
    action = "save it as 8-bit RGB or grey"
    raise InputError(path, found=f"the colour model {image.mode}", expected=_EXPECTED, action=action)


def _palette_colour(image: Image.Image) -> Colour:
    palette = np.array(image.getpalette("RGB")).reshape(-1, 3)  # [entries, 3]
    return "grey" if (palette == palette[:, :1]).all() else "rgb"


def _check_colour(path: FilePath, found: Colour, wanted: Colour) -> None:
    if found != wanted:
        raise InputError(
            path,
            found=_NAMES[found],
            expected=f"{_NAMES[wanted]}, as in training",
            action="set the camera as it was for the training images, or train on images like this one",
        )


def _check_orientation(path: FilePath, image: Image.Image) -> None:
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in range(2, 9):
        raise InputError(
            path,
            found=f"an EXIF orientation of {orientation}",
            expected="pixels stored upright (orientation 1)",
            action="turn off automatic rotation in the camera, or save the image upright without the tag",
        )


def _opaque(path: FilePath, image: Image.Image) -> Image.Image:
    """Drop an alpha channel or transparent colour that hides no pixel."""
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    lowest = int(np.asarray(rgba)[..., 3].min())
    if lowest < 255:
        action = "save it without an alpha channel"
        raise InputError(path, found=f"transparent pixels (alpha {lowest})", expected=_EXPECTED, action=action)
    return rgba
