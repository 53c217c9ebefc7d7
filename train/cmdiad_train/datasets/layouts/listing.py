"""Find files by their stem and pair them to samples, for all layouts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.modalities import folders_of, image_mask_folder
from cmdiad_runtime.names import Modality
from cmdiad_runtime.readers.folders import MIXED_SUFFIXES, MODALITY_SUFFIXES, loose_files
from cmdiad_train.datasets.sample_files import GOOD, SampleFiles
from cmdiad_train.datasets.skipped import is_sample_file, is_sample_folder

MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".jfif", ".bmp", ".tif", ".tiff")
"""Suffixes of mask files, in lower case."""
_FILE_SUFFIXES = frozenset((*MASK_SUFFIXES, *(s for suffixes in MODALITY_SUFFIXES.values() for s in suffixes)))
_MASK_ENDING = "_mask"
_PAIR = "Add the missing file or remove its partner"


@dataclass(frozen=True)
class FilesByStem:
    """Files of one kind in one folder.

    Attributes:
        folder: Folder of the files, or the folder in which they are missing.
        files: Files by the stem that pairs them. More than one file for a stem is an error of the data set.
    """

    folder: Path
    files: Mapping[str, list[Path]]


@dataclass
class Listing:
    """The content of a split.

    Attributes:
        samples: Complete samples. The mask of a sample in `mask_problems` is None.
        problems: One error for each folder whose place in the data set is wrong.
        incomplete: Errors of the samples that lack a file, or have two files of one kind, by sample name.
        mask_problems: Errors of the samples that have several masks, or none of the name in a table, by sample name.
        counts: Number of files by defect and kind (`rgb`, `xyz` or `mask`).
        notes: Lines for people about files that are used in another way than their place suggests, or not at all.
    """

    samples: list[SampleFiles] = field(default_factory=list)
    problems: list[RunError] = field(default_factory=list)
    incomplete: dict[str, RunError] = field(default_factory=dict)
    mask_problems: dict[str, RunError] = field(default_factory=dict)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def errors(self) -> list[RunError]:
        """Return all errors of the listing."""
        return [*self.problems, *self.incomplete.values(), *self.mask_problems.values()]

    def add(self, other: Listing) -> None:
        """Add the content of another listing."""
        self.samples += other.samples
        self.problems += other.problems
        self.incomplete |= other.incomplete
        self.mask_problems |= other.mask_problems
        self.notes += other.notes
        for defect, counts in other.counts.items():
            mine = self.counts.setdefault(defect, {})
            for kind, count in counts.items():
                mine[kind] = mine.get(kind, 0) + count


def subfolders(folder: Path) -> list[Path]:
    """Return the folders of samples in a folder, sorted; no hidden ones, and none that is named like a file."""
    return sorted(
        p for p in folder.glob("*") if p.is_dir() and is_sample_folder(p) and p.suffix.lower() not in _FILE_SUFFIXES
    )


def find_files(folder: Path, suffixes: tuple[str, ...], *, masks: bool = False) -> FilesByStem:
    """Return what is named like a file with one of the suffixes in a folder; no hidden files and no thumbnails.

    Files whose names end in `_mask` are returned only if `masks` is True.

    A pipe, a folder or a dangling link with such a name is returned too: reading it fails, and the sample is reported
    instead of passed over.
    """
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in suffixes and is_sample_file(path, masks=masks):
            files.setdefault(path.stem, []).append(path)
    return FilesByStem(folder, files)


def find_masks(folder: Path) -> FilesByStem:
    """Return the masks in a folder by the stem of their sample: `003.png` and `003_mask.png` both belong to `003`."""
    files: dict[str, list[Path]] = {}
    for stem, paths in find_files(folder, MASK_SUFFIXES, masks=True).files.items():
        files.setdefault(stem.removesuffix(_MASK_ENDING), []).extend(paths)
    return FilesByStem(folder, files)


def find_modality(folder: Path, modality: Modality, image: str = "rgb") -> FilesByStem:
    """Return the files in the sub-folder of a modality; if no such folder exists, the first name is assumed.

    Args:
        folder: Folder of the samples.
        modality: Kind of the files.
        image: Name of the image modality.
    """
    names = folders_of(modality, image)
    name = next((n for n in names if (folder / n).is_dir()), names[0])
    return find_files(folder / name, MODALITY_SUFFIXES[modality])


def mask_folder(folder: Path, name: str, image: str) -> Path:
    """Return the folder of the masks of an image modality.

    Masks that lie next to images of the camera (`rgb`) are drawn on these. Another image of the same part has them only
    if both are registered: then `gt-infrared` holds those of `infrared`.

    Args:
        folder: Folder of the samples.
        name: Name of the folder of masks.
        image: Name of the image modality.
    """
    drawn_on_other = image != "rgb" and any((folder / place).is_dir() for place in folders_of("rgb"))
    return folder / (image_mask_folder(name, image) if drawn_on_other else name)


def find_loose(folder: Path, modality: Modality) -> FilesByStem:
    """Return the files of a modality in a folder that may hold both; the content of a TIFF file decides."""
    candidates = find_files(folder, MIXED_SUFFIXES[modality])
    chosen = set(loose_files(sorted(p for p in folder.glob("*") if is_sample_file(p)), modality))
    files = {stem: [path for path in paths if path in chosen] for stem, paths in candidates.files.items()}
    return FilesByStem(folder, {stem: paths for stem, paths in files.items() if paths})


def list_defect(split: str, defect: str, kinds: Mapping[Modality, FilesByStem], masks: FilesByStem | None) -> Listing:
    """Return the samples of one defect, or the good samples, sorted by stem.

    Args:
        split: "train", "validation" or "test".
        defect: Name of the defect, or "good".
        kinds: Files of each requested modality.
        masks: Masks of the defect, where there are any; None for good samples. A stem without a file is a mask that a
            table names and that is missing.
    """
    counts: dict[str, int] = {kind: _count(candidates) for kind, candidates in kinds.items()}
    if masks is not None:
        counts["mask"] = _count(masks)
    listing = Listing(counts={defect: counts})
    for stem in sorted(set().union(*(candidates.files for candidates in kinds.values()))):
        name = f"{split}/{defect}/{stem}"
        try:
            files = {kind: _one_file(candidates, stem, _pair(kinds), _PAIR) for kind, candidates in kinds.items()}
        except RunError as error:
            listing.incomplete[name] = error
            continue
        mask = None
        if masks is not None and stem in masks.files:
            try:
                mask = _one_file(masks, stem, "the mask of the table", "Restore the mask", what="mask")
            except RunError as error:
                listing.mask_problems[name] = error
        listing.samples.append(SampleFiles(name, defect, files.get("rgb"), files.get("xyz"), mask))
    return listing


def list_good_only(split: str, folders: Iterable[Path]) -> Listing:
    """Return one problem for each folder other than `good` in a split that may hold only good samples."""
    problems = [
        RunError(
            folder,
            found=f"samples that are not good in {split}",
            expected=f"the folder {split}/good alone",
            action="Move the folder to test",
        )
        for folder in folders
        if folder.name != GOOD
    ]
    return Listing(problems=problems)


def _count(candidates: FilesByStem) -> int:
    return sum(map(bool, candidates.files.values()))


def _pair(kinds: Mapping[Modality, FilesByStem]) -> str:
    return f"a pair of {' and '.join(kinds)} for each sample"


def _one_file(candidates: FilesByStem, stem: str, expected: str, action: str, what: str = "file") -> Path:
    """Return the only file of a sample.

    Raises:
        RunError: The sample has no file, or more than one.
    """
    files = candidates.files.get(stem, [])
    if not files:
        raise RunError(candidates.folder, found=f"no {what} for sample {stem}", expected=expected, action=action)
    if len(files) > 1:
        names = " and ".join(path.name for path in files)
        raise RunError(
            candidates.folder, found=names, expected=f"one {what} for sample {stem}", action="Remove one of them"
        )
    return files[0]
