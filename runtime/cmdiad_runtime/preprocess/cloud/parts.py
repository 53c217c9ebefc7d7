"""Several parts in one cloud: each is a cluster off the support plane."""

from __future__ import annotations

from cmdiad_runtime.preprocess.cloud.clustering import largest_clusters
from cmdiad_runtime.preprocess.cloud.foreground import off_support
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.cloud.support_plane import Plane
from cmdiad_runtime.sample import Mask


class OnePartGeometry(PartGeometry):
    """Geometry of one of several parts in a sample. Plane and valid pixels are those of the whole sample.

    Args:
        whole: Geometry of the sample.
        cloud: The part's pixels in the cloud, bool `[h, w]`; None if the view does not use the cloud.
        image: The part's pixels in the image, bool `[h, w]`; None if the view does not find parts in the image.
    """

    def __init__(self, whole: PartGeometry, *, cloud: Mask | None, image: Mask | None) -> None:
        super().__init__(whole.sample, foreground=whole.removes_background)
        self._whole, self._cloud, self._image = whole, cloud, image

    @property
    def image_part(self) -> Mask | None:
        """Return the part's pixels in the image, bool `[h, w]`, or None."""
        return self._image

    @property
    def valid(self) -> Mask:
        """Return the pixels with a point, bool `[h, w]`."""
        return self._whole.valid

    @property
    def support(self) -> Plane | None:
        """Return the plane that the parts lie on, or None if the rim of the cloud shows none."""
        return self._whole.support

    @property
    def foreground(self) -> Mask:
        """Return the part's pixels in the cloud, bool `[h, w]`."""
        return self._whole.foreground if self._cloud is None else self._cloud


def cloud_clusters(geometry: PartGeometry, most: int) -> list[Mask]:
    """Return the pixels of the largest clusters off the support plane, bool `[h, w]` each, largest first.

    Args:
        geometry: Geometry of the sample.
        most: Largest number of clusters to return.

    Raises:
        InputError: The cloud has the wrong type or shape, or no valid point.
    """
    geometry.check_points()
    off = off_support(geometry.xyz, geometry.valid, geometry.support)
    masks = []
    for cluster in largest_clusters(geometry.xyz[off], most):
        mask = off.copy()
        mask[off] = cluster
        masks.append(mask)
    return masks
