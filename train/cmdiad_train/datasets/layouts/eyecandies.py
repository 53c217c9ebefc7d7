"""Eyecandies (Bonfiglioli et al. 2022) as it is distributed; `cmdiad-data prepare` makes it trainable (REFERENCE §3).

::

    CATEGORY/{train,test_public}/[data/]NNN_{depth.png,info_depth.yaml,pose.txt,image_4.png,mask.png}
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from cmdiad_runtime.errors import InputError, RunError
from cmdiad_runtime.sample import Modality
from cmdiad_train.datasets.listing import Listing

FOCAL_LENGTH = 711.11
"""Pixels; the principal point is the image's centre (REFERENCE §3.2)."""
SPLITS = {"train": "train", "test": "test_public"}
"""The published splits, and what the data set calls them."""
GROUND_CLEARANCE = -0.02
FARTHEST_DEPTH = 1.8
FARTHEST_SIDE = 1.0
SCALE = (0.1, -0.1, 0.1)
"""Of x, z, y, in this order (REFERENCE §3.5)."""
_DEPTH = "_depth.png"


@dataclass(frozen=True)
class RawSample:
    """The files of one rendered sample.

    Attributes:
        name: split and number, as `test_public/07`.
        number: what the prepared sample is called, three digits.
        depth: 16-bit depth image.
        info: YAML file with the range of the depth.
        pose: 4 x 4 pose of the camera, text.
        image: colour image.
        mask: defect, not 0 where there is one; None in training.
    """

    name: str
    number: str
    depth: Path
    info: Path
    pose: Path
    image: Path
    mask: Path | None


def is_category(folder: Path) -> bool:
    """Whether a folder is a category in this layout."""
    return any(_data_folder(folder, "train").glob(f"*{_DEPTH}"))


def list_split(folder: Path, split: str, wanted: tuple[Modality, ...]) -> Listing:
    """Refuse: there are depth images and poses here, no clouds."""
    raise not_prepared(folder)


def not_prepared(folder: Path) -> RunError:
    """What to say to somebody who wants to train on a raw category."""
    return RunError(
        folder,
        found="a raw Eyecandies category",
        expected="prepared samples",
        action=f"run cmdiad-data prepare {folder.parent} OUT and use OUT",
    )


def raw_samples(folder: Path, split: str) -> list[RawSample]:
    """The samples of "train" or "test" of a category, sorted; whether all files exist shows when they are read."""
    data = _data_folder(folder, split)
    stems = sorted(p.name.removesuffix(_DEPTH) for p in data.glob(f"*{_DEPTH}") if not p.name.startswith("."))
    return [
        RawSample(
            name=f"{SPLITS[split]}/{stem}",
            number=stem.zfill(3),
            depth=data / f"{stem}{_DEPTH}",
            info=data / f"{stem}_info_depth.yaml",
            pose=data / f"{stem}_pose.txt",
            image=data / f"{stem}_image_4.png",
            mask=data / f"{stem}_mask.png" if split == "test" else None,
        )
        for stem in stems
    ]


def read_cloud(sample: RawSample) -> npt.NDArray[np.float64]:
    """The organised cloud of a sample, float64 `[h, w, 3]`, as the published preparation has it (REFERENCE §3).

    x is exactly 0 in the background, and so no point there is valid; y and z are constants there.

    Raises:
        InputError: a file is missing or does not hold what it should.
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
            action="fetch the sample again",
        ) from error


def _data_folder(folder: Path, split: str) -> Path:
    place = folder / SPLITS[split]
    return place / "data" if (place / "data").is_dir() else place


def _read_depth(sample: RawSample) -> npt.NDArray[np.float64]:
    """Depth along the axis of the camera, metres, float64 `[h, w]` (REFERENCE §3.1)."""
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


def _unreadable(path: Path, found: str, expected: str) -> InputError:
    action = "fetch the sample again"
    return InputError(path, found=f"a file that cannot be used ({found})", expected=expected, action=action)


def _back_project(depth: npt.NDArray[np.float64], pose: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Points float64 `[h, w, 3]`, metres: z · (K·pose)⁻¹ · (u, v, 1, 1/z) (REFERENCE §3.2).

    The fourth component is multiplied out, so that a depth of 0 needs no division.
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
    """Background cut in the ground's frame, then axes and scale as they are stored (REFERENCE §3.3-3.5)."""
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
