"""From a sample to the network inputs of its modality. Training and line both come through here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud.cloud_inputs import part_and_support, part_mask, prepare_cloud
from cmdiad_runtime.preprocess.cloud.foreground import foreground_mask, pad_to_square
from cmdiad_runtime.preprocess.cloud.surface import resize_surface, surface_image
from cmdiad_runtime.preprocess.image.resize import resize_ground_truth, resize_rgb
from cmdiad_runtime.preprocess.views.part_view import (
    ImagePose,
    ImageViewSettings,
    find_image_pose,
    image_foreground,
    image_view,
)
from cmdiad_runtime.preprocess.views.place import ImagePlace, Place, PlanPlace, View
from cmdiad_runtime.preprocess.views.top_settings import PlanSettings
from cmdiad_runtime.preprocess.views.top_view import (
    PlanCloud,
    find_pose,
    normal_colours,
    plan_cloud,
    plan_pixels,
    plan_view,
    point_colours,
)
from cmdiad_runtime.sample import Mask, Modality, RgbImage, Sample, Sensors

LEAST_POINTS = 100  # of a part that shall be turned upright
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
        plan: turn parts upright and look at them from above their support (needs a cloud; see `plan_view`); None
            looks as the sensor does.
        part: find the part in the image, turn it upright and cut it out (needs an image; see `image_view`). With
            `plan` too, each modality is seen in its own view: the cloud from above, the image cut out.
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
    plan: PlanSettings | None = None
    part: ImageViewSettings | None = None
    xyz_image: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if isinstance(self.plan, dict):  # as JSON has it
            object.__setattr__(self, "plan", PlanSettings(**self.plan))
        if isinstance(self.part, dict):
            object.__setattr__(self, "part", ImageViewSettings(**self.part))

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
class Prepared:
    """Network inputs by name, and how they lie over the sensor's image.

    Attributes:
        inputs: of the cloud first, then of the image. For rgb `rgb` uint8 `[1, size, size, 3]`. For points
            `centers` float32 `[1, G, 3]`, `groups` float32 `[1, G, M, 3]`, `weights` float32 `[R, G]`, `cells`
            int64 `[grid²]` (see CloudInput); for a surface image `surface` float32 `[1, size, size, 3]`, 0 to
            255 (see `surface_image`); with `xyz_image` also `xyz` float32 `[1, size, size, 3]`, metres.
        view: the padded square.
        places: where the part lay, in views that follow it: one for all, or one for each modality's own view, in the
            order of `inputs`; none where the view is the padded square.
    """

    inputs: dict[str, npt.NDArray[Any]]
    view: View
    places: tuple[Place, ...] = ()

    def to_sensor(self, anomaly_map: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The graph's map as one over the sensor's padded square, float32 `[size, size]`.

        Args:
            anomaly_map: over the network's view, float32 `[size, size]`; where each modality has its own view one map
                for each, `[maps, size, size]`, which add up.
        """
        if anomaly_map.ndim == 2:
            return self.each_to_sensor(anomaly_map[None])[0]
        return np.asarray(self.each_to_sensor(anomaly_map).sum(axis=0))

    def each_to_sensor(self, maps: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Maps over their views, float32 `[maps, size, size]`, as maps over the sensor's padded square."""
        if not self.places:
            return maps
        places = self.places * len(maps) if len(self.places) == 1 else self.places
        return np.stack([place.to_sensor(each, self.view) for place, each in zip(places, maps, strict=True)])


def needed_modalities(modality: Sensors, rgb_mask: str) -> tuple[Modality, ...]:
    """The modalities that inspecting with `modality` reads: its own, and for a masked image the cloud too.

    A plan view of an image alone is refused by the recipe, so it needs no case here.
    """
    if modality == "both" or (modality == "rgb" and rgb_mask == "cloud"):
        return ("rgb", "xyz")
    return (modality,)


def prepare(sample: Sample, preprocessing: Preprocessing) -> Prepared:
    """The network inputs of a sample.

    Raises:
        InputError: the sample lacks what the modality needs, or cannot be used (see `prepare_cloud`).
    """
    _check_present(sample, preprocessing)
    if preprocessing.plan is not None and preprocessing.part is not None:
        return prepare_each(sample, preprocessing, preprocessing.plan, preprocessing.part)
    if preprocessing.plan is not None:
        return prepare_plan(sample, preprocessing, preprocessing.plan)
    if preprocessing.part is not None:
        return prepare_part(sample, preprocessing, preprocessing.part)
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


def plan_cloud_of(sample: Sample, preprocessing: Preprocessing) -> PlanCloud:
    """The part's points on its support plane.

    Raises:
        InputError: the cloud cannot be used, or too little of a part is in it.
    """
    assert sample.xyz is not None
    mask, plane = part_and_support(
        sample.xyz, foreground=preprocessing.foreground, seed=preprocessing.seed, name=sample.name
    )
    cloud = plan_cloud(sample.xyz, mask, plane)
    if len(cloud.position) < LEAST_POINTS:
        raise InputError(
            sample.name,
            found=f"a part of {len(cloud.position)} points with a surface",
            expected=f"at least {LEAST_POINTS}",
            action="check that the whole part is in view",
        )
    return cloud


def prepare_plan(sample: Sample, preprocessing: Preprocessing, plan: PlanSettings) -> Prepared:
    """The network inputs of a sample in a plan view; the image's colours are drawn at the cloud's points."""
    cloud = plan_cloud_of(sample, preprocessing)
    pose = find_pose(cloud, plan.array, plan.pitch)
    size = preprocessing.size
    inputs: dict[str, npt.NDArray[Any]] = {}
    if preprocessing.modality != "rgb":
        inputs["surface"] = plan_view(cloud, normal_colours(cloud, pose), pose, size=size, side=plan.side)[None]
    if preprocessing.modality != "xyz":
        assert sample.rgb is not None
        _check_contrast(sample.rgb, sample.name)
        drawn = plan_view(cloud, point_colours(cloud, sample.rgb), pose, size=size, side=plan.side)
        inputs["rgb"] = np.clip(np.rint(drawn), 0, 255).astype(np.uint8)[None]
    assert sample.xyz is not None
    place = PlanPlace(cloud.pixels, plan_pixels(cloud, pose, size=size, side=plan.side))
    return Prepared(inputs, View.of(sample.xyz, preprocessing.pad_multiple), (place,))


def part_in_image(sample: Sample) -> Mask:
    """The part's pixels bool `[h, w]` in a sample's image; InputError where there is none."""
    assert sample.rgb is not None
    mask = image_foreground(sample.rgb)
    if not mask.any():
        raise InputError(
            sample.name,
            found="no part in the image",
            expected="a part that is brighter than its support and does not fill the picture",
            action="check camera, light and part, or train with --view sensor",
        )
    return mask


def prepare_part(sample: Sample, preprocessing: Preprocessing, part: ImageViewSettings) -> Prepared:
    """The network inputs of a sample, cut out of the image where the part lies; normals are turned with it."""
    assert sample.rgb is not None
    _check_contrast(sample.rgb, sample.name)
    mask = part_in_image(sample)
    pose = find_image_pose(sample.rgb, mask, part.array, part.pitch)
    size = preprocessing.size
    inputs: dict[str, npt.NDArray[Any]] = {}
    if preprocessing.modality != "rgb":
        inputs["surface"] = _turned_surface(sample, preprocessing, pose, part.side)[None]
    if preprocessing.modality != "xyz":
        inputs["rgb"] = image_view(sample.rgb, mask, pose, size=size, side=part.side)[None]
    return Prepared(inputs, View.of(sample.rgb, preprocessing.pad_multiple), (ImagePlace(pose, part.side),))


def prepare_each(sample: Sample, preprocessing: Preprocessing, plan: PlanSettings, part: ImageViewSettings) -> Prepared:
    """The network inputs of a sample, each modality in its own view: the cloud from above, the image cut out."""
    seen = []
    if preprocessing.modality != "rgb":
        seen.append(prepare_plan(sample, replace(preprocessing, modality="xyz"), plan))
    if preprocessing.modality != "xyz":
        seen.append(prepare_part(sample, replace(preprocessing, modality="rgb"), part))
    inputs = {name: value for each in seen for name, value in each.inputs.items()}
    return Prepared(inputs, seen[0].view, tuple(place for each in seen for place in each.places))


def _turned_surface(
    sample: Sample, preprocessing: Preprocessing, pose: ImagePose, side: float
) -> npt.NDArray[np.float32]:
    """The normals of a cloud as an image `[size, size, 3]` in an image's pose, 0 to 255, 0 off the part."""
    assert sample.xyz is not None
    mask = part_mask(sample.xyz, foreground=preprocessing.foreground, seed=preprocessing.seed, name=sample.name)
    image = surface_image(sample.xyz, mask, kind="normals")
    size = preprocessing.size
    steps = (np.arange(size) - (size - 1) / 2) * side / size
    down, right = np.meshgrid(steps, steps, indexing="ij")
    c, s = np.cos(pose.angle), np.sin(pose.angle)
    place = [pose.y + s * right + c * down, pose.x + c * right - s * down]
    known = image.any(axis=2)
    share = scipy.ndimage.map_coordinates(known.astype(np.float32), place, order=1)
    x, y, z = (scipy.ndimage.map_coordinates((image[..., i] - 127.5) * known, place, order=1) for i in range(3))
    turned = np.stack([c * x + s * y, c * y - s * x, z], axis=2) / np.maximum(share, 1e-6)[..., None] + 127.5
    return np.where(share[..., None] >= 0.5, turned, 0).astype(np.float32)


def prepare_ground_truth(mask: npt.NDArray[np.uint8] | Mask, preprocessing: Preprocessing) -> Mask:
    """A ground-truth mask `[h, w]` in the network's view, bool `[size, size]` (REFERENCE §4)."""
    return resize_ground_truth(pad_to_square(mask, multiple=preprocessing.pad_multiple), preprocessing.size)


def _prepare_surface(sample: Sample, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
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
