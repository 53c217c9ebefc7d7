"""The part view: the part found in the image, turned upright and cut out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image, ImageFilter

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.names import Sensors
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.cloud.surface import SurfaceImage, surface_image
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.view_settings import PartSettings
from cmdiad_runtime.preprocess.views.cutout import cut_around_part
from cmdiad_runtime.preprocess.views.part_pose import (
    ImagePose,
    find_image_pose,
    learn_part_settings,
    turned,
    view_to_sensor,
)
from cmdiad_runtime.preprocess.views.place import PaddedSquare, PartPlace
from cmdiad_runtime.preprocess.views.prepared import Prepared
from cmdiad_runtime.preprocess.views.strategy import LocatedPart, check_contrast
from cmdiad_runtime.sample import Mask, RgbImage, Sample

_ANTIALIAS = 0.4  # standard deviation of the blur, in pixels of the view


@dataclass(frozen=True)
class PartView:
    """The view of the part cut out of the image; surface normals are rotated with the part.

    Attributes:
        preprocessing: Settings of the preprocessing.
        settings: Settings of this view.
        modality: Modalities that are cut out.
    """

    preprocessing: Preprocessing
    settings: PartSettings
    modality: Sensors

    @staticmethod
    def locate(sample: Sample, geometry: PartGeometry) -> LocatedPart:
        """Find the part in the image; see `View`."""
        _part_in_image(geometry)
        cutout = cut_around_part(geometry.rgb, geometry.image_regions)
        return LocatedPart(image=(cutout.rgb, cutout.mask))

    @staticmethod
    def learn(parts: Sequence[LocatedPart], preprocessing: Preprocessing) -> Preprocessing:
        """Learn template and scale from the images of the training parts; see `View`."""
        images = [part.image for part in parts if part.image is not None]
        settings = learn_part_settings([rgb for rgb, _ in images], [mask for _, mask in images])
        return replace(preprocessing, part=settings)

    def prepare(self, sample: Sample, geometry: PartGeometry, shown: RgbImage | None = None) -> Prepared:
        """Return the network inputs of a sample, cut out of the image at the part; see `View`.

        Args:
            sample: Sample in whose image the part is found.
            geometry: Geometry of the sample.
            shown: Another image of the part in the same pixels, uint8 `[h, w, 3]`, which is cut out with the pose and
                the outline of the part in the image of the sample; None cuts out the image of the sample.
        """
        check_contrast(geometry.rgb, sample.name)
        _part_in_image(geometry)
        size, side = self.preprocessing.size, self.settings.side
        cutout = cut_around_part(geometry.rgb, geometry.image_regions, scale=side / size)
        inside = find_image_pose(cutout.rgb, cutout.mask, self.settings.array, self.settings.pitch / cutout.step)
        pose = cutout.to_sensor(inside)
        inputs: dict[str, npt.NDArray[Any]] = {}
        if self.modality != "rgb":
            inputs["surface"] = draw_turned_normals(geometry, pose, size=size, side=side)[None]
        if self.modality != "xyz":
            if shown is not None:
                cutout = cut_around_part(shown, geometry.image_regions, scale=side / size)
            drawn = draw_part_view(cutout.rgb, cutout.mask, inside, size=size, side=side / cutout.step)
            inputs["rgb"] = drawn[None]
        place = PartPlace(pose, side)
        return Prepared(inputs, PaddedSquare.of(geometry.rgb, self.preprocessing.pad_multiple), (place,))


def _part_in_image(geometry: PartGeometry) -> None:
    """Raise InputError unless the image shows a part."""
    if not geometry.image_regions.part.any():
        raise InputError(
            geometry.name,
            found="no part in the image",
            expected="a part that is brighter than its support and does not fill the picture",
            action="check camera, light and part, or train with --view sensor",
            reason="no-part",
        )


def draw_part_view(rgb: RgbImage, mask: Mask, pose: ImagePose, *, size: int, side: float) -> RgbImage:
    """Draw the part in the template's pose, without its support.

    Colours are averaged over the part's pixels alone, so that the support does not mix into the part's rim.

    Args:
        rgb: Image uint8 `[h, w, 3]`, RGB order, 0-255.
        mask: The part's pixels, bool `[h, w]`.
        pose: Pose of the part, of `find_image_pose`.
        size: Rows and columns of the view.
        side: Length of the view's edge, sensor pixels.

    Returns:
        uint8 `[size, size, 3]`, RGB order: 1-255 on the part, 0 off the part.
    """
    coverage = Image.fromarray(mask.astype(np.uint8) * np.uint8(255))
    weighted = Image.fromarray(rgb)
    weighted.putalpha(coverage)
    smooth = _blurred(weighted.convert("RGBa"), coverage.getbbox(), _ANTIALIAS * side / size)  # colours times coverage
    view = np.asarray(turned(smooth, pose, side / size, size).convert("RGBA"))
    on_part = view[..., 3] > 127
    return np.dstack([np.maximum(view[..., channel], 1) * on_part for channel in range(3)])


def _blurred(image: Image.Image, box: tuple[int, int, int, int] | None, sigma: float) -> Image.Image:
    """Blur an image that is 0 outside of a box (left, top, right, bottom), without work on the rest of the image.

    Pillow blurs with three box filters, each of which reaches at most sigma + 1 pixels. The result is therefore the
    same as that of the whole image.
    """
    if box is None:
        return image
    reach = 3 * (math.ceil(sigma) + 1)
    left, top, right, bottom = box
    around = (
        max(left - reach, 0),
        max(top - reach, 0),
        min(right + reach, image.width),
        min(bottom + reach, image.height),
    )
    blurred = Image.new(image.mode, image.size)
    blurred.paste(image.crop(around).filter(ImageFilter.GaussianBlur(sigma)), around)
    return blurred


def draw_turned_normals(geometry: PartGeometry, pose: ImagePose, *, size: int, side: float) -> SurfaceImage:
    """Draw the surface normals in the pose of an image.

    Args:
        geometry: Geometry of the sample.
        pose: Pose of the part in the image registered with the cloud.
        size: Rows and columns of the view.
        side: Length of the view's edge, sensor pixels.

    Returns:
        float32 `[size, size, 3]`, 0-255 as in `surface_image`, 0 off the part.

    Raises:
        InputError: The cloud cannot be used (see `PartGeometry.part`).
    """
    image = surface_image(geometry.xyz, geometry.part, kind="normals")
    source = view_to_sensor(pose, size=size, side=side)
    c, s = np.cos(pose.angle), np.sin(pose.angle)
    known = image.any(axis=2)
    share = scipy.ndimage.map_coordinates(known.astype(np.float32), source, order=1)
    x, y, z = (scipy.ndimage.map_coordinates((image[..., i] - 127.5) * known, source, order=1) for i in range(3))
    normals = np.stack([c * x + s * y, c * y - s * x, z], axis=2) / np.maximum(share, 1e-6)[..., None] + 127.5
    return np.where(share[..., None] >= 0.5, normals, 0).astype(np.float32)
