"""Files of a data set that are no samples: hidden files, thumbnails, results of cmdiad. The rule of `cmdiad-run`."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from cmdiad_runtime.inspection.find_inputs import InputFiles, Skipped, skipped_file, skipped_folder
from cmdiad_runtime.readers import RGB_SUFFIXES, XYZ_SUFFIXES

_NO_SAMPLES: tuple[Skipped, ...] = ("hidden", "thumbnail", "own result")


def is_sample_folder(folder: Path) -> bool:
    """Return False for a hidden folder, a folder of thumbnails or a folder of results."""
    return skipped_folder(folder) not in _NO_SAMPLES


def is_sample_file(path: Path, *, masks: bool = False) -> bool:
    """Return False for a hidden file or a thumbnail, and for a mask by its name unless `masks` is True."""
    why = skipped_file(path)
    return why not in _NO_SAMPLES and (masks or why != "mask")


def skipped_text(folder: Path) -> str:
    """Return one line about the files in a category that are no samples, or "" if there are none but side files."""
    skipped: Counter[Skipped] = Counter()
    endings: Counter[str] = Counter()
    pending: list[tuple[Path, Skipped | None]] = [(folder, None)]
    while pending:
        current, reason = pending.pop()
        try:
            entries = list(os.scandir(current))
        except OSError:
            continue
        for entry in entries:
            path = current / entry.name
            if entry.is_dir(follow_symlinks=False):
                own = skipped_folder(path)
                pending.append((path, reason or (own if own in _NO_SAMPLES else None)))
                continue
            if entry.is_dir():  # A link to a folder: its samples are counted where they are used.
                continue
            why = reason or skipped_file(path)
            if why == "other format":
                skipped[why] += 1
                endings[path.suffix.lower()] += 1
            elif why in _NO_SAMPLES and path.suffix.lower() in (*RGB_SUFFIXES, *XYZ_SUFFIXES):
                skipped[why] += 1
    return InputFiles((), skipped, endings).skipped_text
