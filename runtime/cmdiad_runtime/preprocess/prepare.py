"""Preparation of a sample for the network. Training and inspection both use this module."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry, check_cloud_array
from cmdiad_runtime.preprocess.image.padding import pad_to_square
from cmdiad_runtime.preprocess.image.resize import resize_ground_truth
from cmdiad_runtime.preprocess.settings import Preprocessing, needed_modalities
from cmdiad_runtime.preprocess.views.masking import check_size, masked
from cmdiad_runtime.preprocess.views.prepared import Prepared
from cmdiad_runtime.preprocess.views.registry import view_of
from cmdiad_runtime.preprocess.views.several import parts_of
from cmdiad_runtime.preprocess.views.strategy import LEAST_CONTRAST, part_geometry
from cmdiad_runtime.sample import Mask, Sample, describe_array, is_plain_array
from cmdiad_runtime.support import sizes

__all__ = [
    "LEAST_CONTRAST",
    "Prepared",
    "Preprocessing",
    "check_present",
    "needed_modalities",
    "part_geometry",
    "prepare",
    "prepare_ground_truth",
    "prepare_parts",
]


def prepare(sample: Sample, preprocessing: Preprocessing) -> Prepared:
    """Return the network inputs of a sample with one part.

    Args:
        sample: Sample with the modalities of `preprocessing.modalities`.
        preprocessing: Settings of the preprocessing for one part, of the run or the bundle.

    Raises:
        InputError: The sample lacks a modality, or cannot be used (see `PartGeometry.part`).
        ValueError: The settings are for several parts; see `prepare_parts`.
    """
    (prepared,) = prepare_parts(sample, preprocessing)
    return prepared


def prepare_parts(
    sample: Sample, preprocessing: Preprocessing, geometry: PartGeometry | None = None
) -> tuple[Prepared, ...]:
    """Return the network inputs of each part in a sample, in reading order.

    Args:
        sample: Sample with the modalities of `preprocessing.modalities`.
        preprocessing: Settings of the preprocessing, of the run or the bundle.
        geometry: Geometry of the sample if it was used before, so that nothing is computed twice; None makes a new one.

    Raises:
        InputError: The sample lacks a modality, cannot be used, or has another number of parts.
    """
    check_present(sample, preprocessing)
    check_size(sample, preprocessing)
    view = view_of(preprocessing)
    geometry = geometry or part_geometry(sample, preprocessing)
    prepared = (view.prepare(sample, part) for part in parts_of(geometry, preprocessing))
    return tuple(masked(part, preprocessing.ignored) for part in prepared)


def prepare_ground_truth(mask: npt.NDArray[np.uint8] | Mask, preprocessing: Preprocessing) -> Mask:
    """Return a ground-truth mask `[h, w]` over the padded square, bool `[size, size]` (method §4)."""
    return resize_ground_truth(pad_to_square(mask, multiple=preprocessing.pad_multiple), preprocessing.size)


def check_present(sample: Sample, preprocessing: Preprocessing) -> None:
    """Raise InputError if a sample lacks a modality, is too large, or if image and cloud do not fit each other."""
    if preprocessing.modality != "xyz" and sample.rgb is None:
        raise _missing(
            sample, preprocessing.image_modality, f"the detector's modality is {preprocessing.modality_name}"
        )
    if preprocessing.needs_cloud and sample.xyz is None:
        reason = f"the detector's modality is {preprocessing.modality}"
        if preprocessing.modality == "rgb":
            reason = "the detector was trained with --rgb-mask cloud"
        raise _missing(sample, "xyz", reason)
    if sample.rgb is not None and not _is_image(sample.rgb):
        raise InputError(
            sample.name,
            found=f"an image of {describe_array(sample.rgb)}",
            expected="uint8 [h, w, 3] in RGB order",
            action="convert the image",
            reason="wrong-array",
        )
    if sample.rgb is not None and not sizes.image_fits(*sample.rgb.shape[:2]):
        raise _too_large(sample, sample.rgb, "pixels", sizes.image_limits())
    if preprocessing.needs_cloud and sample.xyz is not None:
        check_cloud_array(sample.xyz, sample.name)
        if not sizes.cloud_fits(*sample.xyz.shape[:2]):
            raise _too_large(sample, sample.xyz, "points", sizes.cloud_limits())
    if sample.rgb is not None and isinstance(sample.xyz, np.ndarray) and sample.rgb.shape[:2] != sample.xyz.shape[:2]:
        raise InputError(
            sample.name,
            found=f"an image of {sample.rgb.shape[:2]} and a cloud of {sample.xyz.shape[:2]} pixels",
            expected="rgb and xyz registered pixel by pixel",
            action="check that both files belong to one part",
            reason="size-mismatch",
        )


def _is_image(array: npt.NDArray[Any]) -> bool:
    return (
        is_plain_array(array) and array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size > 0
    )


def _too_large(sample: Sample, array: npt.NDArray[Any], unit: str, expected: str) -> InputError:
    height, width = array.shape[:2]
    return InputError(
        sample.name,
        found=f"{width}×{height} {unit}",
        expected=expected,
        action="crop or shrink the sensor's image",
        reason="too-large",
    )


def _missing(sample: Sample, modality: str, reason: str) -> InputError:
    return InputError(
        sample.name,
        found=f"no {modality}",
        expected=f"a sample with {modality}, since {reason}",
        action=f"give the {modality} file, or use a bundle for the other modality",
        reason="missing-modality",
    )
