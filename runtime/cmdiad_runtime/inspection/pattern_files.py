"""Files of a part whose image or cloud may be absent: which of the two are there, and which files to inspect.

Only an absent file counts as an absent modality. A file that is there and cannot be read, or whose format cmdiad does
not read, belongs to the part, so that a broken sensor is never taken for an absent one.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.find_inputs import InputFiles, Skipped, find_inputs, is_folder, is_other_format
from cmdiad_runtime.inspection.inputs import cloud_candidates, image_candidates
from cmdiad_runtime.names import Modality, Sensors
from cmdiad_runtime.readers.folders import (
    MIXED_SUFFIXES,
    MODALITY_FOLDERS,
    MODALITY_SUFFIXES,
    folder_of,
    loose_modality,
)

_NOT_THERE = (FileNotFoundError, NotADirectoryError)
_SETTLED_NS = 5_000_000_000
"""Age of a folder's last change from which a listing is kept: a file that is added within the same step of the file
system's clock (2 s on FAT) leaves the time of the change as it was."""


@dataclass(frozen=True)
class PartFiles:
    """Files of one part.

    Attributes:
        rgb: Image, or None if there is none.
        xyz: Cloud, or None if there is none.
    """

    rgb: Path | None
    xyz: Path | None

    @property
    def pattern(self) -> Sensors:
        """Return the modalities that are there."""
        if self.rgb is not None and self.xyz is not None:
            return "both"
        return "xyz" if self.rgb is None else "rgb"

    @property
    def first(self) -> Path:
        """Return the file that names the part: the image if there is one, else the cloud."""
        path = self.rgb or self.xyz
        assert path is not None
        return path


class PartFinder:
    """Search for the other file of a part. The names in a folder are kept until the folder changes."""

    def __init__(self) -> None:
        self._names: dict[Path, tuple[int, Mapping[str, list[Path]]]] = {}

    def files_of(self, path: Path) -> PartFiles:
        """Return the files of the part that an image or a cloud belongs to.

        Args:
            path: Image or cloud; need not exist, because reading reports an absent file.

        Raises:
            InputError: The part has another file in a format that cmdiad does not read or in a folder in other letter
                case, or a second cloud, which would be inspected in place of the named one.
            OSError: The folder of the other file cannot be searched.
        """
        is_cloud = modality_of(path) == "xyz"
        other = _first_present(image_candidates(path) if is_cloud else cloud_candidates(path))
        if other is None:
            self._refuse_other_format(path, "xyz" if is_cloud else "rgb")
        elif is_cloud:
            _refuse_second_cloud(path, other)
        return PartFiles(other, path) if is_cloud else PartFiles(path, other)

    def _refuse_other_format(self, path: Path, modality: Modality) -> None:
        """Raise InputError if the modality that seems absent is there under a name that the readers do not take."""
        missing: Modality = "rgb" if modality == "xyz" else "xyz"
        own = folder_of(path)
        in_layout = own.name.lower() in MODALITY_FOLDERS[modality]
        folders = self._spellings(own.parent, MODALITY_FOLDERS[missing]) if in_layout else [path.parent]
        suffixes = (MODALITY_SUFFIXES if in_layout else MIXED_SUFFIXES)[missing]
        for folder in folders:
            for file in self._with_stem(folder, path.stem):
                of_part = file.suffix.lower() in suffixes or is_other_format(file)
                if of_part and file != path and not is_folder(file):
                    raise InputError(
                        path,
                        found=f"the file {file} of the same part, which is not read because of its format, or because "
                        "upper and lower case of the two names or folders do not fit",
                        expected="the other modality in a readable format, under the same name and, if there are "
                        "folders, in one named in lower case, or no such file if this part lacks it",
                        action="convert or rename file and folder, or move the file away if it is no picture or cloud "
                        "of the part",
                        reason="unsupported",
                    )

    def _spellings(self, parent: Path, names: Sequence[str]) -> list[Path]:
        """Return the folders of these names, whether they exist or not, and existing ones in other letter case."""
        other = [entry for name in names for entry in self._with_stem(parent, name) if entry.name.lower() == name]
        return list(dict.fromkeys((*(parent / name for name in names), *other)))

    def _with_stem(self, folder: Path, stem: str) -> Sequence[Path]:
        try:
            changed = folder.stat().st_mtime_ns
            known = self._names.get(folder)
            if known is not None and known[0] == changed:
                return known[1].get(stem.lower(), [])
            by_stem: dict[str, list[Path]] = {}
            for entry in folder.iterdir():
                by_stem.setdefault(entry.stem.lower(), []).append(entry)
        except _NOT_THERE:
            if os.path.lexists(folder):  # A broken link, or no folder: the place of the files is broken, not absent.
                raise
            return []
        if time.time_ns() - changed > _SETTLED_NS:
            self._names[folder] = (changed, by_stem)
        return by_stem.get(stem.lower(), [])


def find_pattern_inputs(paths: Sequence[Path]) -> InputFiles:
    """Return one file for each part with an image, a cloud or both: the image if there is one, else the cloud.

    Args:
        paths: Files and folders, see `find_inputs`.
    """
    images, clouds = find_inputs(paths, "rgb"), find_inputs(paths, "xyz")
    without = {path for path in (*images.paths, *clouds.paths) if is_folder(path)}
    # A folder without a file of one modality is an input only if it has none of the other, too.
    without &= set(images.paths) & set(clouds.paths)
    listed = [path for path in dict.fromkeys((*images.paths, *clouds.paths)) if path in without or not is_folder(path)]
    known = set(listed)
    chosen = [path for path in listed if path in without or not _has_image(path, known)]
    skipped: dict[Skipped, int] = dict(Counter(images.skipped) | Counter(clouds.skipped))
    endings = Counter(images.endings) & Counter(clouds.endings)
    skipped.pop("other format", None)
    if others := sum(endings.values()):
        skipped["other format"] = others
    return InputFiles(tuple(chosen), skipped, dict(endings))


def _has_image(path: Path, known: Collection[Path]) -> bool:
    """Return True for a cloud whose image is among the known files."""
    return modality_of(path) == "xyz" and any(image in known for image in image_candidates(path))


def modality_of(path: Path) -> Modality:
    """Return the modality of a file by its folder, or by name and content; "xyz" if these do not decide."""
    for modality, folders in MODALITY_FOLDERS.items():
        if folder_of(path).name in folders:
            return modality
    return loose_modality(path) or "xyz"


def _refuse_second_cloud(cloud: Path, image: Path) -> None:
    """Raise InputError if the part has another cloud, because the files are read by the name of the image."""
    named = _lower(cloud)  # A file system may have one file under a name in upper and in lower case.
    second = _first_present(path for path in cloud_candidates(image) if _lower(path) != named)
    if second is not None:
        raise InputError(
            cloud,
            found=f"a second cloud {second} of the same part",
            expected="one cloud of a part",
            action=f"move one of the clouds away, or pass the image {image}",
            reason="unsupported",
        )


def _lower(path: Path) -> str:
    return os.path.abspath(path).lower()  # noqa: PTH100 - links stay


def _first_present(candidates: Iterable[Path]) -> Path | None:
    """Return the first path at which anything lies: also a broken link, a folder, or a file behind a refusal."""
    for path in candidates:
        try:
            path.lstat()
        except (*_NOT_THERE, ValueError):
            continue
        return path
    return None
