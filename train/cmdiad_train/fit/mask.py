"""The inspection mask of a training (`--mask`): reading, checks, and the region of the view that it becomes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image

from cmdiad_runtime.errors import InputError, RunError
from cmdiad_runtime.preprocess.ignored_region import IgnoredRegion
from cmdiad_runtime.preprocess.prepare import prepare_parts
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.masking import regions_in_view
from cmdiad_runtime.preprocess.views.prepared import Prepared
from cmdiad_runtime.sample import Mask, Sample

_EXPECTED = "an 8-bit grey PNG of the size of the training pictures: white (255) is ignored, black (0) is inspected"

LEAST_INSPECTED = 64
"""Smallest number of pixels of a view that a mask must leave: one cell of 8 x 8 pixels, the finest of any detector.
Whatever lies in a smaller remainder has hardly any influence on a score."""


@dataclass(frozen=True)
class InspectionMask:
    """A region of the training pictures that never decides a verdict.

    Attributes:
        path: File of the mask, for messages.
        ignored: True where the mask is white, bool `[h, w]`.
    """

    path: Path
    ignored: Mask

    @cached_property
    def digest(self) -> str:
        """Return the SHA-256 digest of size and pixels, 64 hexadecimal digits; the same for any file format."""
        size = " ".join(map(str, self.ignored.shape)).encode()
        return hashlib.sha256(size + b"\n" + np.packbits(self.ignored).tobytes()).hexdigest()

    def save(self, path: Path) -> None:
        """Write the mask as PNG."""
        Image.fromarray(self.ignored.astype(np.uint8) * np.uint8(255)).save(path)


def read_inspection_mask(path: Path) -> InspectionMask:
    """Read an inspection mask.

    Raises:
        InputError: The file cannot be read, or is no black and white picture.
        RunError: The mask ignores everything or nothing.
    """
    ignored = _read_grey(path) == 255
    if ignored.all() or not ignored.any():
        raise _refused(path, "white everywhere" if ignored.all() else "black everywhere", "both black and white")
    return InspectionMask(path, ignored)


def _read_grey(path: Path) -> npt.NDArray[np.uint8]:
    if not path.exists():
        raise InputError(path, found="no such file", expected=_EXPECTED, action="Check --mask", reason="missing-file")
    if not path.is_file():
        raise InputError(
            path, found="a folder or device", expected=_EXPECTED, action="Check --mask", reason="not-a-file"
        )
    try:
        with Image.open(path) as image:
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            if image.mode not in ("L", "1") or not upright:
                raise InputError(
                    path,
                    found=f"a picture with pixels of the kind {image.mode}" + ("" if upright else ", turned by EXIF"),
                    expected=_EXPECTED,
                    action="Save the mask as 8-bit grey PNG without colours, transparency and rotation",
                    reason="unsupported",
                )
            grey = np.asarray(image.convert("L"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            path, found=f"a mask that cannot be read ({error})", expected=_EXPECTED, action="Check --mask"
        ) from error
    if ((grey != 0) & (grey != 255)).any():
        raise InputError(
            path,
            found="a mask with grey values between black and white",
            expected=_EXPECTED,
            action="Draw the mask without soft edges and save it as PNG, not as JPEG",
            reason="unsupported",
        )
    return grey


def check_mask_size(mask: InspectionMask, sample: Sample) -> None:
    """Raise RunError if a mask has another size than the picture of a sample."""
    shape, expected = mask.ignored.shape, _recorded(sample).shape[:2]
    if shape != expected:
        raise RunError(
            mask.path,
            found=f"a mask of {shape[1]} x {shape[0]} pixels",
            expected=f"{expected[1]} x {expected[0]}, the size of {sample.name}",
            action="Draw the mask over a training picture as viewers show it",
        )


def with_mask(mask: InspectionMask, sample: Sample, preprocessing: Preprocessing) -> Preprocessing:
    """Return the preprocessing with the region of the view that a mask ignores.

    In the sensor view the region is fixed. In other views it is fixed to the part: the mask is moved with the pose of
    the part in this sample; with several parts in the sample, of the first part in reading order.

    Args:
        mask: Mask.
        sample: Sample that the mask was drawn over.
        preprocessing: Settings with the learned view, without a mask.

    Raises:
        RunError: The region contains nothing of the part, or leaves less than `LEAST_INSPECTED` pixels of a view.
    """
    prepared = prepare_parts(sample, preprocessing)[0]
    regions = regions_in_view(mask.ignored, prepared, preprocessing)
    if not prepared.places:
        share = float(mask.ignored.mean())
        _check_remainder(mask, [~region for region in regions], sample)
    else:
        parts = _part_in_views(prepared)
        ignored = sum(int((region & part).sum()) for region, part in zip(regions, parts, strict=True))
        share = ignored / max(sum(int(part.sum()) for part in parts), 1)
        if ignored == 0:
            raise _refused(mask.path, f"a region that does not touch the part in {sample.name}", "a region on the part")
        _check_remainder(mask, [part & ~region for region, part in zip(regions, parts, strict=True)], sample)
    return replace(preprocessing, ignored=IgnoredRegion.of(regions, _recorded(sample).shape[:2], share))


def _check_remainder(mask: InspectionMask, remainders: list[Mask], sample: Sample) -> None:
    """Raise RunError if a view is left with less than `LEAST_INSPECTED` pixels to inspect."""
    least = min(int(remainder.sum()) for remainder in remainders)
    if least < LEAST_INSPECTED:
        raise _refused(
            mask.path,
            f"a region that leaves {least} pixels of the view to inspect in {sample.name}"
            if least
            else f"a region that covers the whole part in {sample.name}",
            f"at least {LEAST_INSPECTED} pixels, about one cell of a detector",
        )


def _part_in_views(prepared: Prepared) -> list[Mask]:
    """Return the part's pixels in each view, bool `[size, size]`."""
    images = [prepared.inputs[name][0].any(axis=2) for name in ("surface", "rgb") if name in prepared.inputs]
    return images[: len(prepared.places)]


def _recorded(sample: Sample) -> npt.NDArray[np.generic]:
    recorded = sample.xyz if sample.rgb is None else sample.rgb
    assert recorded is not None
    return recorded


def _refused(path: Path, found: str, expected: str) -> RunError:
    return RunError(path, found=found, expected=expected, action="Draw the mask again, or leave out --mask")
