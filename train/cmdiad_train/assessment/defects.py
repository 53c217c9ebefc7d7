"""Realistic defects on good samples of real parts, the same in image and cloud where the defect is physical.

Sizes are fractions of the size of the part, which is the edge of a square with the area of the part. A change of shape
moves points along the normal of the surface, and changes the brightness of the image as the light of the sample would.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import scipy

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.cloud.surface import normals_and_pitch, surface_normals
from cmdiad_runtime.sample import Mask, RgbImage, Sample, XyzImage

Raster = npt.NDArray[np.float64]
"""float64 `[h, w]`."""
Range = tuple[float, float]

_DARKEST, _BRIGHTEST = 0.25, 2.5
"""Limits of the change of brightness by a change of shape."""
_STAINS = ((40, 26, 18), (140, 70, 30), (215, 210, 195))
"""Colours of oil, rust and chalk, RGB 0-255."""
_RESIDUES = ((150, 45, 25), (45, 42, 40), (190, 180, 140))
"""Colours of sealing compound, burnt crumbs and paste, RGB 0-255."""
_BARE = ((35, 35, 35), (225, 222, 218))
"""Colours of a scratched surface, RGB 0-255."""


@dataclass(frozen=True)
class Defect:
    """Sensors, sizes and function of a kind of defect.

    Attributes:
        sensors: Sensors that measure the defect: "camera", "3D" or "both".
        radius: Smallest and largest half width as a fraction of the size of the part; of a scratch, half its length.
        height: Smallest and largest change of height as a fraction of the size of the part.
        inflict: Function that returns a sample with the defect: (rng, part, radius in pixels, height in metres).
    """

    sensors: str
    radius: Range
    height: Range
    inflict: Callable[[np.random.Generator, GoodPart, float, float], Sample]


class GoodPart:
    """Pixels, surface and light of the part in a good sample.

    Args:
        sample: Good sample with an image and a registered cloud.

    Attributes:
        sample: The sample.
        rgb: Image of the sample, uint8 `[h, w, 3]`.
        pixels: Pixels of the part, bool `[h, w]`.
        normals: Unit normals towards the sensor float32 `[h, w, 3]`, 0 where unknown.
        pitch: Distance between neighbouring pixels on the part, metres.

    Raises:
        InputError: The sample lacks image or cloud, or the cloud has no surface.
    """

    def __init__(self, sample: Sample) -> None:
        geometry = PartGeometry(sample)
        geometry.check_array()
        self.sample, self.rgb = sample, geometry.rgb
        self.pixels: Mask = geometry.foreground if geometry.foreground.any() else geometry.valid
        self.normals, self.pitch = normals_and_pitch(self.xyz, self.pixels)
        if not np.isfinite(self.pitch) or not self._lit.any():
            raise InputError(
                sample.name, found="a cloud without a surface", expected="neighbouring points", action="Check the cloud"
            )

    @property
    def xyz(self) -> XyzImage:
        """Return the cloud, float32 `[h, w, 3]`, metres."""
        assert self.sample.xyz is not None
        return self.sample.xyz

    @property
    def size(self) -> float:
        """Return the size of the part in pixels."""
        return float(np.sqrt(np.count_nonzero(self.pixels)))

    @cached_property
    def _lit(self) -> Mask:
        return np.asarray(self.pixels & self.normals.any(axis=2) & (self.rgb.max(axis=2) < 250))

    @cached_property
    def _depth(self) -> Raster:
        """Return the distance of each pixel of the part from the rim, in pixels."""
        return np.asarray(scipy.ndimage.distance_transform_edt(np.pad(self.pixels, 1))[1:-1, 1:-1])

    @cached_property
    def _light(self) -> npt.NDArray[np.float64]:
        """Return the coefficients of brightness over normal x, y, z and 1, fitted to the part, float64 `[4]`."""
        normals = self.normals[self._lit].astype(np.float64)
        factors = np.column_stack([normals, np.ones(len(normals))])
        return np.asarray(np.linalg.lstsq(factors, self.rgb[self._lit].mean(axis=1), rcond=None)[0])

    def draw_place(self, rng: np.random.Generator, radius: float) -> tuple[int, int]:
        """Draw the row and column of a pixel of the part that is as far from the rim as the part allows."""
        rows, columns = np.nonzero(self._depth >= min(0.7 * radius, 0.7 * self._depth.max()))
        chosen = rng.integers(len(rows))
        return int(rows[chosen]), int(columns[chosen])

    def moved(self, height: Raster) -> XyzImage:
        """Return the cloud with the points of the part moved towards the sensor by heights in metres."""
        steps = np.where(self.pixels, height, 0)[..., None] * self.normals
        return (self.xyz + steps).astype(np.float32)

    def shaded(self, xyz: XyzImage, changed: Mask) -> RgbImage:
        """Return the image with the brightness of a changed surface.

        Args:
            xyz: Changed cloud.
            changed: Pixels whose brightness may change.
        """
        after = surface_normals(xyz, self.pixels)
        known = changed & self.pixels & after.any(axis=2) & self.normals.any(axis=2)
        before_light = np.maximum(self.normals[known] @ self._light[:3] + self._light[3], 1)
        after_light = np.maximum(after[known] @ self._light[:3] + self._light[3], 0)
        factor = np.ones(self.pixels.shape)
        factor[known] = np.clip(after_light / before_light, _DARKEST, _BRIGHTEST)
        factor = np.where(known, scipy.ndimage.gaussian_filter(factor, 0.7), 1)
        return _as_image(self.rgb * factor[..., None])

    def painted(
        self, rgb: RgbImage, cover: Raster, colours: tuple[tuple[int, int, int], ...], rng: np.random.Generator
    ) -> RgbImage:
        """Return an image with one of the colours over the part, as bright as the part is lit there.

        Args:
            rgb: Image, uint8 `[h, w, 3]`.
            cover: Share of the colour, 0-1.
            colours: Colours, from which one with a clear contrast to the covered pixels is drawn.
            rng: Random generator.
        """
        cover = np.where(self.pixels, cover, 0)
        inside = cover > 0.5 * cover.max()
        light = scipy.ndimage.gaussian_filter(rgb.mean(axis=2), 2) / 128
        ground = rgb[inside].mean(axis=0)
        offered = np.array(colours, dtype=np.float64)
        contrast = np.abs(offered * light[inside].mean() - ground).max(axis=1)
        visible = np.flatnonzero(contrast >= 0.6 * contrast.max())
        paint = offered[int(rng.choice(visible))] * np.clip(light, 0.15, 1.6)[..., None]
        return _as_image(rgb + cover[..., None] * (paint - rgb))


def inflict(kind: str, part: GoodPart, *, seed: int) -> Sample:
    """Return a copy of a good sample with a defect at a random place of the part.

    The same kind, sample and seed give the same copy.

    Args:
        kind: Key of `DEFECTS`.
        part: The part.
        seed: Seed of place and size.
    """
    defect = DEFECTS[kind]
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), zlib.crc32(part.rgb.tobytes())])
    radius, height = (rng.uniform(*bounds) * part.size for bounds in (defect.radius, defect.height))
    return defect.inflict(rng, part, max(radius, 2.0), height * part.pitch)


def _outline(rng: np.random.Generator, part: GoodPart, radius: float, *, wobble: float, slim: float = 1.0) -> Raster:
    """Return the distance from the centre of an irregular patch, 1 on its outline."""
    row, column = part.draw_place(rng, radius)
    rows, columns = np.indices(part.pixels.shape)
    turn = rng.uniform(0, np.pi)
    down, right = rows - row, columns - column
    along, across = np.cos(turn) * right + np.sin(turn) * down, np.cos(turn) * down - np.sin(turn) * right
    angle, reach = np.arctan2(across, along), np.ones(part.pixels.shape)
    for waves in (2, 3, 5, 7):
        reach += 2 / waves * wobble * rng.uniform(-1, 1) * np.cos(waves * angle + rng.uniform(0, 2 * np.pi))
    return np.asarray(np.hypot(along, across * slim) / (radius * reach))


def _cap(outline: Raster) -> Raster:
    """Return a rounded profile: 1 in the centre, 0 with a horizontal tangent on the outline."""
    return np.square(1 - np.clip(outline, 0, 1) ** 2)


def _edge(outline: Raster, softness: float) -> Raster:
    """Return 1 inside an outline, 0 outside, with an edge of a relative width."""
    return np.asarray(np.clip((1 + softness / 2 - outline) / softness, 0, 1))


def _grain(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> Raster:
    """Return smooth noise of mean 0 and deviation 1."""
    noise = scipy.ndimage.gaussian_filter(rng.standard_normal(shape), scale)
    return np.asarray(noise / noise.std())


def _dent(rng: np.random.Generator, part: GoodPart, radius: float, height: float) -> Sample:
    outline = _outline(rng, part, radius, wobble=0.1, slim=rng.uniform(1.0, 1.5))
    xyz = part.moved(-height * _cap(outline))
    return replace(part.sample, xyz=xyz, rgb=part.shaded(xyz, outline < 1.1))


def _deformation(rng: np.random.Generator, part: GoodPart, radius: float, height: float) -> Sample:
    outline = _outline(rng, part, radius, wobble=0.1, slim=rng.uniform(1.0, 1.6))
    return replace(part.sample, xyz=part.moved(rng.choice([-1, 1]) * height * _cap(outline)))


def _scratch(rng: np.random.Generator, part: GoodPart, radius: float, height: float) -> Sample:
    row, column = part.draw_place(rng, radius)
    turn, bend = rng.uniform(0, 2 * np.pi), rng.uniform(-0.3, 0.3) * radius
    steps = np.linspace(-1, 1, int(4 * radius) + 2)
    right, down = steps * radius, bend * (1 - steps**2)
    rows = np.rint(row + np.sin(turn) * right + np.cos(turn) * down).astype(int)
    columns = np.rint(column + np.cos(turn) * right - np.sin(turn) * down).astype(int)
    inside = (rows >= 0) & (rows < part.pixels.shape[0]) & (columns >= 0) & (columns < part.pixels.shape[1])
    line = np.ones(part.pixels.shape, dtype=np.bool_)
    line[rows[inside], columns[inside]] = False
    width = max(1.0, rng.uniform(0.006, 0.012) * part.size)
    groove = np.exp(-0.5 * (scipy.ndimage.distance_transform_edt(line) / width) ** 2)
    xyz = part.moved(-height * groove)
    cover = rng.uniform(0.45, 0.8) * groove * np.clip(1 + 0.3 * _grain(rng, groove.shape, 3), 0.3, 1.25)
    return replace(part.sample, xyz=xyz, rgb=part.painted(part.rgb, cover, _BARE, rng))


def _hole(rng: np.random.Generator, part: GoodPart, radius: float, height: float) -> Sample:
    outline = _outline(rng, part, radius, wobble=0.2, slim=rng.uniform(1.0, 1.4))
    xyz = part.xyz.copy()
    xyz[part.pixels & (outline < 1)] = 0
    return replace(part.sample, xyz=xyz, rgb=_as_image(part.rgb * (1 - 0.9 * _edge(outline, 0.3)[..., None])))


def _stain(rng: np.random.Generator, part: GoodPart, radius: float, height: float) -> Sample:
    outline = _outline(rng, part, radius, wobble=0.3, slim=rng.uniform(1.0, 1.6))
    grain = np.clip(1 + 0.15 * _grain(rng, outline.shape, 0.3 * radius), 0.4, 1.2)
    cover = np.clip(rng.uniform(0.35, 0.75) * _edge(outline, 0.5) * grain, 0, 1)
    return replace(part.sample, rgb=part.painted(part.rgb, cover, _STAINS, rng))


def _contamination(rng: np.random.Generator, part: GoodPart, radius: float, height: float) -> Sample:
    outline = _outline(rng, part, radius, wobble=0.3, slim=rng.uniform(1.0, 1.5))
    grain = np.clip(1 + 0.2 * _grain(rng, outline.shape, 0.25 * radius), 0.4, 1.6)
    xyz = part.moved(height * np.sqrt(_cap(outline)) * grain)
    cover = np.clip(0.9 * _edge(outline, 0.25) * grain, 0, 0.95)
    return replace(part.sample, xyz=xyz, rgb=part.painted(part.shaded(xyz, outline < 1.1), cover, _RESIDUES, rng))


def _as_image(values: Raster) -> RgbImage:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


DEFECTS: Mapping[str, Defect] = {
    "dent": Defect("both", (0.05, 0.11), (0.015, 0.035), _dent),
    "deformation": Defect("3D", (0.15, 0.30), (0.030, 0.060), _deformation),
    "scratch": Defect("both", (0.12, 0.30), (0.004, 0.010), _scratch),
    "hole": Defect("both", (0.03, 0.07), (0.0, 0.0), _hole),
    "stain": Defect("camera", (0.04, 0.10), (0.0, 0.0), _stain),
    "contamination": Defect("both", (0.03, 0.07), (0.010, 0.030), _contamination),
}
"""All kinds of defects by name, in the order of the table."""
