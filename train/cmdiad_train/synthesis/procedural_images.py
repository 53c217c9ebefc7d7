"""Procedurally generated images: textured, shaded shapes on top of each other ("dead leaves", Baradad et al. 2021).

They show no object, but share properties with images of parts: edges, textures of all scales, strokes, relief, light
and, in half of them, a part before a black background. One image takes milliseconds, and no licence applies to it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.ndimage import gaussian_filter

Field = npt.NDArray[np.float32]
"""Float32 `[size, size]`."""
Places = tuple[Field, Field]
"""Columns and rows of all pixels, in units of the image's side, from -0.5 to 0.5."""

DRAWING = "drawing 1"
"""Version of `draw`: must be raised whenever the image of a number changes."""
LEAVES = (8, 40)
RELIEF = (0.02, 0.12)
"""Height of a shape in units of the image's side."""
CUT_OUT = 0.5
"""Share of images that show a part before a black background."""


@dataclass(frozen=True)
class Drawing:
    """One procedurally generated image in three forms.

    Attributes:
        rgb: Photograph, uint8 `[size, size, 3]` RGB.
        normals: Normals of the relief as colours, float32 `[size, size, 3]`, 0-255; background 0.
        depth: Height of the relief as grey, float32 `[size, size, 3]`, 0-255; background 0.
    """

    rgb: npt.NDArray[np.uint8]
    normals: npt.NDArray[np.float32]
    depth: npt.NDArray[np.float32]


def draw(size: int, *, seed: int, index: int) -> Drawing:
    """Draw the image of a number. The same arguments give the same image.

    Args:
        size: Side of the image in pixels.
        seed: Seed of all images.
        index: Number of the image.
    """
    rng = np.random.default_rng([seed, index])
    axis = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    columns, rows = np.meshgrid(axis, axis)
    places: Places = (columns.astype(np.float32), rows.astype(np.float32))
    albedo, height = _colours(_texture(places, rng), rng), np.zeros((size, size), np.float32)
    roughness = float(rng.uniform(0, 0.02))
    for _ in range(int(rng.integers(*LEAVES))):
        inside, distance = _shape(places, rng)
        if not inside.any():
            continue
        texture = _texture(places, rng)
        albedo[inside] = _colours(texture, rng)[inside]
        level = float(height[inside].mean()) + rng.uniform(-1, 1) * rng.uniform(*RELIEF)
        dome = rng.uniform(*RELIEF) * rng.choice([0.0, 1.0]) * np.sqrt(np.clip(distance, 0, None))
        height[inside] = (level + dome + roughness * texture)[inside]
    height = gaussian_filter(height, rng.uniform(0.5, 1.5))
    normals = _normals(height * size)
    part = _part(places, rng) if rng.random() < CUT_OUT else np.ones((size, size), dtype=bool)
    rgb = np.clip(255 * albedo * _light(normals, rng)[..., None], 0, 255)
    span = float(height.max() - height.min()) or 1.0
    grey = np.repeat(np.clip(1 + 254 * (height - height.min()) / span, 1, 255)[..., None], 3, 2)
    return Drawing(
        (rgb * part[..., None]).astype(np.uint8),
        (np.clip(127.5 * (normals + 1), 0, 255) * part[..., None]).astype(np.float32),
        (grey * part[..., None]).astype(np.float32),
    )


def _turned(places: Places, rng: np.random.Generator, middle: tuple[float, float] = (0.0, 0.0)) -> Places:
    angle = rng.uniform(0, 2 * np.pi)
    x, y = places[0] - np.float32(middle[0]), places[1] - np.float32(middle[1])
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def _shape(places: Places, rng: np.random.Generator) -> tuple[npt.NDArray[np.bool_], Field]:
    """Return the mask of a random shape and the depth of each pixel inside it: 0 on the rim, at most 1."""
    x, y = _turned(places, rng, (rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6)))
    radius = np.float32(0.03 * 15 ** rng.random())  # mostly small shapes
    x, y = x / radius, y / (radius * np.float32(rng.uniform(0.3, 1)))
    kind = rng.integers(5)
    if kind == 0:
        depth = 1 - np.hypot(x, y)
    elif kind == 1:
        depth = 1 - np.maximum(abs(x), abs(y))
    elif kind == 2:
        ring = np.float32(rng.uniform(0.1, 0.4))
        depth = ring - abs(np.hypot(x, y) - (1 - ring))
    elif kind == 3:  # a stroke
        depth = np.float32(rng.uniform(0.03, 0.2)) - abs(y + 0.3 * np.sin(np.float32(rng.uniform(0, 4)) * x))
        depth = np.where(abs(x) < 2, depth, -1)
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, rng.integers(3, 7)))
        depth = 1 - np.max([np.float32(np.cos(a)) * x + np.float32(np.sin(a)) * y for a in angles], axis=0)
        depth = np.where(np.hypot(x, y) < 2, depth, -1)
    return depth > 0, depth.astype(np.float32)


def _part(places: Places, rng: np.random.Generator) -> npt.NDArray[np.bool_]:
    """Return the mask of a large blob around the middle."""
    x, y = _turned(places, rng)
    angle, radius = np.arctan2(y, x), np.float32(rng.uniform(0.3, 0.5))
    waves = sum(rng.uniform(0, 0.12) * np.cos(k * angle + rng.uniform(0, 2 * np.pi)) for k in (2, 3, 4, 7))
    return np.hypot(x, y) < radius * (1 + waves)


def _texture(places: Places, rng: np.random.Generator) -> Field:
    """Return a pattern from 0 to 1: constant, a ramp, waves, dots, or noise with a power-law spectrum."""
    kind, (x, y) = rng.integers(6), _turned(places, rng)
    if kind == 0:
        return np.full(x.shape, 0.5, np.float32)
    if kind == 1:
        return x + 0.5
    per_side = np.float32(rng.uniform(4, 30))
    if kind == 2:
        return (0.5 + 0.5 * np.sin(2 * np.pi * per_side * (x + np.float32(0.05) * np.sin(9 * y)))).astype(np.float32)
    if kind == 3:
        dots = np.sin(2 * np.pi * per_side * x) * np.sin(2 * np.pi * per_side * y)
        return (dots > rng.uniform(-0.3, 0.7)).astype(np.float32)
    return _noise(len(x), rng)


def _noise(size: int, rng: np.random.Generator) -> Field:
    frequency = np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size)[None, :]
    stretch = 4 ** rng.uniform(-1, 1)
    length = np.hypot(frequency[0] * stretch, frequency[1] / stretch)
    length[0, 0] = 1
    spectrum = np.fft.rfft2(rng.standard_normal((size, size))) / length ** rng.uniform(0.3, 2)
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, (size, size))
    return np.clip(0.5 + 0.25 * noise / noise.std(), 0, 1).astype(np.float32)


def _colours(texture: Field, rng: np.random.Generator) -> Field:
    """Return a pattern between two random colours, often nearly grey, float32 `[size, size, 3]`, 0 to 1."""
    grey = rng.uniform(0.05, 1, (2, 1))
    colours = grey + rng.choice([0.05, 0.3, 0.6]) * rng.uniform(-1, 1, (2, 3))
    colours[1] = colours[0] + rng.uniform(0.1, 1) * (colours[1] - colours[0])
    low, high = np.clip(colours, 0, 1).astype(np.float32)
    return low + texture[..., None] * (high - low)


def _normals(height: Field) -> Field:
    """Return unit normals float32 `[size, size, 3]` of a height in pixels."""
    down, right = np.gradient(height)
    normals = np.stack([-right, -down, np.ones_like(height)], 2)
    return (normals / np.linalg.norm(normals, axis=2, keepdims=True)).astype(np.float32)


def _light(normals: Field, rng: np.random.Generator) -> Field:
    """Return the brightness of each pixel under one lamp, with a highlight in half of the images."""
    lamp = np.array([*rng.uniform(-1, 1, 2), rng.uniform(0.5, 2)])
    lamp = (lamp / np.linalg.norm(lamp)).astype(np.float32)
    facing = np.clip(normals @ lamp, 0, 1)
    ambient, shine = rng.uniform(0.2, 0.8), rng.choice([0.0, 0.5])
    return (ambient + (1.2 - ambient) * facing + shine * facing**20).astype(np.float32)
