"""Search of folders for the files to inspect: everything that is a picture or cloud of a part, and nothing else.

Skipped are hidden files and folders, thumbnails, masks, results of cmdiad (wherever they lie), and files that are
inspected already under another name (links). All of them are counted, because a part that is skipped without a word
would pass as inspected. Anything else with a matching name is an input, also if it cannot be read: broken links,
pipes, and folders that cannot be listed end up as NG with a reason.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from cmdiad_runtime.modalities import IMAGE_MODALITIES, folders_of, image_mask_folder
from cmdiad_runtime.names import Modality, Sensors
from cmdiad_runtime.printable import printable
from cmdiad_runtime.readers.folders import MODALITY_FOLDERS, MODALITY_SUFFIXES, folder_of, loose_files
from cmdiad_runtime.support.lock import LOCK_NAME
from cmdiad_runtime.support.pattern_folder import is_pattern_bundle

Skipped = Literal["hidden", "thumbnail", "mask", "own result", "link", "other format", "other folder"]
"""Reason why a file in a folder is not inspected."""
SKIPPED_TEXTS: dict[Skipped, str] = {
    "hidden": "hidden",
    "thumbnail": "thumbnails",
    "mask": "masks",
    "own result": "results of cmdiad",
    "link": "links to files that are inspected",
    "other format": "files of another format",
    "other folder": "outside the data set's folders of the modality",
}
"""Text for people, by reason."""
assert set(SKIPPED_TEXTS) == set(get_args(Skipped))

_MASKS = ("gt", "mask", "masks", "ground_truth", "groundtruth")
_MASK_FOLDERS = frozenset([*_MASKS, *(image_mask_folder(name, image) for name in _MASKS for image in IMAGE_MODALITIES)])
_THUMBNAIL_FOLDERS = frozenset(["@eadir", "@__thumb", "thumbs", "thumbnails", "__macosx"])
_SYSTEM_FOLDERS = frozenset(["$recycle.bin", "system volume information", "lost+found"])
_MASK_ENDINGS = ("_mask", "-mask")
_THUMBNAIL_ENDINGS = ("_thumb", "-thumb", "_thumbnail", "-thumbnail")
_SIDE_FILES = frozenset(
    [
        *(".aae", ".cfg", ".csv", ".db", ".doc", ".docx", ".htm", ".html", ".ini", ".json", ".jsonl", ".lnk", ".lock"),
        *(".log", ".md", ".md5", ".pdf", ".py", ".sha256", ".toml", ".tsv", ".txt", ".url", ".xls", ".xlsx", ".xml"),
        *(".xmp", ".yaml", ".yml"),
    ]
)
"""Endings of files that are never a picture or cloud. Every other file that is not inspected is counted."""
_SIDE_NAMES = frozenset(["changelog", "license", "makefile", "notice", "readme"])
"""Names of such files that have no ending."""
_KNOWN = frozenset(suffix for suffixes in MODALITY_SUFFIXES.values() for suffix in suffixes)
_LAYOUT_FOLDERS = frozenset(folder for folders in MODALITY_FOLDERS.values() for folder in folders)
_MOST_ENDINGS, _LONGEST_ENDING = 5, 12
_RESULTS_MARKS = ("results.jsonl", LOCK_NAME)
"""Files next to the folder `overlays` of results."""


@dataclass(frozen=True)
class InputFiles:
    """Files to inspect.

    Attributes:
        paths: Files in order. A folder among them contains no file of the modality, or cannot be listed.
        skipped: Number of files that were left out, by reason.
        endings: Number of those of another format, by the ending of the name.
    """

    paths: tuple[Path, ...]
    skipped: Mapping[Skipped, int] = field(default_factory=dict)
    endings: Mapping[str, int] = field(default_factory=dict)

    @property
    def skipped_text(self) -> str:
        """Return one line about the files that were left out, or "" if there are none."""
        endings = f" ({endings_text(self.endings)})" if self.endings else ""
        counts = ", ".join(
            f"{self.skipped[reason]} {text}{endings if reason == 'other format' else ''}"
            for reason, text in SKIPPED_TEXTS.items()
            if reason in self.skipped
        )
        return f"skipped: {counts}" if counts else ""


def endings_text(endings: Mapping[str, int]) -> str:
    """Return the most frequent endings of names with their numbers, for example "3 .heic, 1 without ending"."""
    frequent = Counter(endings).most_common(_MOST_ENDINGS)
    texts = [f"{count} {printable(ending[:_LONGEST_ENDING]) or 'without ending'}" for ending, count in frequent]
    return ", ".join([*texts, "…"] if len(endings) > len(frequent) else texts)


def other_files(folder: Path, modality: Modality, image_modality: str = "rgb") -> Mapping[str, int]:
    """Return the number of files of another format in a folder and all folders below, by the ending of the name."""
    search = _Search(modality, image_modality)
    search.files_in(folder)
    return search.endings


def find_inputs(paths: Sequence[Path], modality: Sensors, image_modality: str = "rgb") -> InputFiles:
    """Return the files to inspect: named files as they are, and the files of a modality in folders, sorted.

    For `"both"` the result contains the images; `read_sample` finds their clouds. In a folder of data-set layout (with
    sub-folders `rgb`, `xyz` or `depth`, `gt`) only the files of the modality's sub-folder are used. Elsewhere a PNG
    file is an image, never a depth image, and the content of a TIFF file decides.

    Args:
        paths: Files and folders.
        modality: Kinds of data that the detector reads.
        image_modality: Name of the image, which names the sub-folders.
    """
    search = _Search("xyz" if modality == "xyz" else "rgb", image_modality)
    folders = [path for path in paths if is_folder(path)]
    search.seen.update(filter(None, (identity_of(path) for path in paths if path not in folders)))
    inputs: list[Path] = []
    for path in paths:
        inputs.extend(search.files_in(path) if path in folders else [path])
    inputs = inputs or folders  # Folders that contain nothing but links to each other: a run without samples is no OK.
    return InputFiles(tuple(inputs), dict(search.skipped), dict(search.endings))


def identity_of(path: Path) -> tuple[int, int] | None:
    """Return device and number of the file behind a path; None if there is no such file."""
    try:
        status = path.stat()
    except (OSError, ValueError):
        return None
    return (status.st_dev, status.st_ino) if status.st_ino else (hash(path.resolve()), 0)


def is_folder(path: Path) -> bool:
    """Return True for a folder; False for anything else, also if the system refuses to answer."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


class _Search:
    """Search of some folders for the files of a modality.

    Args:
        modality: Kind of the files.
        image_modality: Name of the image.

    Attributes:
        seen: Device and number of the files that are inspected, and of the folders that were searched.
        skipped: Number of files that were left out, by reason.
        endings: Number of those of another format, by the ending of the name.
    """

    def __init__(self, modality: Modality, image_modality: str) -> None:
        self.modality = modality
        self._own_folders = folders_of(modality, image_modality)
        self._layout_folders = frozenset(self._own_folders) | _LAYOUT_FOLDERS
        self.seen: set[tuple[int, int]] = set()
        self.skipped: Counter[Skipped] = Counter()
        self.endings: Counter[str] = Counter()

    def files_in(self, folder: Path) -> list[Path]:
        """Return the files to inspect in a folder; the folder itself if there are none, or it cannot be listed."""
        links = self.skipped["link"]
        unreadable: list[Path] = []
        chosen = self._of_the_layout(sorted(self._pictures_and_clouds(folder, unreadable)))
        inputs = [path for path in chosen if self._is_new(path)]
        only_links = self.skipped["link"] > links
        self.skipped += Counter()  # Remove zeros.
        self.endings += Counter()
        return [*inputs, *unreadable] or ([] if only_links else [folder])

    def _pictures_and_clouds(self, folder: Path, unreadable: list[Path]) -> Iterator[Path]:
        """Yield the files of any modality that are no masks, thumbnails and so on, in any order."""
        pending: list[tuple[Path, Skipped | None]] = [(folder, "own result" if _is_overlays(folder) else None)]
        while pending:
            current, skipped = pending.pop()
            if skipped is None and not self._is_new(current):
                continue
            try:
                entries = list(os.scandir(current))
            except OSError:
                if skipped is None:
                    unreadable.append(current)
                continue
            for entry in entries:
                path = current / entry.name
                if is_folder(path):
                    if skipped is None or not entry.is_symlink():
                        pending.append((path, skipped or skipped_folder(path)))
                elif reason := skipped or skipped_file(path):
                    suffix = path.suffix.lower()
                    self.skipped[reason] += reason == "other format" or suffix in MODALITY_SUFFIXES[self.modality]
                    self.endings[suffix] += reason == "other format"
                elif path.suffix.lower() in _KNOWN:
                    yield path

    def _of_the_layout(self, files: list[Path]) -> list[Path]:
        """Return the files in the modality's own folders of a data set, or without such folders all loose files."""
        suffixes = MODALITY_SUFFIXES[self.modality]
        loose = [path for path in files if folder_of(path).name not in self._layout_folders]
        chosen = loose_files(loose, self.modality)
        named = [path for path in files if path.suffix.lower() in suffixes]
        own = [path for name in self._own_folders for path in named if folder_of(path).name == name]
        if own:
            first: dict[Path, Path] = {}  # A folder `depth` next to `xyz` has the same parts, one elsewhere has others.
            kept = [path for path in own if first.setdefault(path.parent.parent, path.parent) == path.parent]
            self.skipped["other folder"] += len(chosen) + len(_parts(own) - _parts(kept))
            return sorted(kept)
        parts = {path.with_suffix("") for path in chosen}
        others = [path for path in loose if path.with_suffix("") not in parts]
        self.skipped["other format"] += len(others)
        self.endings.update(path.suffix.lower() for path in others)
        return chosen

    def _is_new(self, path: Path) -> bool:
        """Return False, and count, if a file or folder was reached by another path before."""
        identity = identity_of(path)
        if identity in self.seen:
            self.skipped["link"] += 1
            return False
        self.seen.update(filter(None, [identity]))
        return True


def _parts(files: Sequence[Path]) -> set[Path]:
    """Return what distinguishes the parts of files in folders of modalities: place and name without suffix."""
    return {path.parent.parent / path.stem for path in files}


def skipped_file(path: Path) -> Skipped | None:
    """Return the reason why a file is no input because of its name, or None."""
    stem = path.stem.lower()
    if path.name.startswith("."):
        return "hidden"
    if stem.endswith(_MASK_ENDINGS):
        return "mask"
    if stem.endswith(_THUMBNAIL_ENDINGS):
        return "thumbnail"
    return "other format" if is_other_format(path) else None


def is_other_format(path: Path) -> bool:
    """Return True for a name that is neither that of a picture or cloud which cmdiad reads, nor of a side file."""
    suffix = path.suffix.lower()
    return not (suffix in _KNOWN or suffix in _SIDE_FILES or (not suffix and path.name.lower() in _SIDE_NAMES))


def skipped_folder(folder: Path) -> Skipped | None:
    """Return the reason why a folder contains no inputs, or None."""
    name = folder.name.lower()
    if name.startswith(".") or name in _SYSTEM_FOLDERS:
        return "hidden"
    if name in _THUMBNAIL_FOLDERS:
        return "thumbnail"
    if name in _MASK_FOLDERS:
        return "mask"
    bundle = (_exists(folder / "manifest.json") and _exists(folder / "graph.onnx")) or is_pattern_bundle(folder)
    return "own result" if bundle or _exists(folder / "run.json") or _is_overlays(folder) else None


def _is_overlays(folder: Path) -> bool:
    """Return True for the folder `overlays` in a folder of results."""
    return folder.name == "overlays" and any(_exists(folder.parent / name) for name in _RESULTS_MARKS)


def _exists(path: Path) -> bool:
    return identity_of(path) is not None or path.is_symlink()
