"""MVTec-AD (Bergmann et al. 2019): images only. VisA as its `prepare_data` writes it is the same.

::

    CATEGORY/train/good/NNN.png                        (also validation/good, as in MVTec LOCO)
    CATEGORY/test/<good or defect>/NNN.png
    CATEGORY/ground_truth/<defect>/NNN_mask.png        (or NNN.png)
"""

from __future__ import annotations

from pathlib import Path

from cmdiad_runtime.readers import RGB_SUFFIXES
from cmdiad_runtime.sample import Modality
from cmdiad_train.datasets.listing import (
    Found,
    Listing,
    find_files,
    find_masks,
    list_defect,
    list_good_only,
    subfolders,
)
from cmdiad_train.datasets.sample_files import GOOD


def is_category(folder: Path) -> bool:
    """Whether a folder is a category in this layout."""
    return bool(find_files(folder / "train" / GOOD, RGB_SUFFIXES).files)


def list_split(folder: Path, split: str, wanted: tuple[Modality, ...]) -> Listing:
    """The samples of a split, none where a cloud is wanted alone; each defect has a mask."""
    folders = subfolders(folder / split)
    listing = Listing()
    if split != "test":
        listing = list_good_only(split, folders)
        folders = [f for f in folders if f.name == GOOD]
    for defect in folders:
        images = find_files(defect, RGB_SUFFIXES)
        kinds = {modality: images if modality == "rgb" else Found(defect, {}) for modality in wanted}
        masks = None if defect.name == GOOD else find_masks(folder / "ground_truth" / defect.name)
        listing.add(list_defect(split, defect.name, kinds, masks, mask_required=True))
    return listing
