"""Your own folder of good samples, with whatever defects you have.

::

    DIR/{good,train}/ or DIR itself                    good samples to train on
    DIR/validation/                                    good samples for the threshold
    DIR/<defect>/, DIR/test/<good or defect>/          samples to test with

Each of these holds `rgb/` and `xyz/` (or `depth/`), paired by stem, or the files themselves: images are rgb,
clouds are xyz. A defect may have masks in `gt/` or `masks/`, or as `NNN_mask.png` beside `NNN.png`.
"""

from __future__ import annotations

from pathlib import Path

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.sample import Modality
from cmdiad_train.datasets.listing import (
    FOLDERS,
    PLAIN_SUFFIXES,
    Found,
    Listing,
    find_files,
    find_masks,
    find_modality,
    list_defect,
    subfolders,
)
from cmdiad_train.datasets.sample_files import GOOD

MODALITIES: tuple[Modality, ...] = ("rgb", "xyz")
_MASK_FOLDERS = ("gt", "masks", "mask", "ground_truth")
_MODALITY_FOLDERS = tuple(name for names in FOLDERS.values() for name in names)
_NOT_DEFECTS = (GOOD, "train", "validation", "test", *_MASK_FOLDERS, *_MODALITY_FOLDERS)


def is_category(folder: Path) -> bool:
    """Whether a folder holds good samples of its own."""
    return any(_files(_good_folder(folder), modality).files for modality in MODALITIES)


def list_split(folder: Path, split: str, wanted: tuple[Modality, ...]) -> Listing:
    """The samples of a split; each has all of `wanted`, masks are where they were drawn."""
    if split == "train":
        return _list_folder(_good_folder(folder), split, GOOD, wanted)
    if split == "validation":
        place = folder / split
        return _list_folder(place / GOOD if (place / GOOD).is_dir() else place, split, GOOD, wanted)
    listing = _unsorted(folder / split, wanted)
    for defect in [*_defects(folder), *subfolders(folder / split)]:
        listing.add(_list_folder(defect, split, defect.name, wanted))
    return listing


def _good_folder(folder: Path) -> Path:
    return next((folder / name for name in (GOOD, "train") if (folder / name).is_dir()), folder)


def _defects(folder: Path) -> list[Path]:
    return [f for f in subfolders(folder) if f.name not in _NOT_DEFECTS]


def _unsorted(place: Path, wanted: tuple[Modality, ...]) -> Listing:
    """A problem where samples lie in `test` of which nobody said whether they are good."""
    if not any(_files(place, modality).files for modality in wanted):
        return Listing()
    problem = RunError(
        place,
        found="samples of which it is not said whether they are good",
        expected="test/good and test/DEFECT",
        action="sort them into such folders",
    )
    return Listing(problems=[problem])


def _list_folder(folder: Path, split: str, defect: str, wanted: tuple[Modality, ...]) -> Listing:
    kinds = {modality: _files(folder, modality) for modality in wanted}
    if not any(found.files for found in kinds.values()):
        return Listing()
    masks = None if defect == GOOD else _masks(folder)
    return list_defect(split, defect, kinds, masks, mask_required=False)


def _files(folder: Path, modality: Modality) -> Found:
    if any((folder / name).is_dir() for name in _MODALITY_FOLDERS):
        return find_modality(folder, modality)
    found = find_files(folder, PLAIN_SUFFIXES[modality])
    masks = _masks_beside(folder).files if modality == "rgb" else {}
    drawn = {path for paths in masks.values() for path in paths}
    files = {stem: [p for p in paths if p not in drawn] for stem, paths in found.files.items()}
    return Found(folder, {stem: paths for stem, paths in files.items() if paths})


def _masks(folder: Path) -> Found:
    place = next((folder / name for name in _MASK_FOLDERS if (folder / name).is_dir()), None)
    return _masks_beside(folder) if place is None else find_masks(place)


def _masks_beside(folder: Path) -> Found:
    """Files `NNN_mask.png` beside the image `NNN`."""
    masks = find_masks(folder).files
    own = {stem: [p for p in paths if p.stem != stem] for stem, paths in masks.items() if len(paths) > 1}
    return Found(folder, {stem: paths for stem, paths in own.items() if paths})
