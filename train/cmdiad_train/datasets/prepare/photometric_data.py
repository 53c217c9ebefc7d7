"""Turn a data set of images under several lights into one with normals and albedo.

::

    DIR/lights.json                                    {"north": {"direction": [0, -1, 1]}, ...}
    DIR/**/lights/NNN/LIGHT.png                        one image for each light, by the light's name
    DIR/**/gt/NNN.png                                  masks, copied

    OUT/**/normals/NNN.png, OUT/**/albedo/NNN.png      in the same folders, for example train/good and test/dent
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.colour import LARGEST
from cmdiad_runtime.errors import InputError, RunError
from cmdiad_runtime.readers import RGB_SUFFIXES, image_colour, read_rgb
from cmdiad_runtime.readers.image import is_grey16, read_grey16
from cmdiad_runtime.support.files import atomic_directory
from cmdiad_runtime.support.records import (
    RecordError,
    fields_from_json,
    make_tuple,
    require,
    require_number,
    require_numbers,
)
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets.layouts.listing import find_files, find_masks, subfolders
from cmdiad_train.datasets.prepare import photometric, writing
from cmdiad_train.datasets.prepare.data_set import PreparationResult, refuse_overlap

LIGHTS = "lights"
"""Name of the folders with the images, and of the file with the directions."""
NORMALS, ALBEDO = "normals", "albedo"
"""Names of the folders of the results, which are names of modalities."""

_FARTHEST = 1e6
_EXPECTED_LIGHTS = 'an object such as {"north": {"direction": [0, -1, 1]}, ...} with at least 3 lights'


@dataclass(frozen=True)
class Light:
    """A distant light.

    Attributes:
        direction: Direction from the part to the light, of any length: x to the right in the image, y down, z to the
            camera.
        intensity: Intensity, relative to the other lights.
    """

    direction: tuple[float, float, float]
    intensity: float = 1.0

    def __post_init__(self) -> None:
        make_tuple(self, "direction")
        require(len(self.direction) == 3, self, "direction", "three numbers")
        require_numbers(self, "direction", -_FARTHEST, _FARTHEST)
        require(any(self.direction), self, "direction", "a direction other than 0, 0, 0")
        require_number(self, "intensity", 1 / _FARTHEST, _FARTHEST)


def read_lights(path: Path) -> dict[str, Light]:
    """Return the lights of a file by name.

    Raises:
        RunError: The file is missing or damaged, has too few or too many lights, or lights that lie in one plane.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        lights = {name: Light(**fields_from_json(Light, value)) for name, value in content.items()}
    except (OSError, ValueError, AttributeError, RecursionError) as error:  # RecordError is a ValueError
        problem = str(error) if isinstance(error, RecordError) else "no file of lights that can be read"
        raise RunError(path, found=problem, expected=_EXPECTED_LIGHTS, action="Correct the file") from error
    if not photometric.LEAST_LIGHTS <= len(lights) <= photometric.MOST_LIGHTS:
        expected = f"{photometric.LEAST_LIGHTS} to {photometric.MOST_LIGHTS} lights"
        raise RunError(path, found=f"{len(lights)} lights", expected=expected, action="Correct the file")
    if photometric.spread_of(_directions(lights)) < photometric.LEAST_SPREAD:
        raise RunError(
            path,
            found="light directions that lie nearly in one plane",
            expected="directions that differ in x, y and z, for example a ring of lights around the camera",
            action="Correct the directions, or place the lights further apart",
        )
    return lights


def compute_surfaces(source: Path, out: Path, reporter: Reporter) -> PreparationResult:
    """Write normals and albedo of every sample to a new data set. A sample that cannot be used is left out.

    Args:
        source: Folder of the data set, which is only read.
        out: New folder, which appears when all samples are computed.
        reporter: Receiver of the progress.

    Raises:
        RunError: The file of lights cannot be used, there is no sample, or no sample can be used.
        OutputError: `out` overlaps with `source`, exists with content, or cannot be written.
    """
    refuse_overlap(source, out)
    lights = read_lights(source / f"{LIGHTS}.json")
    folders = sorted(path for path in source.rglob(LIGHTS) if path.is_dir())
    samples = [sample for folder in folders for sample in subfolders(folder)]
    if not samples:
        expected = f"folders such as train/good/{LIGHTS}/000 with an image for each light"
        raise RunError(source, found="no sample", expected=expected, action="Arrange the images in such folders")
    result = PreparationResult(0, 0, [])
    with atomic_directory(out) as temporary:
        for i, sample in enumerate(samples):
            place = temporary / sample.parent.parent.relative_to(source)
            try:
                normals, albedo = photometric.surface_of(_read_images(sample, lights), *_arrays(lights))
            except InputError as error:
                result.failed.append(error)
            else:
                writing.write_png(place / NORMALS / f"{sample.name}.png", photometric.encode_normals(normals))
                writing.write_png(place / ALBEDO / f"{sample.name}.png", photometric.encode_albedo(albedo))
                _copy_masks(sample, place)
                result.written += 1
            reporter.step("photometric", i + 1, len(samples))
        if not result.written:
            raise result.failed[0]
    return result


def _directions(lights: Mapping[str, Light]) -> npt.NDArray[np.float64]:
    return np.array([light.direction for light in lights.values()], dtype=np.float64)


def _arrays(lights: Mapping[str, Light]) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return directions float64 `[lights, 3]` and intensities float64 `[lights]`."""
    return _directions(lights), np.array([light.intensity for light in lights.values()], dtype=np.float64)


def _read_images(sample: Path, lights: Mapping[str, Light]) -> npt.NDArray[np.float32]:
    """Return the brightness of a sample under each light, float32 `[lights, h, w]`, 0-1, the mean of the channels.

    Raises:
        InputError: An image is missing, cannot be read, or differs in size, or there are images of no light or
            several of one.
    """
    files = find_files(sample, RGB_SUFFIXES).files
    if files.keys() != lights.keys() or any(len(paths) > 1 for paths in files.values()):
        raise InputError(
            sample,
            found=f"images {', '.join(path.name for paths in files.values() for path in paths) or 'of no light'}",
            expected=f"one image for each light: {', '.join(sorted(lights))}",
            action=f"Add or remove images, or correct {LIGHTS}.json",
            reason="missing-file",
        )
    images = [_brightness(files[name][0]) for name in lights]
    if len({image.shape for image in images}) > 1:
        raise InputError(
            sample,
            found="images of several sizes",
            expected="the same size under all lights",
            action="Record the sample again without moving the camera",
            reason="size-mismatch",
        )
    return np.stack(images)


def _brightness(path: Path) -> npt.NDArray[np.float32]:
    if is_grey16(path):
        return read_grey16(path, registered=True).astype(np.float32) / np.float32(LARGEST)
    pixels = read_rgb(path, colour=image_colour(path), registered=True)
    # The brightest channel decides about saturation, so a pixel with one saturated channel counts as saturated.
    mean: npt.NDArray[Any] = np.where((pixels == 255).any(axis=2), 255, pixels.mean(axis=2, dtype=np.float32))
    return (mean / np.float32(255)).astype(np.float32)


def _copy_masks(sample: Path, place: Path) -> None:
    for mask in find_masks(sample.parent.parent / "gt").files.get(sample.name, []):
        (place / "gt").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(mask, place / "gt" / mask.name)
