"""Prepare the view `top`: the part from straight above its support, turned upright, at one scale.

The cloud is an image of surface normals, or patches of the surface that is seen from above.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.names import Sensors
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.view_settings import TopSettings
from cmdiad_runtime.preprocess.views.patches import patch_inputs
from cmdiad_runtime.preprocess.views.place import PaddedSquare, TopPlace
from cmdiad_runtime.preprocess.views.prepared import Prepared
from cmdiad_runtime.preprocess.views.strategy import LocatedPart, check_contrast
from cmdiad_runtime.preprocess.views.top_drawing import draw_top_view, normal_colours, point_colours, top_frame
from cmdiad_runtime.preprocess.views.top_pose import PartCloud, find_pose, learn_top_settings, part_cloud, top_pixels
from cmdiad_runtime.sample import Sample

LEAST_POINTS = 100
"""Smallest number of points of a part that can be turned upright."""


@dataclass(frozen=True)
class TopView:
    """The view from above the support; colours of the image are drawn at the cloud's points.

    Attributes:
        preprocessing: Settings of the preprocessing.
        settings: Settings of this view.
        modality: Modalities that are drawn.
    """

    preprocessing: Preprocessing
    settings: TopSettings
    modality: Sensors

    @staticmethod
    def locate(sample: Sample, geometry: PartGeometry) -> LocatedPart:
        """Find the part in the cloud; see `View`."""
        return LocatedPart(cloud=_cloud_of(geometry))

    @staticmethod
    def learn(parts: Sequence[LocatedPart], preprocessing: Preprocessing) -> Preprocessing:
        """Learn template and scale from the clouds of the training parts; see `View`."""
        clouds = [part.cloud for part in parts if part.cloud is not None]
        return replace(preprocessing, top=learn_top_settings(clouds))

    def prepare(self, sample: Sample, geometry: PartGeometry) -> Prepared:
        """Return the network inputs of a sample in the top view; see `View`."""
        cloud = _cloud_of(geometry)
        pose = find_pose(cloud, self.settings.array, self.settings.pitch)
        size, side = self.preprocessing.size, self.settings.side
        inputs: dict[str, npt.NDArray[Any]] = {}
        if self.modality != "rgb" and self.preprocessing.xyz_feed == "patches":
            inputs |= patch_inputs(top_frame(cloud, pose, size=size, side=side), self.preprocessing, geometry.name)
        elif self.modality != "rgb":
            inputs["surface"] = draw_top_view(cloud, normal_colours(cloud, pose), pose, size=size, side=side)[None]
        if self.modality != "xyz":
            rgb = geometry.rgb
            check_contrast(rgb, sample.name)
            drawn = draw_top_view(cloud, point_colours(cloud, rgb), pose, size=size, side=side)
            inputs["rgb"] = np.clip(np.rint(drawn), 0, 255).astype(np.uint8)[None]
        place = TopPlace(cloud.pixels, top_pixels(cloud, pose, size=size, side=side))
        return Prepared(inputs, PaddedSquare.of(geometry.xyz, self.preprocessing.pad_multiple), (place,))


def _cloud_of(geometry: PartGeometry) -> PartCloud:
    """Return the part's points in coordinates of the support plane.

    Raises:
        InputError: The cloud cannot be used, or contains too little of a part.
    """
    cloud = part_cloud(geometry.xyz, geometry.part, geometry.support)
    if len(cloud.position) < LEAST_POINTS:
        raise InputError(
            geometry.name,
            found=f"a part of {len(cloud.position)} points with a surface",
            expected=f"at least {LEAST_POINTS}",
            action="check that the whole part is in view",
            reason="no-part",
        )
    return cloud
