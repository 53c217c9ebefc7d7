"""One synthetic sample: a part, perhaps spoilt, lit, seen by a camera and scanned by a 3D sensor."""

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
"""Changes whenever the same seed no longer gives the same data."""
GOOD = "good"

_SCENE_WIDTH = 90.0  # mm; the image with room for turn, shift and shadows
_FOOT = 0.1  # mm; what stands higher above the plane is part
_PROJECTOR = np.array([-0.30, 0.08, -1.0]) / np.linalg.norm([0.30, 0.08, 1.0])  # towards it, camera frame


@dataclass(frozen=True)
class SampleKey:
    """What a sample is; together with the seed it decides every draw, whatever else is rendered.

    Attributes:
        category: object kind, a key of `KINDS`.
        split: `train`, `validation` or `test`.
        type: `good` or a key of `DEFECT_TYPES`.
        index: number within its folder.
    """

    category: str
    split: str
    type: str
    index: int

    def generators(self, seed: int, count: int) -> list[np.random.Generator]:
        """Independent generators derived from the key by SHA-256."""
        text = "\0".join([GENERATOR, str(seed), self.category, self.split, self.type, str(self.index)])
        words = np.frombuffer(hashlib.sha256(text.encode()).digest(), dtype="<u4")
        sequence = np.random.SeedSequence([int(word) for word in words])
        return [np.random.default_rng(child) for child in sequence.spawn(count)]


@dataclass(frozen=True)
class RenderedSample:
    """What the sensors give, and the truth about it.

    Attributes:
        rgb: uint8 `[h, w, 3]`, RGB order, 0-255.
        xyz: float32 `[h, w, 3]`, metres, camera frame, zeros where the sensor saw nothing.
        mask: bool `[h, w]`, True on the defect.
        clean_xyz: float32 `[h, w, 3]`, metres, without noise and holes.
        part: bool `[h, w]`, True where a pixel shows the part, not the support plane.
    """

    rgb: RgbImage
    xyz: XyzImage
    mask: Mask
    clean_xyz: XyzImage
    part: Mask


@dataclass(frozen=True)
class Scene:
    """Everything about a sample before the sensors look at it.

    Attributes:
        camera: the pinhole camera.
        pose: where the surface lies before it.
        light: the lamp.
        surface: the part as it is, spoilt or not.
        defect: bool `[n, n]`, cells that a defect changed.
    """

    camera: Camera
    pose: Pose
    light: Light
    surface: Surface
    defect: Flags


def render_sample(
    category: str, type: str = GOOD, *, split: str = "test", index: int = 0, size: int = 320, seed: int = 0
) -> RenderedSample:
    """Render one sample in memory, the same that `synthesize` would write.

    Args:
        category: object kind, one of `CATEGORIES`.
        type: `good` or one of `DEFECT_TYPES`.
        split: `train`, `validation` or `test`.
        index: number within its folder.
        size: pixels along each side.
        seed: of the whole data set.
    """
    key = SampleKey(category, split, type, index)
    return observe(compose(key, size=size, seed=seed), key.generators(seed, 5)[4])


def compose(key: SampleKey, *, size: int, seed: int, sound: bool = False) -> Scene:
    """The scene behind a sample; with `sound` the same scene without its defect."""
    for_part, for_pose, for_light, for_defect, _ = key.generators(seed, 5)
    camera = Camera(size)
    intact = KINDS[key.category](for_part, _grid(size))
    surface = intact
    if key.type != GOOD and not sound:
        surface = spoil(for_defect, intact, DEFECT_TYPES[key.type])
    pose, light = random_pose(for_pose, camera), random_light(for_light)
    return Scene(camera, pose, light, surface, changed_cells(intact, surface))


def observe(scene: Scene, rng: np.random.Generator) -> RenderedSample:
    """Let both sensors look at a scene; `rng` gives their noise."""
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
    """Cells about as wide as a pixel, within 0.125-0.4 mm."""
    cell = float(np.clip(FIELD_OF_VIEW / size, 0.125, 0.4))
    return Grid(cell, round(_SCENE_WIDTH / cell) + 1)


def _incidence(scene: Scene, view: View) -> npt.NDArray[np.float32]:
    """Cosine between the direction to the camera and the surface normal, float32 `[h, w]`."""
    to_camera = scene.pose.axes @ (-scene.pose.origin / np.linalg.norm(scene.pose.origin))
    u, v, up = (np.float32(along) for along in to_camera)
    across_u, across_v, upward = normals(scene.surface.grid, scene.surface.height)
    return view.sample(across_u * u + across_v * v + upward * up)
