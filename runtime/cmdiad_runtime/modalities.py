"""Modalities by name: kind, folders in data sets, and sensor. A new image modality is one line of the table.

A detector reads at most one image and one cloud of a part. The arrays, the inputs of the graph and the field
`Preprocessing.modality` name them by their kind: `rgb` is the image, `xyz` the cloud. `Preprocessing.image_modality` is
the name of the image, for example `infrared`. All images are read in the same way (`cmdiad_runtime.readers.image`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cmdiad_runtime.names import SENSORS, Modality

Kind = Literal["image", "cloud"]


@dataclass(frozen=True)
class NamedModality:
    """A modality that a data set may have.

    Attributes:
        name: Name in options and records.
        kind: Kind of the files, which decides how they are read.
        folders: Names of the sub-folders that hold the files, in the order in which they are searched.
        sensor: Sensor as text for people.
    """

    name: str
    kind: Kind
    folders: tuple[str, ...]
    sensor: str


_TABLE = (
    NamedModality("rgb", "image", ("rgb",), "camera"),
    NamedModality("xyz", "cloud", ("xyz", "depth"), "3D sensor"),
    NamedModality("infrared", "image", ("infrared", "ir"), "infrared camera"),
    NamedModality("thermal", "image", ("thermal",), "thermal camera"),
    NamedModality("polarisation", "image", ("polarisation", "polarization"), "polarisation camera"),
    NamedModality("xray", "image", ("xray", "x-ray"), "X-ray detector"),
    NamedModality("ultrasound", "image", ("ultrasound",), "ultrasound scanner"),
    NamedModality("normals", "image", ("normals",), "photometric stereo, normals"),
    NamedModality("albedo", "image", ("albedo",), "photometric stereo, albedo"),
)
TABLE: dict[str, NamedModality] = {modality.name: modality for modality in _TABLE}
"""All modalities by name."""
IMAGE_MODALITIES: tuple[str, ...] = tuple(name for name, modality in TABLE.items() if modality.kind == "image")
"""Names of the image modalities, the colour or grey camera (`rgb`) first."""
SAMPLE_FOLDERS: tuple[str, ...] = tuple(name for modality in _TABLE for name in modality.folders)
"""Names of the sub-folders that hold the files of one modality."""
MODALITY_OPTIONS: tuple[str, ...] = (*SENSORS, *(name for name in IMAGE_MODALITIES if name not in SENSORS))
"""Values of `--modality`."""


def folders_of(modality: Modality, image_modality: str = "rgb") -> tuple[str, ...]:
    """Return the names of the sub-folders that hold the images or the clouds.

    Args:
        modality: `rgb` for the image, `xyz` for the cloud.
        image_modality: Name of the image.
    """
    return TABLE[image_modality if modality == "rgb" else modality].folders


def image_mask_folder(name: str, image_modality: str) -> str:
    """Return the name of the folder with masks that are drawn on an image next to that of the camera: `gt-infrared`."""
    return f"{name}-{image_modality}"


def name_of(modality: str, image_modality: str) -> str:
    """Return the name of what a detector inspects, as an option of commands has it.

    Args:
        modality: `rgb`, `xyz` or `both`.
        image_modality: Name of the image.
    """
    return image_modality if modality == "rgb" else modality


def sensor_text(name: str) -> str:
    """Return the sensors of a value of `--modality` as text for people."""
    return "camera and 3D sensor" if name == "both" else TABLE[name].sensor


def trained_with_text(partner: str, inspected: str) -> str:
    """Return that a detector was trained on pairs with a second image, as text for people.

    Args:
        partner: Name of the second image.
        inspected: Name of what the detector inspects.
    """
    return f"{partner} images of the same parts; inspection needs {inspected} alone"


def foreign_folder(folder: str, image_modality: str) -> bool:
    """Return True if a folder's name, in any letter case, states that its files are of another modality than the image.

    No folder is foreign to detectors of the camera (`rgb`) and the 3D sensor: bundles of earlier versions inspect files
    in a folder `thermal` as those in any other folder.
    """
    own, name = folders_of("rgb", image_modality), folder.lower()
    return image_modality != "rgb" and name in SAMPLE_FOLDERS and name not in own
