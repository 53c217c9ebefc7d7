"""Reading samples from files: colour or grey images, and organised point clouds.

Whatever cannot be read exactly as the sensor wrote it ends in one `InputError`; nothing is guessed or
repaired.
"""

from cmdiad_runtime.readers.image import Colour, image_colour, read_rgb
from cmdiad_runtime.readers.tiff import read_xyz

__all__ = ["Colour", "image_colour", "read_rgb", "read_xyz"]
