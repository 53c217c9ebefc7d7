"""MVTec 3D-AD (Bergmann et al. 2021; REFERENCE §1.1), raw, prepared or synthetic.

::

    CATEGORY/{train,validation}/good/{rgb,xyz}/NNN.{png,tiff}
    CATEGORY/test/<good or defect>/{rgb,xyz,gt}/NNN.{png,tiff,png}
"""

from __future__ import annotations

from pathlib import Path

from cmdiad_runtime.sample import Modality
from cmdiad_train.datasets.listing import (
    FOLDERS,
    Listing,
    find_masks,
    find_modality,
    list_defect,
    list_good_only,
    subfolders,
)
from cmdiad_train.datasets.sample_files import GOOD


def is_category(folder: Path) -> bool:
    """Whether a folder is a category in this layout."""
    return any((folder / "train" / GOOD / name).is_dir() for names in FOLDERS.values() for name in names)


def list_split(folder: Path, split: str, wanted: tuple[Modality, ...]) -> Listing:
    """The samples of a split; each has all of `wanted`, and each defect a mask."""
    folders = subfolders(folder / split)
    listing = Listing()
    if split != "test":
        listing = list_good_only(split, folders)
        folders = [f for f in folders if f.name == GOOD]
    for defect in folders:
        kinds = {modality: find_modality(defect, modality) for modality in wanted}
        masks = None if defect.name == GOOD else find_masks(defect / "gt")
        listing.add(list_defect(split, defect.name, kinds, masks, mask_required=True))
    return listing
