"""Prepare one sample: scanned ones of MVTec 3D-AD, rendered ones of Eyecandies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.image.padding import pad_to_square
from cmdiad_runtime.readers import image_colour, read_rgb
from cmdiad_runtime.readers.mask import read_mask
from cmdiad_train.datasets.layouts.eyecandies import RawSample
from cmdiad_train.datasets.prepare import writing
from cmdiad_train.datasets.prepare.background import remove_background
from cmdiad_train.datasets.prepare.eyecandies_cloud import read_cloud
from cmdiad_train.datasets.sample_files import GOOD, SampleFiles


def prepare_scanned(files: SampleFiles, folder: Path) -> bool:
    """Write the prepared copy of one sample of MVTec 3D-AD.

    Args:
        files: Files of the raw sample.
        folder: Folder of the prepared category.

    Returns:
        True if the copy was written, False if it exists already.

    Raises:
        InputError: The sample cannot be used.
        OutputError: A file cannot be written.
    """
    assert files.xyz is not None
    split, defect, stem = files.name.split("/")
    target = folder / split / defect
    mask = files.ground_truth or _good_mask(files.xyz)
    rgb_out = None if files.rgb is None else target / "rgb" / f"{stem}.png"
    mask_out = None if mask is None else target / "gt" / f"{stem}.png"
    xyz_out = target / "xyz" / f"{stem}.tiff"
    if all(path.exists() for path in (rgb_out, mask_out, xyz_out) if path is not None):
        return False
    colour: Colour = "rgb" if files.rgb is None else image_colour(files.rgb)
    sample = files.read(colour)
    assert sample.xyz is not None
    xyz, rgb = remove_background(sample.xyz, sample.rgb, name=str(files.xyz))
    if mask is not None and mask_out is not None:
        grey = read_mask(mask).astype(np.uint8) * np.uint8(255)
        _check_size(mask, grey, sample.xyz)
        writing.write_png(mask_out, pad_to_square(grey))
    if rgb is not None and rgb_out is not None:
        writing.write_png(rgb_out, rgb if colour == "rgb" else rgb[..., 0])
    writing.write_tiff(xyz_out, xyz)
    return True


def prepare_rendered(raw: RawSample, folder: Path) -> bool:
    """Write the prepared copy of one sample of Eyecandies. The image is copied as it is.

    Args:
        raw: Files of the raw sample.
        folder: Folder of the prepared category.

    Returns:
        True if the copy was written, False if it exists already.

    Raises:
        InputError: The sample cannot be used.
        OutputError: A file cannot be written.
    """
    mask = None if raw.mask is None else read_mask(raw.mask).astype(np.uint8) * np.uint8(255)
    place = folder / "train" / GOOD if mask is None else folder / "test" / ("bad" if mask.any() else GOOD)
    rgb_out, xyz_out, mask_out = (
        place / "rgb" / f"{raw.number}.png",
        place / "xyz" / f"{raw.number}.tiff",
        place / "gt" / f"{raw.number}.png",
    )
    if all(path.exists() for path in (rgb_out, xyz_out, *([] if mask is None else [mask_out]))):
        return False
    image = read_rgb(raw.image, registered=True)
    cloud = read_cloud(raw).astype(np.float32)
    _check_size(raw.depth, cloud, image)
    if mask is not None and raw.mask is not None:
        _check_size(raw.mask, mask, image)
        writing.write_png(mask_out, mask)
    writing.write_bytes(rgb_out, raw.image.read_bytes())
    writing.write_tiff(xyz_out, cloud)
    return True


def _good_mask(xyz: Path) -> Path | None:
    """Return the empty mask that the data set has for a good test sample, or None if there is none."""
    mask = xyz.parent.parent / "gt" / f"{xyz.stem}.png"
    return mask if mask.is_file() else None


def _check_size(path: Path, array: npt.NDArray[Any], other: npt.NDArray[Any]) -> None:
    """Raise InputError if a file's array differs in height or width from another file of the sample."""
    if array.shape[:2] != other.shape[:2]:
        raise InputError(
            path,
            found=f"{array.shape[:2]} pixels, but {other.shape[:2]} in another file of the sample",
            expected="the same size in all files of a sample",
            action="Check that the file belongs to the sample",
        )
