"""Names of folders and suffixes of files that hold one modality, in data sets and in folders to inspect."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from cmdiad_runtime.modalities import folders_of
from cmdiad_runtime.names import Modality
from cmdiad_runtime.readers import RGB_SUFFIXES, XYZ_SUFFIXES
from cmdiad_runtime.readers._tiff_image import modality_of_tiff

MODALITY_FOLDERS: dict[Modality, tuple[str, ...]] = {"rgb": folders_of("rgb"), "xyz": folders_of("xyz")}
"""Sub-folders that hold images of a camera or clouds; `folders_of` returns those of another image modality."""

MODALITY_SUFFIXES: dict[Modality, tuple[str, ...]] = {"rgb": RGB_SUFFIXES, "xyz": XYZ_SUFFIXES}
"""Suffixes of the files in a modality's own folder. There, a PNG file among the clouds is a depth image."""

MIXED_SUFFIXES: dict[Modality, tuple[str, ...]] = {
    "rgb": RGB_SUFFIXES,
    "xyz": tuple(suffix for suffix in XYZ_SUFFIXES if suffix != ".png"),
}
"""Suffixes of the files of one modality in a folder that holds both; the content decides about TIFF files. There, a PNG
file is an image."""

_EITHER = frozenset(MIXED_SUFFIXES["rgb"]) & frozenset(MIXED_SUFFIXES["xyz"])


def folder_of(path: Path) -> Path:
    """Return the folder of a file, by its name also if that is the working directory, which a path may leave out."""
    folder = path.parent
    return Path(os.path.abspath(folder)) if folder.name in ("", "..") else folder  # noqa: PTH100 - links stay


def loose_files(paths: Sequence[Path], modality: Modality) -> list[Path]:
    """Return the files of one modality among files that lie together with those of the other.

    A TIFF file whose content does not decide (16-bit grey, or a file that cannot be read) belongs to the modality
    unless another file of the same folder and stem does. A damaged image is then reported and never passed over.

    Args:
        paths: Files with any suffix.
        modality: Modality to select.
    """
    kinds = {path: loose_modality(path) for path in paths}
    certain = {path.with_suffix("") for path, kind in kinds.items() if kind == modality}
    return [
        path
        for path, kind in kinds.items()
        if kind == modality or (_may_be_either(path) and kind is None and path.with_suffix("") not in certain)
    ]


def _may_be_either(path: Path) -> bool:
    return path.suffix.lower() in _EITHER


def loose_modality(path: Path) -> Modality | None:
    """Return the modality of a file that lies among files of any modality; None if name and content do not decide."""
    suffix = path.suffix.lower()
    if suffix in _EITHER:
        return modality_of_tiff(path)
    return next((modality for modality, suffixes in MIXED_SUFFIXES.items() if suffix in suffixes), None)
