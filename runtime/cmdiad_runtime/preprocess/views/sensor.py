"""The sensor view: the image and the cloud as recorded, padded to a square and resized."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.preprocess.cloud.centred_depth import CentredKind, centred_depth_image
from cmdiad_runtime.preprocess.cloud.cloud_inputs import frame_cloud, prepare_cloud
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.cloud.published_surface import PublishedKind, published_image
from cmdiad_runtime.preprocess.cloud.surface import SurfaceKind, resize_surface, surface_image
from cmdiad_runtime.preprocess.image.padding import pad_to_square
from cmdiad_runtime.preprocess.image.resize import resize_rgb
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.patches import patch_inputs
from cmdiad_runtime.preprocess.views.place import PaddedSquare
from cmdiad_runtime.preprocess.views.prepared import Prepared
from cmdiad_runtime.preprocess.views.strategy import LocatedPart, check_contrast
from cmdiad_runtime.sample import Sample

_Inputs = dict[str, npt.NDArray[Any]]
_ImageKind = SurfaceKind | PublishedKind | CentredKind


@dataclass(frozen=True)
class SensorView:
    """The view of the sensor itself; nothing is learned.

    Attributes:
        preprocessing: Settings of the preprocessing.
    """

    preprocessing: Preprocessing

    @staticmethod
    def locate(sample: Sample, geometry: PartGeometry) -> LocatedPart:
        """Return an empty result: this view follows no part."""
        return LocatedPart()

    @staticmethod
    def learn(parts: Sequence[LocatedPart], preprocessing: Preprocessing) -> Preprocessing:
        """Return the preprocessing unchanged."""
        return preprocessing

    def prepare(self, sample: Sample, geometry: PartGeometry) -> Prepared:
        """Return the network inputs of a sample as recorded; see `View`."""
        inputs: _Inputs = {}
        if self.preprocessing.modality != "rgb":
            inputs |= self._cloud_inputs(geometry)
        if self.preprocessing.modality != "xyz":
            inputs["rgb"] = self._image(sample, geometry)
        recorded = sample.rgb if sample.rgb is not None else geometry.xyz
        return Prepared(inputs, PaddedSquare.of(recorded, self.preprocessing.pad_multiple))

    def _cloud_inputs(self, geometry: PartGeometry) -> _Inputs:
        settings = self.preprocessing
        if settings.xyz_feed == "patches":
            frame = frame_cloud(geometry, size=settings.size, pad_multiple=settings.pad_multiple)
            return patch_inputs(frame, settings, geometry.name)
        if settings.xyz_feed != "points":
            return {"surface": self._surface(geometry, settings.xyz_feed)}
        cloud, frame = prepare_cloud(
            geometry,
            size=settings.size,
            pad_multiple=settings.pad_multiple,
            groups=settings.groups,
            group_size=settings.group_size,
            grid=settings.grid,
        )
        inputs: _Inputs = {
            "centers": cloud.centers[None],
            "groups": cloud.groups[None],
            "weights": cloud.weights,
            "cells": cloud.cells,
        }
        return inputs | {"xyz": frame.xyz[None]} if settings.xyz_image else inputs

    def _surface(self, geometry: PartGeometry, kind: _ImageKind) -> npt.NDArray[np.float32]:
        size = self.preprocessing.size
        match kind:
            case "pseudo-normals" | "published-depth":
                geometry.check_array()
                return published_image(geometry.xyz, kind=kind, size=size, name=geometry.name)[None]
            case "centred-depth":
                geometry.check_array()
                return centred_depth_image(geometry.xyz, size=size, name=geometry.name)[None]
            case "normals" | "depth":
                image = surface_image(geometry.xyz, geometry.part, kind=kind)
                square = pad_to_square(image, multiple=self.preprocessing.pad_multiple)
                return resize_surface(square, size)[None]

    def _image(self, sample: Sample, geometry: PartGeometry) -> npt.NDArray[np.uint8]:
        rgb = geometry.rgb
        check_contrast(rgb, sample.name)
        if self.preprocessing.rgb_mask == "cloud":
            rgb = np.where(geometry.foreground[..., None], rgb, np.uint8(0))
            check_contrast(rgb, sample.name)
        square = pad_to_square(rgb, multiple=self.preprocessing.pad_multiple)
        return resize_rgb(square, self.preprocessing.size, rgb_filter=self.preprocessing.rgb_filter)[None]
