"""From a sample to the network inputs of its modality. Training and line both come through here."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud import part_mask, prepare_cloud
from cmdiad_runtime.preprocess.foreground import foreground_mask, pad_offset, pad_to_square
from cmdiad_runtime.preprocess.resize import resize_ground_truth, resize_rgb
from cmdiad_runtime.sample import Mask, Modality, RgbImage, Sample, Sensors

LEAST_CONTRAST = 8  # grey levels between the darkest and brightest pixel of a usable image


@dataclass(frozen=True)
class Preprocessing:
    """Everything that preprocessing depends on; stored in the run and in the bundle.

    Attributes:
        modality: what of the sample the inputs are made of: `rgb`, `xyz` or `both`.
        size: side of the network's view in pixels.
        pad_multiple: the padded square's side is rounded up to this many pixels (100 as published).
        colour: what kind of image files the detector was trained on.
        rgb_mask: "cloud" blacks out the image's background with the help of the cloud (the paper's
            protocol, needs both files); "none" takes the image as it is.
        foreground: remove support plane and stray clusters from clouds.
        groups: point groups per cloud.
        group_size: points per group.
        grid: side of the grid that point features are pooled to.
        xyz_feed: what the cloud's extractor is fed: "points" (groups of points), or an image of the surface,
            "normals" or "depth".
        xyz_image: also give the resized cloud itself, for a network that takes it as an image.
        seed: of the plane search.
    """

    modality: Sensors
    size: int = 224
    pad_multiple: int = 1
    colour: Literal["rgb", "grey"] = "rgb"
    rgb_mask: Literal["none", "cloud"] = "none"
    foreground: bool = True
    groups: int = 1024
    group_size: int = 128
    grid: int = 56
    xyz_feed: Literal["points", "normals", "depth"] = "points"
    xyz_image: bool = False
    seed: int = 0

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What a sample must have; see `needed_modalities`."""
        return needed_modalities(self.modality, self.rgb_mask)

    @property
    def needs_cloud(self) -> bool:
        """Whether a sample must have a cloud."""
        return "xyz" in self.modalities

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON-ready values."""
        return asdict(self)


@dataclass(frozen=True)
class View:
    """Where the network's square view lies over the sensor's image.

    Attributes:
        height: of the sensor's image, pixels.
        width: of the sensor's image, pixels.
        top: padding above it.
        left: padding left of it.
        side: of the padded square.
    """

    height: int
    width: int
    top: int
    left: int
    side: int

    @staticmethod
    def of(image: npt.NDArray[Any], multiple: int) -> View:
        """The view of an image or cloud `[h, w, 3]`, padded to a square."""
        height, width = image.shape[:2]
        top, left, side = pad_offset(height, width, multiple=multiple)
        return View(height, width, top, left, side)


@dataclass(frozen=True)
class Prepared:
    """Network inputs by name, and how they lie over the sensor's image.

    Attributes:
        inputs: of the cloud first, then of the image. For rgb `rgb` uint8 `[1, size, size, 3]`. For points
            `centers` float32 `[1, G, 3]`, `groups` float32 `[1, G, M, 3]`, `weights` float32 `[R, G]`, `cells`
            int64 `[grid²]` (see CloudInput); for a surface image `surface` float32 `[1, size, size, 3]`, 0 to
            255 (see `surface_image`); with `xyz_image` also `xyz` float32 `[1, size, size, 3]`, metres.
        view: the padded square.
    """

    inputs: dict[str, npt.NDArray[Any]]
    view: View


def needed_modalities(modality: Sensors, rgb_mask: str) -> tuple[Modality, ...]:
    """The modalities that inspecting with `modality` reads: its own, and for a masked image the cloud too."""
    if modality == "both" or (modality == "rgb" and rgb_mask == "cloud"):
        return ("rgb", "xyz")
    return (modality,)


def prepare(sample: Sample, preprocessing: Preprocessing) -> Prepared:
    """The network inputs of a sample.

    Raises:
        InputError: the sample lacks what the modality needs, or cannot be used (see `prepare_cloud`).
    """
    _check_present(sample, preprocessing)
    inputs: dict[str, npt.NDArray[Any]] = {}
    if preprocessing.modality != "rgb":
        inputs |= _prepare_xyz(sample, preprocessing)
    if preprocessing.modality != "xyz":
        inputs["rgb"] = _prepare_rgb(sample, preprocessing)
    image = sample.rgb if sample.rgb is not None else sample.xyz
    assert image is not None
    return Prepared(inputs, View.of(image, preprocessing.pad_multiple))


def _prepare_xyz(sample: Sample, preprocessing: Preprocessing) -> dict[str, npt.NDArray[Any]]:
    assert sample.xyz is not None
    if preprocessing.xyz_feed != "points":
        return {"surface": _prepare_surface(sample, preprocessing)}
    cloud, frame = prepare_cloud(
        sample.xyz,
        size=preprocessing.size,
        grid=preprocessing.grid,
        groups=preprocessing.groups,
        group_size=preprocessing.group_size,
        foreground=preprocessing.foreground,
        pad_multiple=preprocessing.pad_multiple,
        seed=preprocessing.seed,
        name=sample.name,
    )
    inputs: dict[str, npt.NDArray[Any]] = {
        "centers": cloud.centers[None],
        "groups": cloud.groups[None],
        "weights": cloud.weights,
        "cells": cloud.cells,
    }
    if preprocessing.xyz_image:
        inputs["xyz"] = frame.xyz[None]
    return inputs


def prepare_ground_truth(mask: npt.NDArray[np.uint8] | Mask, preprocessing: Preprocessing) -> Mask:
    """A ground-truth mask `[h, w]` in the network's view, bool `[size, size]` (REFERENCE §4)."""
    return resize_ground_truth(pad_to_square(mask, multiple=preprocessing.pad_multiple), preprocessing.size)


def _prepare_surface(sample: Sample, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    from cmdiad_runtime.preprocess.surface import resize_surface, surface_image

    assert sample.xyz is not None
    assert preprocessing.xyz_feed != "points"
    mask = part_mask(sample.xyz, foreground=preprocessing.foreground, seed=preprocessing.seed, name=sample.name)
    image = surface_image(sample.xyz, mask, kind=preprocessing.xyz_feed)
    return resize_surface(pad_to_square(image, multiple=preprocessing.pad_multiple), preprocessing.size)[None]


def _prepare_rgb(sample: Sample, preprocessing: Preprocessing) -> npt.NDArray[np.uint8]:
    assert sample.rgb is not None
    rgb = sample.rgb
    _check_contrast(rgb, sample.name)
    if preprocessing.rgb_mask == "cloud":
        assert sample.xyz is not None
        mask = foreground_mask(sample.xyz, seed=preprocessing.seed)
        rgb = np.where(mask[..., None], rgb, np.uint8(0))
        _check_contrast(rgb, sample.name)
    square = pad_to_square(rgb, multiple=preprocessing.pad_multiple)
    return resize_rgb(square, preprocessing.size)[None]


def _check_present(sample: Sample, preprocessing: Preprocessing) -> None:
    if preprocessing.modality != "xyz" and sample.rgb is None:
        raise _missing(sample, "rgb", f"the detector's modality is {preprocessing.modality}")
    if preprocessing.needs_cloud and sample.xyz is None:
        why = f"the detector's modality is {preprocessing.modality}"
        if preprocessing.modality == "rgb":
            why = "the detector was trained with --rgb-mask cloud"
        raise _missing(sample, "xyz", why)
    if sample.rgb is not None and not _is_image(sample.rgb):
        raise InputError(
            sample.name,
            found=f"an image of {sample.rgb.dtype} {list(sample.rgb.shape)}",
            expected="uint8 [h, w, 3] in RGB order",
            action="convert the image",
        )
    if sample.rgb is not None and sample.xyz is not None and sample.rgb.shape[:2] != sample.xyz.shape[:2]:
        raise InputError(
            sample.name,
            found=f"an image of {sample.rgb.shape[:2]} beside a cloud of {sample.xyz.shape[:2]} pixels",
            expected="rgb and xyz registered pixel by pixel",
            action="check that both files belong to one part",
        )


def _is_image(array: npt.NDArray[Any]) -> bool:
    return array.dtype == np.uint8 and array.ndim == 3 and array.shape[2] == 3 and array.size > 0


def _missing(sample: Sample, modality: Modality, why: str) -> InputError:
    return InputError(
        sample.name,
        found=f"no {modality}",
        expected=f"a sample with {modality}, since {why}",
        action=f"give the {modality} file, or use a bundle for the other modality",
    )


def _check_contrast(rgb: RgbImage, name: str) -> None:
    low, high = int(rgb.min()), int(rgb.max())
    if high - low < LEAST_CONTRAST:
        raise InputError(
            name,
            found=f"an image that is all background (grey levels {low} to {high})",
            expected="a picture of a part",
            action="check camera, light and lens cap",
        )
