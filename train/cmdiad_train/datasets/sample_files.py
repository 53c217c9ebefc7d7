"""Where one sample of a data set lies, and reading it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers import read_rgb, read_xyz
from cmdiad_runtime.readers.image import Colour
from cmdiad_runtime.sample import Mask, Sample

GOOD = "good"
"""What a sample without a defect is called in folders and in `SampleFiles.defect`."""


@dataclass(frozen=True)
class SampleFiles:
    """Where one sample lies.

    Attributes:
        name: split, defect and number, as `test/dent/003`.
        defect: "good", or the defect's name.
        rgb: image file, or None where the modality was not asked for.
        xyz: cloud file, likewise.
        ground_truth: mask of the defect; None for good samples and for a defect that nobody has drawn.
        mask_level: grey values of the mask above this are defect.
    """

    name: str
    defect: str
    rgb: Path | None
    xyz: Path | None
    ground_truth: Path | None
    mask_level: int = 127

    @property
    def has_mask(self) -> bool:
        """Whether it is known which pixels are defective; always so for a good sample."""
        return self.defect == GOOD or self.ground_truth is not None

    def read(self, colour: Colour = "rgb") -> Sample:
        """Read the sample; raises InputError for files that cannot be used."""
        rgb = None if self.rgb is None else read_rgb(self.rgb, colour=colour)
        xyz = None if self.xyz is None else read_xyz(self.xyz)
        if rgb is not None and xyz is not None and rgb.shape[:2] != xyz.shape[:2]:
            raise InputError(
                str(self.xyz),
                found=f"a cloud of {xyz.shape[:2]} pixels beside an image of {rgb.shape[:2]}",
                expected="rgb and xyz registered pixel by pixel",
                action=f"check that {self.rgb} belongs to it",
            )
        return Sample(str(self.rgb or self.xyz), rgb=rgb, xyz=xyz)

    def read_mask(self, shape: tuple[int, int]) -> Mask:
        """The defect's mask bool `[h, w]`, all False for a good sample.

        Raises:
            InputError: it cannot be read, has another shape, or there is none for this defect (see `has_mask`).
        """
        if not self.has_mask:
            raise InputError(
                str(self.rgb or self.xyz),
                found=f"no mask for this sample of the defect {self.defect}",
                expected="one where single pixels are to be judged",
                action="draw it, or ask for image-level figures only",
            )
        if self.ground_truth is None:
            return np.zeros(shape, dtype=bool)
        mask = read_grey(self.ground_truth) > self.mask_level
        if mask.shape != shape:
            raise InputError(
                self.ground_truth,
                found=f"a mask of {mask.shape} pixels",
                expected=f"{shape}, as its sample",
                action="check that it belongs to the sample",
            )
        return mask


def read_grey(path: Path) -> npt.NDArray[np.uint8]:
    """Read a mask as grey values, uint8 `[h, w]`, 0-255; raises InputError where that fails."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            path,
            found=f"a mask that cannot be read ({error})",
            expected="an image in one of the formats that Pillow knows",
            action="save it again as PNG",
        ) from error
