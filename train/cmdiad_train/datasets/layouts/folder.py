"""The layout of a user's own folder: good samples, and samples of defects if there are any.

::

    DIR/{good,train}/ or DIR itself                    good samples to train on
    DIR/validation/                                    good samples for the threshold
    DIR/<defect>/, DIR/test/<good or defect>/          samples to test with

Each of these folders holds `rgb/` and `xyz/` (or `depth/`) with files paired by stem, or the files themselves: images
are rgb, clouds are xyz. A defect may have masks in `gt/` or `masks/`, or as `NNN_mask.png` next to `NNN.png`.
"""

from __future__ import annotations

from pathlib import Path

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.names import MODALITIES, Modality
from cmdiad_runtime.readers.folders import MIXED_SUFFIXES, MODALITY_FOLDERS
from cmdiad_train.datasets.layouts.listing import (
    FilesByStem,
    Listing,
    find_files,
    find_masks,
    find_modality,
    list_defect,
    subfolders,
)
from cmdiad_train.datasets.sample_files import GOOD

_MASK_FOLDERS = ("gt", "masks", "mask", "ground_truth")
_MODALITY_FOLDERS = tuple(name for names in MODALITY_FOLDERS.values() for name in names)
_NOT_DEFECTS = (GOOD, "train", "validation", "test", *_MASK_FOLDERS, *_MODALITY_FOLDERS)


def is_category(folder: Path) -> bool:
    """Return True if a folder holds good samples."""
    return any(_files(_good_folder(folder), modality).files for modality in MODALITIES)


def list_split(folder: Path, split: str, required: tuple[Modality, ...]) -> Listing:
    """Return the samples of a split, each with all required modalities. Masks are optional."""
    if split == "train":
        return _list_folder(_good_folder(folder), split, GOOD, required)
    if split == "validation":
        place = folder / split
        return _list_folder(place / GOOD if (place / GOOD).is_dir() else place, split, GOOD, required)
    listing = _unsorted(folder / split, required)
    for defect in [*_defects(folder), *subfolders(folder / split)]:
        listing.add(_list_folder(defect, split, defect.name, required))
    return listing


def _good_folder(folder: Path) -> Path:
    return next((folder / name for name in (GOOD, "train") if (folder / name).is_dir()), folder)


def _defects(folder: Path) -> list[Path]:
    return [f for f in subfolders(folder) if f.name not in _NOT_DEFECTS]


def _unsorted(place: Path, required: tuple[Modality, ...]) -> Listing:
    """Return a problem if samples lie directly in `test`, where they are neither good nor a defect."""
    if not any(_files(place, modality).files for modality in required):
        return Listing()
    problem = RunError(
        place,
        found="samples that are marked neither as good nor as a defect",
        expected="the folders test/good and test/DEFECT",
        action="Sort the samples into such folders",
    )
    return Listing(problems=[problem])


def _list_folder(folder: Path, split: str, defect: str, required: tuple[Modality, ...]) -> Listing:
    kinds = {modality: _files(folder, modality) for modality in required}
    if not any(files.files for files in kinds.values()):
        return Listing()
    masks = None if defect == GOOD else _masks(folder)
    return list_defect(split, defect, kinds, masks, mask_required=False)


def _files(folder: Path, modality: Modality) -> FilesByStem:
    if any((folder / name).is_dir() for name in _MODALITY_FOLDERS):
        return find_modality(folder, modality)
    candidates = find_files(folder, MIXED_SUFFIXES[modality])
    masks = _masks_next_to_images(folder).files if modality == "rgb" else {}
    drawn = {path for paths in masks.values() for path in paths}
    files = {stem: [p for p in paths if p not in drawn] for stem, paths in candidates.files.items()}
    return FilesByStem(folder, {stem: paths for stem, paths in files.items() if paths})


def _masks(folder: Path) -> FilesByStem:
    place = next((folder / name for name in _MASK_FOLDERS if (folder / name).is_dir()), None)
    return _masks_next_to_images(folder) if place is None else find_masks(place)


def _masks_next_to_images(folder: Path) -> FilesByStem:
    """Return the files `NNN_mask.png` next to the image `NNN`."""
    masks = find_masks(folder).files
    own = {stem: [p for p in paths if p.stem != stem] for stem, paths in masks.items() if len(paths) > 1}
    return FilesByStem(folder, {stem: paths for stem, paths in own.items() if paths})
