"""The good samples of another session, in a folder without splits."""

from __future__ import annotations

from pathlib import Path

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.modalities import SAMPLE_FOLDERS, name_of
from cmdiad_runtime.names import Modality
from cmdiad_runtime.readers.labels import label_of_file, label_of_place
from cmdiad_train.datasets.layouts.listing import (
    FilesByStem,
    Listing,
    find_loose,
    find_modality,
    list_defect,
)
from cmdiad_train.datasets.sample_files import GOOD

_MOST_NAMED = 5


def list_session(folder: Path, name: str, required: tuple[Modality, ...], image: str = "rgb") -> Listing:
    """Return the good samples in a folder, each with all required modalities, and the problems of the others.

    The folder holds the files themselves, or the sub-folders of the modalities (`rgb`, and `xyz` or `depth`), as the
    folder `good` of every layout does.

    Args:
        folder: Folder of the samples.
        name: Name of the session, which starts the names of its samples.
        required: Modalities that every sample must have.
        image: Name of the image modality.

    Raises:
        RunError: The folder has no file of a required modality, or samples whose names, or that of the folder, say
            that they are bad.
    """
    in_folders = any((folder / sub).is_dir() for sub in SAMPLE_FOLDERS)
    kinds: dict[Modality, FilesByStem] = {
        modality: find_modality(folder, modality, image) if in_folders else find_loose(folder, modality)
        for modality in required
    }
    missing = [name_of(modality, image) for modality, candidates in kinds.items() if not candidates.files]
    if missing:
        raise RunError(
            folder,
            found=f"no {missing[0]} file" if folder.is_dir() else "no such folder",
            expected=f"good samples with {' and '.join(name_of(modality, image) for modality in required)}",
            action="Pass the folder that holds the files, or the sub-folders rgb and xyz, for example test/good",
        )
    bad = sorted({stem for c in kinds.values() for stem in c.files if label_of_file(stem) == "bad"})
    if bad:
        raise RunError(
            folder,
            found=f"samples whose names say that they are bad: {', '.join(bad[:_MOST_NAMED])}",
            expected="good samples alone",
            action="Move the bad samples to another folder",
        )
    if label_of_place(folder) == "bad":
        raise RunError(
            folder,
            found="samples in a folder of defects, by its name or place",
            expected="good samples alone",
            action="Pass the folder of good parts, or rename or move this folder if its parts are good",
        )
    return list_defect(name, GOOD, kinds, None)
