"""The layout of MVTec-AD (Bergmann et al. 2019): images only. VisA's own `prepare_data` writes the same layout.

::

    CATEGORY/train/good/NNN.png                        (also validation/good, as in MVTec LOCO)
    CATEGORY/test/<good or defect>/NNN.png
    CATEGORY/ground_truth/<defect>/NNN_mask.png        (or NNN.png)
"""

from __future__ import annotations

from pathlib import Path

from cmdiad_runtime.names import Modality
from cmdiad_train.datasets.layouts.listing import (
    FilesByStem,
    Listing,
    find_loose,
    find_masks,
    list_defect,
    list_good_only,
    subfolders,
)
from cmdiad_train.datasets.sample_files import GOOD


def is_category(folder: Path) -> bool:
    """Return True if a folder is a category in this layout."""
    return bool(find_loose(folder / "train" / GOOD, "rgb").files)


def list_split(folder: Path, split: str, required: tuple[Modality, ...], image: str = "rgb") -> Listing:
    """Return the samples of a split; there are none if clouds are required. A defect may lack its mask."""
    folders = subfolders(folder / split)
    listing = Listing()
    if split != "test":
        listing = list_good_only(split, folders)
        folders = [f for f in folders if f.name == GOOD]
    for defect in folders:
        images = find_loose(defect, "rgb")
        kinds = {modality: images if modality == "rgb" else FilesByStem(defect, {}) for modality in required}
        masks = None if defect.name == GOOD else find_masks(folder / "ground_truth" / defect.name)
        listing.add(list_defect(split, defect.name, kinds, masks))
    return listing
