"""The layouts of data sets, one module each."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from cmdiad_runtime.names import Modality
from cmdiad_train.datasets.layouts import eyecandies, folder, mvtec2d, mvtec3d, visa
from cmdiad_train.datasets.layouts.listing import Listing


class Layout(Protocol):
    """The functions of a layout's module."""

    def is_category(self, folder: Path) -> bool:
        """Return True if a folder is a category in this layout."""

    def list_split(self, folder: Path, split: str, required: tuple[Modality, ...], image: str) -> Listing:
        """Return the samples of a split, each with all required modalities, and the problems of the others.

        Args:
            folder: Folder of the category.
            split: "train", "validation" or "test".
            required: Kinds of files that every sample must have.
            image: Name of the image modality that the required images are of.
        """


OWN_FOLDER = "folder"
"""Name of the layout of a user's own folder, which is never one of several categories."""

LAYOUTS: dict[str, Layout] = {
    "mvtec3d": mvtec3d,
    "mvtec2d": mvtec2d,
    "visa": visa,
    "eyecandies": eyecandies,
    OWN_FOLDER: folder,
}
"""All layouts by name, in the order in which they are tried."""

__all__ = ["LAYOUTS", "OWN_FOLDER", "Layout"]
