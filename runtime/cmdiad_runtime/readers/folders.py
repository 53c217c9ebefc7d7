"""Names of folders and suffixes of files that hold one modality, in data sets and in folders to inspect."""

from __future__ import annotations

from cmdiad_runtime.names import Modality
from cmdiad_runtime.readers import RGB_SUFFIXES, XYZ_SUFFIXES

MODALITY_FOLDERS: dict[Modality, tuple[str, ...]] = {"rgb": ("rgb",), "xyz": ("xyz", "depth")}
"""Sub-folders that hold the files of one modality, in the order in which they are searched."""

MODALITY_SUFFIXES: dict[Modality, tuple[str, ...]] = {"rgb": RGB_SUFFIXES, "xyz": XYZ_SUFFIXES}
"""Suffixes of the files in a modality's own folder. There, a PNG file among the clouds is a depth image."""

MIXED_SUFFIXES: dict[Modality, tuple[str, ...]] = {
    "rgb": RGB_SUFFIXES,
    "xyz": tuple(suffix for suffix in XYZ_SUFFIXES if suffix not in RGB_SUFFIXES),
}
"""Suffixes of the files of one modality in a folder that holds both. There, a PNG file is an image."""
