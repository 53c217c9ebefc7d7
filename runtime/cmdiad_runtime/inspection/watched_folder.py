"""List the samples in a watched folder, with the present state of their files."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.inspection.arrived import PAIR, Arrived, FileState, file_keys, file_state, result_key
from cmdiad_runtime.inspection.find_inputs import SKIPPED_TEXTS, skipped_file, skipped_folder
from cmdiad_runtime.inspection.inputs import files_of_part, image_candidates
from cmdiad_runtime.modalities import folders_of, foreign_folder
from cmdiad_runtime.names import MODALITIES, Modality
from cmdiad_runtime.printable import cause_of, printable
from cmdiad_runtime.readers.folders import MIXED_SUFFIXES, MODALITY_SUFFIXES, folder_of, loose_files

IsKnown = Callable[[str], bool]
"""Function that returns True for the key of a known sample or file."""
SayOnce = Callable[[str, str], None]
"""Receiver of a subject and a message; of several messages with the same subject, only the first is shown."""
_TEMPORARY = (".tmp", ".part", ".partial", "~")


class FolderAwayError(OSError):
    """The watched folder cannot be listed."""


@dataclass(frozen=True)
class ListedSample:
    """A sample as it is in the folder at present.

    Attributes:
        path: File that names the sample: the image if there is one, else the cloud.
        files: States of the files of the sample, that of `path` first.
        others: States of further images and clouds of the same name that are new.
        missing: File that the sample lacks, "image" or "cloud"; "" if there are all.
        foreign: True for a TIFF file that is not of the detector's modality according to the content so far.
    """

    path: Path
    files: tuple[FileState, ...]
    missing: str = ""
    foreign: bool = False
    others: tuple[FileState, ...] = ()


@dataclass(frozen=True)
class KnownFiles:
    """Functions that know samples and files from before.

    Attributes:
        is_finished: Returns True for the `Arrived.key` of a sample, or one of the `file_keys`, that needs no look.
        is_earlier: Returns True for one of the `file_keys` of a file that was in an earlier sample.
    """

    is_finished: IsKnown
    is_earlier: IsKnown


def list_samples(
    folder: Path,
    modalities: Sequence[Modality],
    excluded: Collection[Path],
    known: KnownFiles,
    say: SayOnce,
    image_modality: str = "rgb",
) -> Iterator[ListedSample]:
    """Yield the samples in a folder and all folders below that are not finished, in any order.

    Args:
        folder: Folder to list.
        modalities: Modalities that a sample must have. An image and a cloud belong together if their names are equal
            except for the suffix, next to each other or in the folders `rgb` and `xyz` or `depth`.
        excluded: Folders to leave out, resolved.
        known: Functions that know finished samples and their files.
        say: Receiver of messages about what is left out.
        image_modality: Name of the image, which names the folders of images.

    Raises:
        FolderAwayError: The folder cannot be listed.
    """
    alone = known.is_finished
    if len(modalities) > 1:  # The other file of a refused one may follow.
        alone = _never
    for path in _files(folder, excluded, alone, say):
        sample = _sample(path, modalities, known.is_earlier, image_modality)
        if sample is not None and not _has_line(sample, known.is_finished):
            yield sample


def _never(_key: str) -> bool:
    return False


def _has_line(sample: ListedSample, is_finished: IsKnown) -> bool:
    """Return True if a sample, or each file of a pair in one sample or another, has a line of results."""
    arrived = Arrived(sample.path, sample.files)
    return is_finished(arrived.key) or (len(sample.files) > 1 and all(map(is_finished, arrived.file_keys)))


def _sample(
    path: Path, modalities: Sequence[Modality], is_earlier: IsKnown, image_modality: str
) -> ListedSample | None:
    """Return the sample that a file names, or None for a file without a part, or one that belongs to an image."""
    kinds = _modalities_of(path, image_modality)
    modality = next((modality for modality in modalities if modality in kinds), None)
    own = FileState.of(path)
    if modality is None:
        return ListedSample(path, (own,), foreign=True) if kinds and _may_be_either(path) else None
    if len(modalities) == 1:
        return ListedSample(path, (own,))
    if modality == "xyz":
        images = (one for one in image_candidates(path) if os.path.lexists(one))
        has_image = any(modalities[0] in _modalities_of(one, image_modality) for one in images)
        return None if has_image else ListedSample(path, (own,), "image")
    return _pair(own, modalities, is_earlier)


def _pair(own: FileState, modalities: Sequence[Modality], is_earlier: IsKnown) -> ListedSample | None:
    """Return the sample of an image, or None if another new image of the same name names the sample.

    A file of an earlier sample is used only if no other one is there.
    """
    files = [FileState.of(file) for file in files_of_part(own.path, arriving=True)]
    images = [file for file in files if file.path == own.path or modalities[0] in _modalities_of(file.path)]
    clouds = [file for file in files if file not in images]
    if not clouds:
        return ListedSample(own.path, (own,), "cloud")
    image, *other_images = [file for file in images if not is_earlier(_file_key(file, "image"))] or [own]
    if image.path != own.path:
        return None
    cloud, *other_clouds = [file for file in clouds if not is_earlier(_file_key(file, "cloud"))] or clouds[:1]
    return ListedSample(own.path, (own, cloud), others=(*other_images, *other_clouds))


def _file_key(file: FileState, kind: str) -> str:
    """Return the text by which an image or a cloud is recognised in another sample."""
    return file_keys(str(file.path), file_state(file.size, file.mtime_ns))[PAIR.index(kind)]


def _modalities_of(path: Path, image_modality: str = "rgb") -> tuple[Modality, ...]:
    """Return the modalities that a file may have by the rules of `find_inputs`; none for another kind of file.

    The content decides about a TIFF file next to others. It may be incomplete, or decide nothing: then the file may
    have the modality that no other file of the same name has.
    """
    suffix = path.suffix.lower()
    for modality in MODALITIES:
        if folder_of(path).name in folders_of(modality, image_modality):
            return (modality,) if suffix in MODALITY_SUFFIXES[modality] else ()
    if foreign_folder(folder_of(path).name, image_modality):
        return ()
    kinds = tuple(modality for modality, suffixes in MIXED_SUFFIXES.items() if suffix in suffixes)
    if not _may_be_either(path):
        return kinds
    together = [path, *(file for file in files_of_part(path) if file != path)]
    return tuple(modality for modality in kinds if path in loose_files(together, modality))


def _may_be_either(path: Path) -> bool:
    return all(path.suffix.lower() in suffixes for suffixes in MIXED_SUFFIXES.values())


def _files(folder: Path, excluded: Collection[Path], is_finished: IsKnown, say: SayOnce) -> Iterator[Path]:
    """Yield the files that are no masks, thumbnails and so on. Links to folders are not followed.

    Finished samples of one file are left out first, because a folder may hold a million of them.
    """
    folders = [folder]
    while folders:
        current = folders.pop()
        try:
            with os.scandir(current) as entries:
                parent = os.path.join(os.path.abspath(current), "")  # noqa: PTH100, PTH118 - as text, for speed
                for entry in entries:
                    is_folder = entry.is_dir()
                    if not is_folder and _is_known(entry, parent, is_finished):
                        continue
                    path = current / entry.name
                    if not is_folder:
                        if not _is_left_out(path, say):
                            yield path
                    elif entry.is_symlink():
                        say(str(path), f"warning: {printable(path)} is a link to a folder, which is not watched")
                    elif skipped_folder(path) is None and path.resolve() not in excluded:
                        folders.append(path)
        except OSError as error:
            if current == folder:
                raise FolderAwayError(error.errno, error.strerror) from error
            say(str(current), f"warning: {printable(current)} cannot be listed ({cause_of(error)}); retried")


def _is_known(entry: os.DirEntry[str], parent: str, is_finished: IsKnown) -> bool:
    """Return True if a file alone is a finished sample."""
    try:
        status = entry.stat()
    except OSError:
        return False
    return is_finished(result_key(parent + entry.name, file_state(status.st_size, status.st_mtime_ns)))


def _is_left_out(path: Path, say: SayOnce) -> bool:
    """Return True, and say so once for each reason, if a picture or cloud is no input because of its name."""
    temporary = path.name.startswith("~") or path.name.endswith(_TEMPORARY) or path.stem.endswith(_TEMPORARY)
    reason = skipped_file(path)
    if reason is not None and not (temporary and reason == "other format"):
        say(reason, f"skipped: {SKIPPED_TEXTS[reason]}, the first is {printable(path)}")
        return True
    if temporary and _modalities_of(path):
        say("temporary", f"skipped: files with a temporary name, the first is {printable(path)}")
    return temporary
