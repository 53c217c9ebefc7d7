"""The layout of VisA (Zou et al. 2022) as distributed: images only.

::

    CATEGORY/Data/Images/{Normal,Anomaly}/NNN.JPG
    CATEGORY/Data/Masks/Anomaly/NNN.png                (a pixel's value is the kind of defect, 0 is none)
    split_csv/1cls.csv                                 object,split,label,image,mask; paths below the data set

Without the table, all Normal images are for training and all Anomaly images for testing.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.names import Modality
from cmdiad_runtime.readers import RGB_SUFFIXES
from cmdiad_train.datasets.layouts.listing import FilesByStem, Listing, find_files, find_masks, list_defect
from cmdiad_train.datasets.sample_files import GOOD

DEFECT = "anomaly"
_COLUMNS = ("object", "split", "label", "image", "mask")
_LABELS = {"normal": GOOD, "anomaly": DEFECT}


def is_category(folder: Path) -> bool:
    """Return True if a folder is a category in this layout."""
    return (folder / "Data" / "Images" / "Normal").is_dir()


def table_of(folder: Path) -> Path:
    """Return the path of the table that assigns the images of the data set to splits."""
    return folder.parent / "split_csv" / "1cls.csv"


def list_split(folder: Path, split: str, required: tuple[Modality, ...], image: str = "rgb") -> Listing:
    """Return the samples of a split; there are none if clouds are required. A defect may lack its mask.

    Raises:
        RunError: The table cannot be read.
    """
    by_defect = _by_table(folder, split) if table_of(folder).is_file() else _by_folder(folder, split)
    listing = Listing()
    for defect, (images, masks) in by_defect.items():
        kinds = {modality: images if modality == "rgb" else FilesByStem(images.folder, {}) for modality in required}
        listing.add(list_defect(split, defect, kinds, masks))
    listing.samples = [replace(sample, mask_level=0) for sample in listing.samples]
    return listing


def _by_folder(folder: Path, split: str) -> dict[str, tuple[FilesByStem, FilesByStem | None]]:
    data = folder / "Data"
    if split == "train":
        return {GOOD: (find_files(data / "Images" / "Normal", RGB_SUFFIXES), None)}
    if split == "test":
        images = find_files(data / "Images" / "Anomaly", RGB_SUFFIXES)
        return {DEFECT: (images, find_masks(data / "Masks" / "Anomaly"))} if images.files else {}
    return {}


def _by_table(folder: Path, split: str) -> dict[str, tuple[FilesByStem, FilesByStem | None]]:
    """Return images and masks by defect as the table names them; the stem of a missing file has no file."""
    images: dict[str, dict[str, list[Path]]] = {}
    masks: dict[str, list[Path]] = {}
    for row in _rows(table_of(folder)):
        if row["object"] != folder.name or row["split"] != split:
            continue
        defect = _label(table_of(folder), row["label"])
        image = _below(folder.parent, row["image"], table_of(folder))
        images.setdefault(defect, {}).setdefault(image.stem, []).extend([image] if image.is_file() else [])
        if defect != GOOD and row["mask"]:
            mask = _below(folder.parent, row["mask"], table_of(folder))
            masks[image.stem] = [mask] if mask.is_file() else []
    place = folder / "Data"
    return {
        defect: (
            FilesByStem(place / "Images", images[defect]),
            None if defect == GOOD else FilesByStem(place / "Masks", masks),
        )
        for defect in sorted(images)
    }


def _rows(table: Path) -> Iterator[dict[str, str]]:
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            if not set(_COLUMNS) <= set(reader.fieldnames or ()):
                raise _bad_table(table, f"the columns {', '.join(reader.fieldnames or ()) or '(none)'}")
            for row in reader:
                yield {column: (row[column] or "").strip() for column in _COLUMNS}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise _bad_table(table, f"a table that cannot be read ({error})") from error


def _label(table: Path, label: str) -> str:
    if label not in _LABELS:
        raise _bad_table(table, f"the label {label!r}")
    return _LABELS[label]


def _below(root: Path, name: str, table: Path) -> Path:
    """Return the path of a file that the table names, after a check that the path stays inside the data set."""
    path = root / name
    if not name or not path.resolve().is_relative_to(root.resolve()):
        raise _bad_table(table, f"the file {name!r} outside the data set")
    return path


def _bad_table(table: Path, problem: str) -> RunError:
    return RunError(
        table,
        found=problem,
        expected="VisA's table of object,split,label,image,mask, labels normal and anomaly",
        action="Use the published table, or remove this one to train on all Normal images",
    )
