"""One synthetic sample: a part with or without a defect, as a camera and a 3D sensor see it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.sample import Mask, RgbImage, XyzImage
from cmdiad_train.synthesis.camera import FIELD_OF_VIEW, Camera, Pose, View, look, random_pose
from cmdiad_train.synthesis.defects import DEFECT_TYPES, changed_cells, spoil
from cmdiad_train.synthesis.kinds import KINDS
from cmdiad_train.synthesis.lighting import Light, cast_shadow, normals, random_light, shade
from cmdiad_train.synthesis.sensor import expose, scan
from cmdiad_train.synthesis.surface import Flags, Grid, Surface

GENERATOR = "cmdiad-synthesis/1"
"""Version of the generator; must change whenever the same seed no longer gives the same data."""
GOOD = "good"

_SCENE_WIDTH = 90.0  # Millimetres: the image with room for turn, shift and shadows.
_FOOT = 0.1  # Height in millimetres above which a pixel shows the part.
_PROJECTOR = np.array([-0.30, 0.08, -1.0]) / np.linalg.norm([0.30, 0.08, 1.0])
"""Direction towards the projector, a unit vector in the camera frame."""


@dataclass(frozen=True)
class SampleKey:
    """The identity of a sample. Key and seed determine the sample, independent of all other samples.

    Attributes:
        category: Object kind, a key of `KINDS`.
        split: `train`, `validation` or `test`.
        type: `good` or a key of `DEFECT_TYPES`.
        index: Number within the folder.
    """

    category: str
    split: str
    type: str
    index: int

    def generators(self, seed: int, count: int) -> list[np.random.Generator]:
        """Return independent random generators, derived from the key by SHA-256."""
        text = "\0".join([GENERATOR, str(seed), self.category, self.split, self.type, str(self.index)])
        words = np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype="<u4")
        sequence = np.random.SeedSequence([int(word) for word in words])
        return [np.random.default_rng(child) for child in sequence.spawn(count)]


@dataclass(frozen=True)
class RenderedSample:
    """Measurements of the sensors and their ground truth.

    Attributes:
        rgb: Image uint8 `[h, w, 3]`, RGB order, 0-255.
        xyz: Cloud float32 `[h, w, 3]`, metres, camera frame, zeros where the sensor measured nothing.
        mask: True on the defect, bool `[h, w]`.
        clean_xyz: Cloud without noise and holes float32 `[h, w, 3]`, metres.
        part: True for pixels that show the part and not the support plane, bool `[h, w]`.
    """

    rgb: RgbImage
    xyz: XyzImage
    mask: Mask
    clean_xyz: XyzImage
    part: Mask


@dataclass(frozen=True)
class Scene:
    """A part with camera and light, before the sensors measure.

    Attributes:
        camera: Pinhole camera.
        pose: Pose of the surface in the camera frame.
        light: Light.
        surface: Surface of the part, with its defect if there is one.
        defect: Cells that the defect changed, bool `[n, n]`.
    """

    camera: Camera
    pose: Pose
    light: Light
    surface: Surface
    defect: Flags


def render_sample(
    category: str, type: str = GOOD, *, split: str = "test", index: int = 0, size: int = 320, seed: int = 0
) -> RenderedSample:
    """Render one sample in memory, identical to the sample that `synthesize` writes.

    Args:
        category: Object kind, one of `CATEGORIES`.
        type: `good` or one of `DEFECT_TYPES`.
        split: `train`, `validation` or `test`.
        index: Number within the folder.
        size: Pixels along each side.
        seed: Seed of the whole data set.
    """
    key = SampleKey(category, split, type, index)
    return observe(compose(key, size=size, seed=seed), key.generators(seed, 5)[4])


def compose(key: SampleKey, *, size: int, seed: int, sound: bool = False) -> Scene:
    """Build the scene of a sample; with `sound`, the same scene without the defect."""
    for_part, for_pose, for_light, for_defect, _ = key.generators(seed, 5)
    camera = Camera(size)
    intact = KINDS[key.category](for_part, _grid(size))
    surface = intact
    if key.type != GOOD and not sound:
        surface = spoil(for_defect, intact, DEFECT_TYPES[key.type])
    pose, light = random_pose(for_pose, camera), random_light(for_light)
    return Scene(camera, pose, light, surface, changed_cells(intact, surface))


def observe(scene: Scene, rng: np.random.Generator) -> RenderedSample:
    """Measure a scene with both sensors; `rng` generates their noise."""
    surface, pose = scene.surface, scene.pose
    view = look(scene.camera, pose, surface.grid, surface.height)
    part = view.sample(surface.height) > _FOOT
    lit = view.sample(cast_shadow(surface.grid, surface.height, pose.axes @ _PROJECTOR))
    return RenderedSample(
        rgb=expose(rng, view.sample(shade(surface, pose, scene.light))),
        xyz=scan(rng, view.points, _incidence(scene, view), lit, part),
        mask=view.nearest(scene.defect) & part,
        clean_xyz=(1e-3 * view.points).astype(np.float32),
        part=part,
    )


def _grid(size: int) -> Grid:
    """Return a grid whose cells are about as wide as a pixel, within 0.125-0.4 mm."""
    cell = float(np.clip(FIELD_OF_VIEW / size, 0.125, 0.4))
    return Grid(cell, round(_SCENE_WIDTH / cell) + 1)


def _incidence(scene: Scene, view: View) -> npt.NDArray[np.float32]:
    """Return the cosine between the direction to the camera and the surface normal, float32 `[h, w]`."""
    to_camera = scene.pose.axes @ (-scene.pose.origin / np.linalg.norm(scene.pose.origin))
    u, v, up = (np.float32(along) for along in to_camera)
    across_u, across_v, upward = normals(scene.surface.grid, scene.surface.height)
    return view.sample(across_u * u + across_v * v + upward * up)
