"""Opening of grey images of 16 bits, which no other reader of images accepts: PNG and TIFF."""

from __future__ import annotations

from typing import BinaryIO

from PIL import Image, PngImagePlugin, TiffImagePlugin

from cmdiad_runtime.readers._files import GREY16, PNG_SIGNATURE, ContentError, FilePath, bounded, check_size
from cmdiad_runtime.readers._tiff_image import TIFF_SIGNATURES, check_tiff_image


def open_grey16(path: FilePath, file: BinaryIO) -> Image.Image:
    """Open a grey image of 16 bits and read its header.

    Args:
        path: File, for messages.
        file: The same file, at its beginning.

    Raises:
        InputError: The image has too many pixels.
        ContentError: The image is no PNG or TIFF file with one channel of 16 bits, or a limit is exceeded.
        Exception: The file is damaged; the kind depends on the decoder.
    """
    header = file.read(len(PNG_SIGNATURE))
    file.seek(0)
    image: Image.Image
    if header.startswith(PNG_SIGNATURE):
        image = PngImagePlugin.PngImageFile(bounded(file))
        check_size(path, image.height, image.width)
    elif header.startswith(TIFF_SIGNATURES):
        check_tiff_image(path, file, bits=16)
        file.seek(0)
        image = TiffImagePlugin.TiffImageFile(bounded(file))
    else:
        raise ContentError("an image of another format", GREY16)
    if not image.mode.startswith("I;16"):
        raise ContentError("an image that is not grey with 16 bits", GREY16)
    return image
