"""Masks of one sample's image and cloud, and its support plane, each computed at most once."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.names import Modality
from cmdiad_runtime.preprocess.cloud.clustering import cluster_ranks
from cmdiad_runtime.preprocess.cloud.foreground import off_support
from cmdiad_runtime.preprocess.cloud.support_plane import Plane, fit_support_plane
from cmdiad_runtime.preprocess.cloud.valid import valid_mask
from cmdiad_runtime.preprocess.image.foreground import ImageRegions, image_regions
from cmdiad_runtime.sample import Mask, RgbImage, Sample, XyzImage, describe_array, is_plain_array
from cmdiad_runtime.support.missing_points import without_missing_numbers


class PartGeometry:
    """Lazy geometry of one sample: every property is computed when first read, and kept.

    Every view and modality of a sample uses the same instance, so the plane search and the clustering run once per
    sample. One thread may read properties of the image while another one reads properties of the cloud; otherwise not
    safe for use by several threads at once.

    Args:
        sample: Sample whose cloud is read; a sample without a cloud raises only if a property is read.
        foreground: Remove the support plane and stray clusters from `part`.
        seed: Seed of the plane search.
    """

    def __init__(self, sample: Sample, *, foreground: bool = True, seed: int = 0) -> None:
        self.name = sample.name
        self._sample = sample
        self._foreground = foreground
        self._seed = seed

    @property
    def removes_background(self) -> bool:
        """True if `part` excludes the support plane and stray clusters."""
        return self._foreground

    @cached_property
    def xyz(self) -> XyzImage:
        """Return the cloud, float32 `[h, w, 3]`, metres, zeros for numbers that stand for missing points.

        Raises:
            InputError: The sample has no cloud.
        """
        if self._sample.xyz is None:
            raise _missing(self.name, "xyz", "a sample with an organised cloud", "add the cloud of the sample")
        xyz = self._sample.xyz
        return without_missing_numbers(xyz) if _is_cloud(xyz) else xyz  # `part` refuses other arrays.

    @property
    def rgb(self) -> RgbImage:
        """Return the image, uint8 `[h, w, 3]`.

        Raises:
            InputError: The sample has no image.
        """
        if self._sample.rgb is None:
            raise _missing(self.name, "rgb", "a sample with an image", "add the image of the sample")
        return self._sample.rgb

    @cached_property
    def image_regions(self) -> ImageRegions:
        """Return the bright regions of the image, and the part among them.

        Raises:
            InputError: The sample has no image.
        """
        return image_regions(self.rgb)

    @cached_property
    def valid(self) -> Mask:
        """Return the pixels with a point, bool `[h, w]`."""
        return valid_mask(self.xyz)

    @cached_property
    def support(self) -> Plane | None:
        """Return the plane that the part lies on, or None if the rim of the cloud shows none."""
        return fit_support_plane(self.xyz, seed=self._seed)

    @cached_property
    def off_support(self) -> Mask:
        """Return the pixels with a point off the support plane, bool `[h, w]`; all valid ones if there is no plane."""
        return off_support(self.xyz, self.valid, self.support)

    @cached_property
    def clusters(self) -> npt.NDArray[np.int64]:
        """Return the rank of the cluster of each point of `off_support`, 0 for the largest; -1 without a cluster."""
        return cluster_ranks(self.xyz[self.off_support])

    @cached_property
    def foreground(self) -> Mask:
        """Return the pixels of the largest cluster off the support plane, bool `[h, w]`; all False if there is none."""
        mask = self.off_support.copy()
        mask[mask] = self.clusters == 0
        return mask

    @cached_property
    def part(self) -> Mask:
        """Return the part's pixels, bool `[h, w]`: the foreground, or all valid pixels if the background is kept.

        Raises:
            InputError: The cloud is not float32 `[h, w, 3]`, has no valid point, or only background.
        """
        self.check_array()
        if not self.valid.any():
            raise InputError(
                self.name,
                found="no valid point in the cloud",
                expected="pixels whose x, y and z are finite, not 0, and at most 50 m",
                action="check that the sensor sees the part, the unit is metres, and the file is an xyz image",
                reason="no-points",
            )
        if not self._foreground:
            return self.valid
        if not self.foreground.any():
            raise InputError(
                self.name,
                found="only background in the cloud",
                expected="a part standing at least 5 mm off its support",
                action="check that a part is in view and that the unit is metres, or turn background removal off",
                reason="no-part",
            )
        return self.foreground

    def check_array(self) -> None:
        """Raise InputError if the cloud is not float32 `[h, w, 3]`, or absent."""
        check_cloud_array(self.xyz, self.name)


def _missing(name: str, modality: Modality, expected: str, action: str) -> InputError:
    return InputError(name, found=f"no {modality}", expected=expected, action=action, reason="missing-modality")


def check_cloud_array(xyz: object, name: str) -> None:
    """Raise InputError unless a value is an organised cloud, float32 `[h, w, 3]`.

    Args:
        xyz: Value in place of a cloud.
        name: Name of the sample, for the message.
    """
    if not _is_cloud(xyz):
        raise InputError(
            name,
            found=f"a cloud of {describe_array(xyz)}",
            expected="an organised cloud, float32 [h, w, 3] in metres",
            action="give x, y, z per pixel as the sensor sees them",
            reason="wrong-array",
        )


def _is_cloud(xyz: object) -> bool:
    return is_plain_array(xyz) and xyz.ndim == 3 and xyz.shape[2] == 3 and xyz.dtype == np.float32
