"""Orientation of an image: how the stored pixels must be turned to stand upright, as viewers show them.

CIPA DC-008-2012 (EXIF 2.3), tag 274, which is also a tag of TIFF (Adobe, TIFF Revision 6.0, 1992). PNG, JPEG and WebP
files can contain EXIF. BMP and JPEG 2000 have no orientation.
"""

from __future__ import annotations

import re

from PIL import ExifTags, Image, TiffImagePlugin

from cmdiad_runtime.readers._files import ContentError

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""Operation that turns the stored pixels upright, for each orientation. Pillow rotates counterclockwise."""
_XMP_KEYS = ("XML:com.adobe.xmp", "xmp")
_XMP_TURNED = re.compile(r"tiff:Orientation\s*(?:=\s*[\"']|>)\s*([2-8])")


def load_upright(image: Image.Image, *, registered: bool = False) -> Image.Image:
    """Load the pixels of an image and turn them upright.

    An orientation that EXIF does not define (0, 9, text) means nothing, as in viewers.

    Args:
        image: Opened image.
        registered: True if the pixels belong to those of another file, which would not be turned with them.

    Returns:
        Image with the pixels as viewers show them; for orientations 5 to 8, width and height are swapped.

    Raises:
        ContentError: A registered image is stored turned; the EXIF data are damaged; or only XMP has an orientation,
            which some viewers follow and others ignore.
    """
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        image.load()  # The EXIF data of a PNG file may follow its pixels. Pillow itself turns TIFF images in `load`.
    xmp = [image.info.pop(key, "") for key in _XMP_KEYS]  # Pillow would take the orientation from there.
    orientation = stored_orientation(image)
    if registered and orientation != 1:
        raise ContentError(
            f"an EXIF orientation of {orientation} in an image that belongs to another file pixel by pixel",
            "switch off automatic rotation in the camera, or save all files of the sample turned, without the tag",
        )
    _check_xmp(image, xmp)
    image.load()
    turn = _TURNS.get(stored_orientation(image))
    return image if turn is None else image.transpose(turn)


def stored_orientation(image: Image.Image) -> int:
    """Return the orientation in the EXIF data or in the tag of TIFF, 1 to 8; 1 if there is none or a meaningless one.

    Raises:
        ContentError: The EXIF data are damaged.
    """
    try:
        value = _exif(image).get(ExifTags.Base.Orientation)
    except MemoryError:
        raise
    except Exception as error:  # The kind depends on the damage: SyntaxError, struct.error, ValueError and others.
        action = "save the image again without EXIF data, upright as viewers show it"
        raise ContentError("damaged EXIF data", action, "unreadable") from error
    return next((orientation for orientation in _TURNS if orientation == value), 1)


def _exif(image: Image.Image) -> Image.Exif:
    """Return the EXIF data alone. Pillow may have added an orientation of XMP to `getexif` when it opened a file."""
    if "exif" not in image.info or isinstance(image, TiffImagePlugin.TiffImageFile):
        return image.getexif()
    exif = Image.Exif()
    exif.load(image.info["exif"])
    return exif


def _check_xmp(image: Image.Image, packets: list[str | bytes]) -> None:
    """Raise ContentError if XMP has an orientation, and EXIF has none."""
    if ExifTags.Base.Orientation in _exif(image):
        return
    for packet in packets:
        text = packet.decode("utf-8", "replace") if isinstance(packet, bytes) else packet
        if match := _XMP_TURNED.search(text):
            problem = f"an orientation of {match[1]} in XMP, but none in EXIF, which viewers show in different ways"
            raise ContentError(problem, "save the image upright, without XMP data")
