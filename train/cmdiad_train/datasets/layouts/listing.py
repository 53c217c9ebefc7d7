"""What all layouts share: finding files by their stem and pairing them to samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.readers import RGB_SUFFIXES, XYZ_SUFFIXES
from cmdiad_runtime.sample import Modality
from cmdiad_train.datasets.sample_files import GOOD, SampleFiles

PLAIN_SUFFIXES: dict[Modality, tuple[str, ...]] = {
    "rgb": RGB_SUFFIXES,
    "xyz": tuple(suffix for suffix in XYZ_SUFFIXES if suffix not in RGB_SUFFIXES),
}
"""What counts where images and clouds lie in one folder; a PNG is an image there."""
FOLDER_SUFFIXES: dict[Modality, tuple[str, ...]] = {"rgb": RGB_SUFFIXES, "xyz": XYZ_SUFFIXES}
"""What counts in a modality's own folder; a PNG among the clouds is a depth image."""
MASK_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
FOLDERS: dict[Modality, tuple[str, ...]] = {"rgb": ("rgb",), "xyz": ("xyz", "depth")}
"""Sub-folders that hold one modality, the first that exists."""
_MASK_ENDING = "_mask"
_PAIR = "add the missing file or remove its partner"


@dataclass(frozen=True)
class Found:
    """Files of one kind in one folder.

    Attributes:
        folder: where they lie, or should.
        files: by the stem that pairs them; more than one file for a stem is an error of the data.
    """

    folder: Path
    files: Mapping[str, list[Path]]


@dataclass
class Listing:
    """What a split holds.

    Attributes:
        samples: those that are whole.
        problems: one for each sample or folder that is not.
        counts: number of files by defect and kind, `rgb`, `xyz` or `mask`.
    """

    samples: list[SampleFiles] = field(default_factory=list)
    problems: list[RunError] = field(default_factory=list)
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def add(self, other: Listing) -> None:
        """Take over what another listing holds."""
        self.samples += other.samples
        self.problems += other.problems
        for defect, counts in other.counts.items():
            mine = self.counts.setdefault(defect, {})
            for kind, count in counts.items():
                mine[kind] = mine.get(kind, 0) + count


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, sorted; hidden ones are left out."""
    return sorted(p for p in folder.glob("*") if p.is_dir() and not p.name.startswith("."))


def find_files(folder: Path, suffixes: tuple[str, ...]) -> Found:
    """The files in a folder with one of these suffixes; hidden ones are left out."""
    files: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*")):
        if path.suffix.lower() in suffixes and not path.name.startswith(".") and path.is_file():
            files.setdefault(path.stem, []).append(path)
    return Found(folder, files)


def find_masks(folder: Path) -> Found:
    """The masks in a folder by the stem of their sample: `003.png` and `003_mask.png` both belong to `003`."""
    files: dict[str, list[Path]] = {}
    for stem, paths in find_files(folder, MASK_SUFFIXES).files.items():
        files.setdefault(stem.removesuffix(_MASK_ENDING), []).extend(paths)
    return Found(folder, files)


def find_modality(folder: Path, modality: Modality) -> Found:
    """The files in the sub-folder of a modality; of the first name where there is none."""
    names = FOLDERS[modality]
    name = next((n for n in names if (folder / n).is_dir()), names[0])
    return find_files(folder / name, FOLDER_SUFFIXES[modality])


def list_defect(
    split: str, defect: str, kinds: Mapping[Modality, Found], masks: Found | None, *, mask_required: bool
) -> Listing:
    """The samples of one defect, or the good ones, sorted by stem.

    Args:
        split: "train", "validation" or "test".
        defect: its name, or "good".
        kinds: the files of each modality that is asked for.
        masks: masks of the defect; None for good samples.
        mask_required: a defect without a mask is a problem.
    """
    counts: dict[str, int] = {kind: _count(found) for kind, found in kinds.items()}
    if masks is not None:
        counts["mask"] = _count(masks)
    listing = Listing(counts={defect: counts})
    for stem in sorted(set().union(*(found.files for found in kinds.values()))):
        try:
            files = {kind: _one_file(found, stem, _pair(kinds), _PAIR) for kind, found in kinds.items()}
            mask = None
            if masks is not None and (mask_required or stem in masks.files):
                mask = _one_file(masks, stem, "one for each defect", "draw it", what="mask")
        except RunError as error:
            listing.problems.append(error)
            continue
        name = f"{split}/{defect}/{stem}"
        listing.samples.append(SampleFiles(name, defect, files.get("rgb"), files.get("xyz"), mask))
    return listing


def list_good_only(split: str, folders: Iterable[Path]) -> Listing:
    """One problem for each folder beside `good` in a split that is for good samples alone."""
    problems = [
        RunError(
            folder,
            found=f"another kind of sample than good in {split}",
            expected=f"{split}/good alone",
            action="move the folder to test",
        )
        for folder in folders
        if folder.name != GOOD
    ]
    return Listing(problems=problems)


def _count(found: Found) -> int:
    return sum(map(bool, found.files.values()))


def _pair(kinds: Mapping[Modality, Found]) -> str:
    return f"a pair of {' and '.join(kinds)} for each sample"


def _one_file(found: Found, stem: str, expected: str, action: str, what: str = "file") -> Path:
    files = found.files.get(stem, [])
    if not files:
        raise RunError(found.folder, found=f"no {what} for sample {stem}", expected=expected, action=action)
    if len(files) > 1:
        names = " and ".join(path.name for path in files)
        raise RunError(found.folder, found=f"{names}", expected=f"one {what} for sample {stem}", action="remove one")
    return files[0]
