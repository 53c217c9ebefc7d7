"""Clouds of Eyecandies samples from depth image and camera pose, as published (method §3)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmdiad_runtime.errors import InputError
from cmdiad_train.datasets.layouts.eyecandies import RawSample

FOCAL_LENGTH = 711.11
"""Focal length of the camera in pixels; the principal point is the centre of the image (method §3.2)."""
GROUND_CLEARANCE = -0.02
"""Points with a larger second coordinate in the frame of the ground are background, metres (method §3.4)."""
FARTHEST_DEPTH = 1.8
"""Points farther away along the ground are background, metres (method §3.4)."""
FARTHEST_SIDE = 1.0
"""Points farther to the side are background, metres (method §3.4)."""
SCALE = (0.1, -0.1, 0.1)
"""Factors of x, z and y, in this order, before they are stored (method §3.5)."""


def read_cloud(sample: RawSample) -> npt.NDArray[np.float64]:
    """Compute the organised cloud of a sample, float64 `[h, w, 3]`, in the units of the published preparation.

    x is exactly 0 in the background, so no background point is valid; y and z are constant there.

    Raises:
        InputError: A file is missing or has the wrong content.
    """
    depth = _read_depth(sample)
    pose = _read_pose(sample.pose)
    try:
        return _stored(_back_project(depth, pose))
    except (np.linalg.LinAlgError, FloatingPointError) as error:
        raise InputError(
            sample.pose,
            found=f"a pose that does not give a ground plane ({error})",
            expected="the pose of a camera above the scene",
            action="Download the sample again",
        ) from error


def _read_depth(sample: RawSample) -> npt.NDArray[np.float64]:
    """Read the depth along the axis of the camera, metres, float64 `[h, w]` (method §3.1)."""
    low, high = _read_range(sample.info)
    try:
        with Image.open(sample.depth) as image:
            mode, raw = image.mode, np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise _unreadable(sample.depth, str(error), "a 16-bit depth image") from error
    if not mode.startswith("I") or raw.ndim != 2 or min(raw.shape) < 2:
        raise _unreadable(sample.depth, f"mode {mode}, shape {raw.shape}", "a 16-bit depth image")
    return raw.astype(np.float64) / 65535 * (high - low) + low


def _read_range(path: Path) -> tuple[float, float]:
    import yaml

    expected = "normalization: with min and max in metres"
    try:
        normalisation = yaml.safe_load(path.read_text(encoding="utf-8"))["normalization"]
        low, high = float(normalisation["min"]), float(normalisation["max"])
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}", expected) from error
    if not (np.isfinite([low, high]).all() and low < high):
        raise _unreadable(path, f"min {low}, max {high}", expected)
    return low, high


def _read_pose(path: Path) -> npt.NDArray[np.float64]:
    expected = "4 rows of 4 numbers"
    try:
        rows = [[float(word) for word in line.split()] for line in path.read_text(encoding="utf-8").splitlines()]
        pose = np.array([row for row in rows if row], dtype=np.float64)
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error), expected) from error
    if pose.shape != (4, 4) or not np.isfinite(pose).all():
        raise _unreadable(path, f"numbers of shape {pose.shape}", expected)
    return pose


def _unreadable(path: Path, problem: str, expected: str) -> InputError:
    action = "Download the sample again"
    return InputError(path, found=f"a file that cannot be used ({problem})", expected=expected, action=action)


def _back_project(depth: npt.NDArray[np.float64], pose: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return points float64 `[h, w, 3]`, metres: z · (K·pose)⁻¹ · (u, v, 1, 1/z) (method §3.2).

    The fourth component is multiplied out, so a depth of 0 needs no division.
    """
    height, width = depth.shape
    camera = np.eye(4)
    camera[0, 0] = camera[1, 1] = FOCAL_LENGTH
    camera[0, 2], camera[1, 2] = width / 2, height / 2
    inverse = np.linalg.inv(camera @ pose)
    v, u = np.mgrid[:height, :width].astype(np.float64)
    pixels = np.stack([u, v, np.ones_like(u)], axis=-1)  # [h, w, 3]
    return depth[..., None] * (pixels @ inverse[:3, :3].T) + inverse[:3, 3]


def _stored(points: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Remove the background in the frame of the ground, then return axes and scale as stored (method §3.3-3.5)."""
    middle = points.shape[1] // 2
    far, near = points[0, middle], points[-1, middle]
    dz, dy = far[1] - near[1], far[2] - near[2]
    length = np.hypot(dz, dy)
    if not (np.isfinite(length) and length > 0):
        raise FloatingPointError("first and last row see the same point")
    c, s = dy / length, dz / length
    rotation = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    origin = np.array([0, near[1], near[2]])
    ground = (points - origin) @ rotation.T
    background = (
        (ground[..., 1] > GROUND_CLEARANCE)
        | (ground[..., 2] > FARTHEST_DEPTH)
        | (np.abs(ground[..., 0]) > FARTHEST_SIDE)
    )
    ground[background] = -origin
    back = ground @ rotation + origin
    return back[..., [0, 2, 1]] * np.array(SCALE)
