"""Evidence of good training samples for and against a part that stands out from its support.

The runtime takes the largest region brighter than the support for the part. This module asks, independently of that
segmentation, what else is in the picture: a background is fitted to the colours at the rim of the picture, and
everything that differs from it is content. A view that leaves out much of the content inspects the wrong thing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import scipy
from PIL import Image, ImageFilter

from cmdiad_runtime.preprocess.image.foreground import ImageRegions, image_foreground
from cmdiad_runtime.preprocess.inspected_area.measure import PartFacts
from cmdiad_runtime.sample import Mask, RgbImage
from cmdiad_train.fit.limits import SECOND_REGION

TAMPERED_SAMPLES = 8
"""Good samples that are tampered to test which defects the part view shows."""

_TAMPERED_PLACES = 8
_TAMPERED_RADIUS = 0.03  # of the shorter edge
_TAMPERED_LEVELS = 60
_EXCEPTIONS = 0.1  # share of the good samples that may be odd

_MOST_CONTENT = 0.5  # outside of the part, as a share of its area; shadows and reflections stay below 0.35
_MOST_EDGES = 0.15  # area with edges outside of the part, as a share of its area; good classes stay below 0.08
_LEAST_CONTRAST = 25.0  # grey levels between part and support
_LEAST_SHOWN = 0.75  # share of tampered places that the part view must show
_MOST_RIM = 0.1  # share of the outermost pixels of the picture that the part covers
_MOST_SPREAD = 3.0  # ratio of large to small parts
_MOST_STRAY = 0.25  # points off the support outside of the part, as a share of its points

_EDGE = 200  # pixels: size at which content is sought
_RIM = 0.06  # of the longer edge: width of the frame that the background is fitted to
_NEAR = 6  # pixels around the part that belong to neither
_LEAST_DIFFERENCE = 6.0  # grey levels between content and background
_ROUNDS = 4


@dataclass(frozen=True)
class ImageEvidence:
    """Content of one good image.

    Attributes:
        content: Area outside of the part that differs from the background, as a share of the part's area.
        edges: Area outside of the part with edges, as a share of the part's area.
        contrast: Difference of the median brightness of part and support, grey levels.
        shown: Share of tampered places that the part's outline contains, or None if the sample was not tampered.
    """

    content: float
    edges: float
    contrast: float
    shown: float | None = None


def image_evidence(rgb: RgbImage, regions: ImageRegions, *, tampered: bool, seed: int) -> ImageEvidence:
    """Return the evidence of one good image, which must show a part.

    Args:
        rgb: Image uint8 `[h, w, 3]`, RGB order, 0-255.
        regions: Regions of the image.
        tampered: True to test which defects the outline of the part contains.
        seed: Seed of the tampered places.
    """
    step = max(1, round(max(regions.part.shape) / _EDGE))
    small = Image.fromarray(rgb).reduce(step * regions.factor).filter(ImageFilter.GaussianBlur(1.0))
    colour = np.asarray(small, dtype=np.float64)
    part = np.asarray(Image.fromarray(regions.part.astype(np.uint8) * np.uint8(255)).reduce(step)) > 127
    near = scipy.ndimage.binary_dilation(part, iterations=_NEAR)
    difference, tolerance = _from_background(colour, near)
    content = scipy.ndimage.binary_opening(difference > tolerance)
    brightness = colour.max(axis=2)
    gradient = np.hypot(*np.gradient(brightness))
    flat = np.median(gradient[~near]) if not near.all() else 0.0
    area = max(int(part.sum()), 1)
    support = brightness[~near] if not near.all() else brightness
    shown = _shown(rgb, content | part, step * regions.factor, seed) if tampered else None
    return ImageEvidence(
        content=float((content & ~near).sum() / area),
        edges=float(((gradient > max(2.0, 4 * flat)) & ~near).sum() / area),
        contrast=float(np.median(brightness[part]) - np.median(support)) if part.any() else 0.0,
        shown=shown,
    )


def against_image(parts: Sequence[PartFacts], evidence: Sequence[ImageEvidence]) -> str:
    """Return why the parts of good images do not stand out from their background, as text, or "" if they do."""
    content, edges, contrast = (
        float(np.median([getattr(sample, name) for sample in evidence])) for name in ("content", "edges", "contrast")
    )
    shown = [sample.shown for sample in evidence if sample.shown is not None]
    if content > _MOST_CONTENT:
        return f"what would be taken for the part leaves out other content, as large as {content:.0%} of that region"
    reason = _against_regions(parts, "a second bright region", SECOND_REGION)
    if reason:
        return reason
    if edges > _MOST_EDGES:
        return f"the picture has structure outside of the part, on {edges:.0%} of the part's area"
    if contrast < _LEAST_CONTRAST:
        return f"part and background differ by only {contrast:.0f} grey levels"
    if shown and float(np.mean(shown)) < _LEAST_SHOWN:
        return f"only {float(np.mean(shown)):.0%} of the tampered places lie on what is taken for the part"
    return ""


def against_cloud(parts: Sequence[PartFacts], stray: Sequence[float]) -> str:
    """Return why the largest cluster of good clouds is not the only part, as text, or "" if it is."""
    reason = _against_regions(parts, "a second cluster of points", 2 * SECOND_REGION)
    if reason:
        return reason
    share = float(np.median(np.array(stray) / np.maximum([part.area for part in parts], 1e-6)))
    if share > _MOST_STRAY:
        return f"points off the support that belong to no part are {share:.0%} of the part's points"
    return ""


def _against_regions(parts: Sequence[PartFacts], what: str, least: float) -> str:
    second = np.array([part.regions[1] / part.regions[0] if len(part.regions) > 1 else 0.0 for part in parts])
    several = second >= least
    if several.mean() > _EXCEPTIONS:
        size = float(np.median(second[several]))
        return f"{several.sum()} of {len(parts)} good samples have {what}, of {size:.0%} of the largest one's area"
    rim = float(np.median([part.rim for part in parts]))
    if rim > _MOST_RIM:
        return f"what is taken for the part covers {rim:.0%} of the edge of the picture"
    low, high = np.quantile([part.area for part in parts], (0.05, 0.95))
    if high > _MOST_SPREAD * max(low, 1e-6):
        return f"the area of what is taken for the part varies from {low:.1%} to {high:.1%} of the picture"
    return ""


def _from_background(colour: npt.NDArray[np.float64], near: Mask) -> tuple[npt.NDArray[np.float64], float]:
    """Return the largest difference over the channels from a background that varies linearly, and its tolerance.

    The background is fitted to the frame of the picture, without outliers. Where the part covers nearly all of the
    frame, the frame is used as it is.
    """
    height, width = near.shape
    frame = np.ones((height, width), dtype=np.bool_)
    rim = max(2, round(_RIM * max(height, width)))
    frame[rim:-rim, rim:-rim] = False
    usable = (frame & ~near).ravel()
    usable = usable if usable.sum() > rim * rim else frame.ravel()
    rows, columns = np.mgrid[:height, :width]
    terms = np.stack([np.ones(height * width), rows.ravel() / height - 0.5, columns.ravel() / width - 0.5], axis=1)
    values, fitted = colour.reshape(-1, 3), usable
    residual = np.abs(values - np.median(values[usable], axis=0))  # the median withstands a rail along one edge
    for _ in range(_ROUNDS):
        spread = np.maximum(1.4826 * np.median(residual[fitted], axis=0), 0.5)
        inliers = usable & (residual < 3 * spread).all(axis=1)
        fitted = inliers if inliers.sum() > rim * rim else fitted
        plane = np.linalg.lstsq(terms[fitted], values[fitted], rcond=None)[0]
        residual = np.abs(values - terms @ plane)
    spread = np.maximum(1.4826 * np.median(residual[fitted], axis=0), 0.5)
    tolerance = max(_LEAST_DIFFERENCE, 4 * float(spread.max()))
    return residual.max(axis=1).reshape(height, width), tolerance


def _shown(rgb: RgbImage, content: Mask, scale: int, seed: int) -> float:
    """Return the share of tampered places on the content whose greater part lies within the part's outline.

    Each place is a disc that is made brighter, or darker where it is bright; the part is sought again in each copy.
    """
    generator = np.random.default_rng(seed)
    rows, columns = np.nonzero(content)
    radius = max(3.0, _TAMPERED_RADIUS * min(rgb.shape[:2]))
    down, right = np.ogrid[: rgb.shape[0], : rgb.shape[1]]
    shown = []
    for place in range(_TAMPERED_PLACES):
        i = int(generator.integers(len(rows)))
        disc = (down - (rows[i] + 0.5) * scale) ** 2 + (right - (columns[i] + 0.5) * scale) ** 2 <= radius**2
        level = rgb[disc].mean(axis=0)
        darker = place % 2 == 1 and level.max() > 1.5 * _TAMPERED_LEVELS
        copy = rgb.copy()
        copy[disc] = np.clip(level + (-_TAMPERED_LEVELS if darker else _TAMPERED_LEVELS), 0, 255)
        shown.append(float(image_foreground(copy)[disc].mean() > 0.5))
    return float(np.mean(shown))
