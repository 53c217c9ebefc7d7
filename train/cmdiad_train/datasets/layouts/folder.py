"""The layout of a user's own folder: good parts, and bad ones if there are any, in folders or by file name.

::

    DIR/{good,OK,pass,gut,…}/, DIR/train/[good]/ or DIR itself     good samples to train on
    DIR/{bad,NOK,NG,fail,schlecht,…}/[<defect>/], DIR/<defect>/    samples to test with
    DIR/test/{<good>,<bad>,<defect>}/                              the same, for a split that was made by hand
    DIR/validation/[<good>/]                                       good samples for the threshold
    DIR/ok_001.png, DIR/NG-07.jpg                                  good and bad by file name, also in DIR/test

Each of these folders holds `rgb/` and `xyz/` (or `depth/`) with files paired by stem, or the files themselves: images
are rgb, clouds are xyz. Folders such as `infrared/` hold another image of each part. A defect may have masks in `gt/`
or `masks/`, or as `NNN_mask.png` next to `NNN.png`.

Without a folder `test`, some good parts are kept back as test samples of the defects; see `is_kept_back`.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.inspection.find_inputs import skipped_folder
from cmdiad_runtime.modalities import IMAGE_MODALITIES, SAMPLE_FOLDERS
from cmdiad_runtime.names import Modality
from cmdiad_runtime.printable import printable
from cmdiad_runtime.readers.labels import (
    SPLITS,
    Label,
    label_of_file,
    label_of_folder,
    label_of_place,
    label_of_words,
)
from cmdiad_train.datasets.layouts.listing import (
    FilesByStem,
    Listing,
    find_loose,
    find_masks,
    find_modality,
    list_defect,
    list_good_only,
    mask_folder,
    subfolders,
)
from cmdiad_train.datasets.sample_files import GOOD

BAD = "bad"
"""Name of the defect of parts that are marked as bad by their file names alone."""
KEPT_BACK = 5
"""One of this many good parts is kept back for the test."""
LEAST_TO_KEEP_BACK = 20
"""Smallest number of good parts of which some are kept back."""

_MASK_FOLDERS = ("gt", "masks", "mask", "ground_truth")
_MOST_KINDS = 4
"""Largest number of words at the beginning of file names that may be kinds of parts; more of them are arbitrary."""
_DIGITS = 18
"""Digits at the end of a number that count."""
_PLAIN_NAME = re.compile(r"[\w\s.()#-]+")
"""Name of a folder without signs of doubt, such as `OK?`."""
_OPPOSITE: dict[Label, Label] = {"good": "bad", "bad": "good"}


@dataclass(frozen=True)
class _Group:
    """Samples of one split and one defect in one folder.

    Attributes:
        split: "train", "validation" or "test".
        defect: "good", or the name of the defect.
        folder: Folder of the samples.
        stems: Stems of the samples; None for all samples of the folder.
    """

    split: str
    defect: str
    folder: Path
    stems: frozenset[str] | None = None


@dataclass
class _Arrangement:
    """The places of all samples in a folder.

    Attributes:
        groups: Groups of samples.
        problems: Errors of places that cannot be understood, by split.
        notes: Lines for people about kept and unused files.
    """

    groups: list[_Group] = field(default_factory=list)
    problems: list[tuple[str, RunError]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def refuse(self, split: str, place: Path, *, found: str, expected: str, action: str) -> None:
        """Add an error about a place to those that a listing of the split returns."""
        self.problems.append((split, RunError(place, found=found, expected=expected, action=action)))


def is_category(folder: Path) -> bool:
    """Return True if a folder holds good samples, or samples that are sorted by their names."""
    arrangement = _arrange(folder)
    return bool(arrangement.problems) or any(group.split == "train" for group in arrangement.groups)


def list_split(folder: Path, split: str, required: tuple[Modality, ...], image: str = "rgb") -> Listing:
    """Return the samples of a split, each with all required modalities. Masks are optional."""
    arrangement = _arrange(folder)
    listing = Listing(problems=[error for place, error in arrangement.problems if place == split])
    for group in arrangement.groups:
        if group.split == split:
            listing.add(_list_group(group, required, image))
    if split == "train":
        listing.notes += arrangement.notes
    return listing


def is_kept_back(stem: str) -> bool:
    """Return True for one of five parts with consecutive numbers, and for about every fifth part with another name.

    The name alone decides, whatever other files there are. A part that was kept back from an earlier training stays
    kept back when parts are added, and a part that was trained on never becomes a test sample.
    """
    number = re.search(r"[0-9]+(?=[^0-9]*$)", stem)
    start, end = number.span() if number else (len(stem), len(stem))
    block, place = divmod(int(stem[start:end][-_DIGITS:] or "0"), KEPT_BACK)
    key = f"{stem[:start]}/{block}/{stem[end:]}".encode("utf-8", "surrogateescape")
    return int.from_bytes(sha256(key).digest()[:8], "big") % KEPT_BACK == place


def _arrange(folder: Path) -> _Arrangement:
    """Find out which folders and files are good, which are defects, and which are neither."""
    arrangement = _Arrangement()
    splits = {SPLITS[p.name.lower()]: p for p in subfolders(folder) if p.name.lower() in SPLITS}
    good = _good_folder(folder, splits.get("train"), arrangement)
    if good is not None:
        sorted_by_name = good in (folder, splits.get("train"))
        _add_good(good, arrangement, sorted_by_name=sorted_by_name)
    if good == folder:
        _check_own_name(folder, arrangement)
        _note_kinds_of_names(arrangement)
    if "validation" in splits:
        _add_validation(splits["validation"], arrangement)
    _add_defects(folder, arrangement, skip=(good, *splits.values()))
    if "test" in splits:
        _add_test(splits["test"], arrangement)
    else:
        _keep_back(arrangement)
    _check_defects(folder, arrangement)
    _note_unused(folder, arrangement)
    return arrangement


def _good_folder(folder: Path, train: Path | None, arrangement: _Arrangement) -> Path | None:
    """Return the folder of good samples for training, or None if there is no such folder or more than one."""
    inside = [] if train is None else _named_good(train) or [train]
    candidates = [place for place in (*_good_places(folder), *inside) if _stems(place)]
    if train is not None and inside != [train]:
        others = [p for p in _places_of_samples(train) if p not in inside]
        arrangement.problems += [("train", error) for error in list_good_only("train", others).problems]
    if len(candidates) < 2:
        return next(iter(candidates), folder if _stems(folder) else None)
    places = " and ".join(str(place.relative_to(folder)) for place in candidates)
    arrangement.refuse(
        "train",
        folder,
        found=f"good samples in {places}",
        expected="one folder of good samples",
        action="Move them together",
    )
    return None


def _good_places(folder: Path) -> list[Path]:
    """Return the sub-folders of good samples. A name such as `OK-2231` counts next to a folder of good or bad ones."""
    names = [place.name for place in _places_of_samples(folder)]
    certain = any(label_of_folder(name) == "good" or label_of_words(name) == "bad" for name in names)
    return _named_good(folder) if certain else []


def _named_good(folder: Path) -> list[Path]:
    """Return the sub-folders whose names say that their samples are good, such as `good` or `OK-2231`."""
    return [place for place in _places_of_samples(folder) if _is_good_name(place.name)]


def _is_good_name(name: str) -> bool:
    plain = _PLAIN_NAME.fullmatch(name) is not None
    return label_of_folder(name) == "good" or (plain and label_of_words(name) == "good")


def _check_own_name(folder: Path, arrangement: _Arrangement) -> None:
    """Add a problem if name or place of a folder say that the samples directly in it are defects."""
    if label_of_place(folder) == "bad":
        arrangement.refuse(
            "train",
            folder,
            found="samples in a folder of defects, by its name or place",
            expected="good samples",
            action="Pass the folder that contains good and bad parts; if these are good, move them to a folder with "
            f"another name than {printable(folder.resolve().name)}, such as OK",
        )


def _add_good(place: Path, arrangement: _Arrangement, *, split: str = "train", sorted_by_name: bool = False) -> None:
    """Add the good samples of a folder, and the bad ones too if the files are sorted by their names."""
    stems = _stems(place)
    labels = {stem: label_of_file(stem) for stem in stems}
    if sorted_by_name and any(labels.values()):
        _add_by_name(place, labels, split, arrangement)
    elif stems:
        _check_names(place, labels, "good", split, arrangement)
        arrangement.groups.append(_Group(split, GOOD, place))


def _note_kinds_of_names(arrangement: _Arrangement) -> None:
    """Note that all loose samples are taken for good ones, if their names begin with a few different words."""
    for group in arrangement.groups:
        if group.defect == GOOD and group.stems is None:
            stems = _stems(group.folder)
            words = Counter(re.findall(r"^[^\W\d_]*", stem.lower())[0] or "a number" for stem in stems)
            if 1 < len(words) <= _MOST_KINDS:
                beginnings = ", ".join(f"{word} ({count})" for word, count in words.most_common())
                arrangement.notes.append(f"all samples are taken for good ones; their names begin with {beginnings}")


def _add_by_name(place: Path, labels: dict[str, Label | None], split: str, arrangement: _Arrangement) -> None:
    """Add the good and the bad samples of a folder whose file names all say which they are."""
    by_label = {label: frozenset(s for s in labels if labels[s] == label) for label in ("good", "bad", None)}
    if by_label[None] or not by_label["good"]:
        good, bad, neither = (len(by_label[label]) for label in ("good", "bad", None))
        arrangement.refuse(
            split,
            place,
            found=f"{good} files named as good, {bad} as bad, {neither} as neither",
            expected="names that all begin or end with a word such as ok, good, NG or bad, or none that does",
            action="Rename the files, or move the good parts to a folder OK and the others to a folder NOK",
        )
        return
    arrangement.groups.append(_Group(split, GOOD, place, by_label["good"]))
    if by_label["bad"]:
        arrangement.groups.append(_Group("test", BAD, place, by_label["bad"]))


def _check_names(
    place: Path, labels: dict[str, Label | None], own: Label, split: str, arrangement: _Arrangement
) -> None:
    """Add a problem if the names of some files contradict the name of their folder; or of all, in a good one."""
    other = _OPPOSITE[own]
    contrary = [stem for stem, label in labels.items() if label == other]
    if contrary and (own == "good" or len(contrary) < len(labels)):
        arrangement.refuse(
            split,
            place,
            found=f"{len(contrary)} of {len(labels)} files with the name of a {other} part, first {contrary[0]}",
            expected=f"{own} parts alone",
            action="Move or rename these files",
        )


def _add_defects(place: Path, arrangement: _Arrangement, skip: tuple[Path | None, ...] = ()) -> None:
    """Add every folder of samples as a defect; a folder such as NOK may hold a folder for each kind of defect."""
    for defect in _places_of_samples(place):
        if defect in skip:
            continue
        if label_of_folder(defect.name) == "good":
            continue
        if label_of_words(defect.name) == "good" and any(group.split == "train" for group in arrangement.groups):
            _refuse_good_name(defect, arrangement)
            continue
        stems = _stems(defect)
        if stems:
            _check_names(defect, {stem: label_of_file(stem) for stem in stems}, "bad", "test", arrangement)
            arrangement.groups.append(_Group("test", defect.name, defect))
        if label_of_words(defect.name) == "bad":
            _add_defects(defect, arrangement)


def _refuse_good_name(place: Path, arrangement: _Arrangement) -> None:
    """Add a problem for a folder in the place of a defect whose name says that its parts are good."""
    name = printable(place.name)
    arrangement.refuse(
        "test",
        place,
        found="a folder of good parts, by its name, where defects are",
        expected="a folder of defects",
        action=f"Rename {name} to the name of its defect; if its parts are good, move them to the folder of good parts",
    )


def _add_validation(validation: Path, arrangement: _Arrangement) -> None:
    """Add the good samples of a validation split that was made by hand, or a problem if they cannot be found."""
    places = [place for place in _places_of_samples(validation) if _stems(place)]
    good = [place for place in _named_good(validation) if place in places] or [validation]
    if len(good) == 1 and (good != [validation] or _stems(validation) or not places):
        _add_good(good[0], arrangement, split="validation")
        return
    listed = " and ".join(printable(place.name) for place in places)
    arrangement.refuse(
        "validation",
        validation,
        found=f"samples in {listed}",
        expected="one folder of good samples",
        action="Move the good samples to validation/good",
    )


def _add_test(test: Path, arrangement: _Arrangement) -> None:
    """Add the samples of a test split that was made by hand."""
    good = _named_good(test)
    for place in good:
        _add_good(place, arrangement, split="test")
    _add_defects(test, arrangement, skip=tuple(good))
    stems = _stems(test)
    if not stems:
        return
    labels = {stem: label_of_file(stem) for stem in stems}
    if all(labels.values()):
        _add_good(test, arrangement, split="test", sorted_by_name=True)
        return
    arrangement.refuse(
        "test",
        test,
        found="samples that are marked neither as good nor as a defect",
        expected="the folders test/good and test/DEFECT, or names such as ok_001 and NG_002",
        action="Sort the samples into such folders",
    )


def _keep_back(arrangement: _Arrangement) -> None:
    """Move some good samples to the test if there are defects to compare them with."""
    train = [group for group in arrangement.groups if group.split == "train"]
    if not train or all(group.split != "test" for group in arrangement.groups):
        return
    (good,) = train
    stems = frozenset(_stems(good.folder)) if good.stems is None else good.stems
    kept = frozenset(filter(is_kept_back, stems))
    if len(stems) < LEAST_TO_KEEP_BACK or not kept:
        return
    arrangement.groups.remove(good)
    arrangement.groups += [replace(good, stems=stems - kept), replace(good, split="test", stems=kept)]
    arrangement.notes.append(
        f"{len(kept)} of {len(stems)} good parts are kept back for the test, about one in {KEPT_BACK}, chosen by name"
    )


def _check_defects(folder: Path, arrangement: _Arrangement) -> None:
    """Add a problem for each defect whose samples lie in two folders, because their names would be equal."""
    tests = [group for group in arrangement.groups if group.split == "test"]
    for defect, count in Counter(group.defect for group in tests).items():
        if count > 1:
            places = " and ".join(str(g.folder.relative_to(folder)) for g in tests if g.defect == defect)
            arrangement.refuse(
                "test",
                folder,
                found=f"samples of {defect} in {places}",
                expected="one folder for each defect",
                action="Rename one of the folders, or move the files together",
            )


def _note_unused(folder: Path, arrangement: _Arrangement) -> None:
    """Note files of samples that lie next to the folders of samples, or below them, and are not used."""
    used = {group.folder for group in arrangement.groups}
    below = (
        place for group in arrangement.groups if group.folder != folder for place in _places_of_samples(group.folder)
    )
    for place in sorted({folder, *below} - used):
        if count := len(_stems(place)):
            name = "the folder itself" if place == folder else place.relative_to(folder)
            moved = place != folder and label_of_words(place.name) == "bad"
            remedy = f"; to test with them, move {name} next to the folder of good parts" if moved else ""
            arrangement.notes.append(f"{count} samples in {name} are not used{remedy}")


def _places_of_samples(place: Path) -> list[Path]:
    """Return the sub-folders that may hold samples."""
    return [p for p in subfolders(place) if p.name.lower() not in SAMPLE_FOLDERS and skipped_folder(p) != "mask"]


def _stems(place: Path) -> list[str]:
    """Return the sorted names of the samples in a folder, whatever their modality."""
    kinds: list[tuple[Modality, str]] = [("xyz", "rgb"), *(("rgb", image) for image in IMAGE_MODALITIES)]
    return sorted({stem for modality, image in kinds for stem in _files(place, modality, image).files})


def _list_group(group: _Group, required: tuple[Modality, ...], image: str) -> Listing:
    kinds = {modality: _chosen(_files(group.folder, modality, image), group.stems) for modality in required}
    if not any(files.files for files in kinds.values()):
        return Listing()
    masks = None if group.defect == GOOD else _chosen(_masks(group.folder, image), group.stems)
    return list_defect(group.split, group.defect, kinds, masks)


def _chosen(files: FilesByStem, stems: frozenset[str] | None) -> FilesByStem:
    if stems is None:
        return files
    return FilesByStem(files.folder, {stem: paths for stem, paths in files.files.items() if stem in stems})


def _files(folder: Path, modality: Modality, image: str) -> FilesByStem:
    if any((folder / name).is_dir() for name in SAMPLE_FOLDERS):
        return find_modality(folder, modality, image)
    candidates = find_loose(folder, modality)
    masks = _masks_next_to_images(folder).files if modality == "rgb" else {}
    drawn = {path for paths in masks.values() for path in paths}
    files = {stem: [p for p in paths if p not in drawn] for stem, paths in candidates.files.items()}
    return FilesByStem(folder, {stem: paths for stem, paths in files.items() if paths})


def _masks(folder: Path, image: str) -> FilesByStem:
    places = (mask_folder(folder, name, image) for name in _MASK_FOLDERS)
    place = next((place for place in places if place.is_dir()), None)
    return _masks_next_to_images(folder) if place is None else find_masks(place)


def _masks_next_to_images(folder: Path) -> FilesByStem:
    """Return the files `NNN_mask.png` next to the image `NNN`."""
    masks = find_masks(folder).files
    own = {stem: [p for p in paths if p.stem != stem] for stem, paths in masks.items() if len(paths) > 1}
    return FilesByStem(folder, {stem: paths for stem, paths in own.items() if paths})
