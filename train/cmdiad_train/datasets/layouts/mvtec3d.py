"""The layout of MVTec 3D-AD (Bergmann et al. 2021; method §1.1): raw, prepared or synthetic data.

::

    CATEGORY/{train,validation}/good/{rgb,xyz}/NNN.{png,tiff}
    CATEGORY/test/<good or defect>/{rgb,xyz,gt}/NNN.{png,tiff,png}

Next to `rgb` or in its place there may be folders of other image modalities, such as `infrared`.
"""

from __future__ import annotations

from pathlib import Path

from cmdiad_runtime.modalities import SAMPLE_FOLDERS
from cmdiad_runtime.names import Modality
from cmdiad_train.datasets.layouts.listing import (
    Listing,
    find_masks,
    find_modality,
    list_defect,
    list_good_only,
    mask_folder,
    subfolders,
)
from cmdiad_train.datasets.sample_files import GOOD


def is_category(folder: Path) -> bool:
    """Return True if a folder is a category in this layout."""
    return any((folder / "train" / GOOD / name).is_dir() for name in SAMPLE_FOLDERS)


def list_split(folder: Path, split: str, required: tuple[Modality, ...], image: str = "rgb") -> Listing:
    """Return the samples of a split, each with all required modalities. A defect may lack its mask."""
    folders = subfolders(folder / split)
    listing = Listing()
    if split != "test":
        listing = list_good_only(split, folders)
        folders = [f for f in folders if f.name == GOOD]
    for defect in folders:
        kinds = {modality: find_modality(defect, modality, image) for modality in required}
        masks = None if defect.name == GOOD else find_masks(mask_folder(defect, "gt", image))
        listing.add(list_defect(split, defect.name, kinds, masks))
    return listing
