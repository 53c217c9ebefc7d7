"""The files of one sample of a data set, and how they are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from cmdiad_runtime.colour import Colour, range_of
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.readers import PlainColour, image_colour, read_rgb, read_xyz
from cmdiad_runtime.readers.depth import intrinsics_places
from cmdiad_runtime.readers.image import image_orientation, is_grey16, read_grey16
from cmdiad_runtime.readers.mask import read_mask
from cmdiad_runtime.sample import Mask, Sample

GOOD = "good"
"""Name of samples without a defect, in folders and in `SampleFiles.defect`."""


_OVER_UPRIGHT = (
    "The mask has the size of the image as stored, before its EXIF orientation is applied. Turn the mask upright, or "
    "draw it over the image as viewers show it"
)


@dataclass(frozen=True)
class SampleFiles:
    """The files of one sample.

    Attributes:
        name: Split, defect and number, for example `test/dent/003`.
        defect: "good", or the name of the defect.
        rgb: Image file, or None if the modality was not requested.
        xyz: Cloud file, or None if the modality was not requested.
        ground_truth: Mask file of the defect; None for good samples and for defects that have no mask.
        mask_level: Mask pixels with a grey value above this belong to the defect, if the data set defines such a
            value; None for the rules of `read_mask`.
        part: Number of a part in the sample, from 0 in reading order (`--parts`).
        session: Name of the session of a good sample that `--calibration` adds; "" for the data set itself.
    """

    name: str
    defect: str
    rgb: Path | None
    xyz: Path | None
    ground_truth: Path | None
    mask_level: int | None = None
    part: int = 0
    session: str = ""

    @property
    def has_mask(self) -> bool:
        """Return True if the defective pixels are known, which is always the case for a good sample."""
        return self.defect == GOOD or self.ground_truth is not None

    @property
    def measured(self) -> dict[str, Path]:
        """Return the files that `read` needs, by `rgb`, `xyz` and `intrinsics` (of a depth image)."""
        places = [] if self.xyz is None else intrinsics_places(self.xyz)
        paths = {"rgb": self.rgb, "xyz": self.xyz, "intrinsics": next(filter(Path.is_file, places), None)}
        return {name: path for name, path in paths.items() if path is not None}

    def read(self, colour: Colour = "rgb") -> Sample:
        """Read the sample.

        Args:
            colour: Kind of image files that is accepted.

        Raises:
            InputError: A file cannot be read, or image and cloud differ in size.
        """
        rgb = None if self.rgb is None else read_rgb(self.rgb, colour=colour, registered=self.xyz is not None)
        xyz = None if self.xyz is None else read_xyz(self.xyz)
        if rgb is not None and xyz is not None and rgb.shape[:2] != xyz.shape[:2]:
            raise InputError(
                str(self.xyz),
                found=f"a cloud of {_size(xyz.shape)} pixels and an image of {_size(rgb.shape)} pixels",
                expected="rgb and xyz registered pixel by pixel",
                action=f"Check that {self.rgb} belongs to this cloud",
                reason="size-mismatch",
            )
        return Sample(str(self.rgb or self.xyz), rgb=rgb, xyz=xyz)

    def read_mask(self, shape: tuple[int, int]) -> Mask:
        """Read the mask of the defect.

        Args:
            shape: Height and width of the sample in pixels.

        Returns:
            bool `[h, w]`, all False for a good sample.

        Raises:
            InputError: The mask cannot be read, has another shape, or does not exist (see `has_mask`).
        """
        if not self.has_mask:
            raise InputError(
                str(self.rgb or self.xyz),
                found=f"no mask for this sample of the defect {self.defect}",
                expected="a mask for pixel-level metrics; image-level metrics need none",
                action="Draw the mask, or ignore this line",
                reason="missing-file",
            )
        if self.ground_truth is None:
            return np.zeros(shape, dtype=bool)
        mask = read_mask(self.ground_truth, level=self.mask_level)
        if mask.shape != shape:
            turned = mask.shape == shape[::-1] and self._is_turned()
            raise InputError(
                self.ground_truth,
                found=f"a mask of {_size(mask.shape)} pixels",
                expected=f"{_size(shape)}, the size of the {'upright image' if turned else 'sample'}",
                action=_OVER_UPRIGHT if turned else "Check that the mask belongs to the sample",
                reason="size-mismatch",
            )
        return mask

    def _is_turned(self) -> bool:
        """Return True if the image has an EXIF orientation that is applied when it is read."""
        orientation = guarded(str(self.rgb), partial(image_orientation, self.rgb)) if self.rgb else 1
        return isinstance(orientation, int) and orientation != 1


def _size(shape: tuple[int, ...]) -> str:
    """Return width and height of an array `[h, w, …]` as text."""
    return f"{shape[1]}×{shape[0]}"


def data_colour(samples: Sequence[SampleFiles]) -> Colour:
    """Return the kind of most images of a data set; images that cannot be read do not count.

    If most are grey images of 16 bits, all of these are read to measure the range of their values.
    """
    images = [files.rgb for files in samples if files.rgb is not None]
    deep: list[Path] = []
    colours: Counter[PlainColour] = Counter()
    for image in images:
        colour = guarded(str(image), partial(image_colour, image))
        if isinstance(colour, str):
            colours[colour] += 1
        elif is_grey16(image):
            deep.append(image)
    if colours and 2 * len(deep) <= len(images):
        return colours.most_common(1)[0][0]
    values = (guarded(str(image), partial(read_grey16, image)) for image in deep)
    return range_of(array for array in values if isinstance(array, np.ndarray)) or "rgb"
