"""Reading the files of one sample: image, cloud or both."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cmdiad_runtime.readers import Colour, read_rgb, read_xyz
from cmdiad_runtime.sample import Sample


class ReadFiles(Protocol):
    """A function that reads the files of a sample: `read_files`, or `TimedReader.read_files` with a time limit."""

    def __call__(self, name: str, rgb: Path | None, xyz: Path | None, *, colour: Colour = "rgb") -> Sample:
        """Return the sample; see `read_files`."""


def read_files(name: str, rgb: Path | None, xyz: Path | None, *, colour: Colour = "rgb") -> Sample:
    """Read the files of one sample in this process.

    Args:
        name: Name of the sample.
        rgb: Image file, or None.
        xyz: Cloud file, or None.
        colour: Kind of image that the detector was trained on.

    Raises:
        InputError: A file cannot be read or used.
    """
    cloud = None if xyz is None else read_xyz(xyz)
    image = None if rgb is None else read_rgb(rgb, colour=colour, registered=cloud is not None)
    return Sample(name, rgb=image, xyz=cloud)
