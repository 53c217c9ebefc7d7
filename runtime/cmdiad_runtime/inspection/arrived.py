"""Samples that arrived in a watched folder: their files, as they were when they were complete."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.modalities import SAMPLE_FOLDERS

PAIR = ("image", "cloud")
"""Files of a sample of both modalities, in the order of `Arrived.files`."""


@dataclass(frozen=True)
class FileState:
    """Size and time of the last change of a file, by which a changed or replaced file is recognised.

    Attributes:
        path: The file.
        size: Size in bytes.
        mtime_ns: Time of the last change in nanoseconds since 1970.
    """

    path: Path
    size: int
    mtime_ns: int

    @staticmethod
    def of(path: Path) -> FileState:
        """Return the present state of a file; a size of -1 if there is none, for example behind a broken link."""
        try:
            status = path.stat()
        except (OSError, ValueError):
            return FileState(path, -1, 0)
        return FileState(path, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True)
class Arrived:
    """A sample in a watched folder.

    Attributes:
        path: File that names the sample: the image if there is one, else the cloud.
        files: States of all files of the sample, that of `path` first; more than two if several images or clouds
            have the same name.
        refusal: Error that says why the sample cannot be inspected, or None.
    """

    path: Path
    files: tuple[FileState, ...]
    refusal: InputError | None = None

    @property
    def name(self) -> str:
        """Return the path as text."""
        return str(self.path)

    @property
    def state(self) -> str:
        """Return sizes and times of change as text, for results."""
        return "+".join(file_state(file.size, file.mtime_ns) for file in self.files)

    @property
    def key(self) -> str:
        """Return the text by which the same files are recognised after a restart; see `result_key`."""
        return result_key(self.name, self.state)

    @property
    def file_keys(self) -> list[str]:
        """Return the texts by which image and cloud are recognised in another sample; see `file_keys`."""
        return file_keys(self.name, self.state)

    def check_unchanged(self) -> None:
        """Raise InputError if a file differs from the one that was complete, so that its verdict would be a guess."""
        check_unchanged(self.files)

    def __str__(self) -> str:
        return self.name


def check_unchanged(files: Iterable[FileState]) -> None:
    """Raise InputError if a file has changed or was replaced since its state was noted."""
    for file in files:
        if FileState.of(file.path) != file:
            raise InputError(
                file.path,
                found="a file that changed while the sample was inspected",
                expected="a file that is complete; with --watch, one without a change for the time of --settle",
                action="let the camera write under a temporary name, or raise --settle. With --watch, the new file is "
                "inspected, too",
                reason="unreadable",
            )


def file_state(size: int, mtime_ns: int) -> str:
    """Return size and time of change of one file as text."""
    return f"{size}:{mtime_ns}"


def result_key(name: str, state: str) -> str:
    """Return the text that stands for a file in its present state.

    Args:
        name: Path of the file. After a restart the folder may be named otherwise: `line` or `/data/line`.
        state: See `Arrived.state`.
    """
    return f"{os.path.abspath(name)} {state}"  # noqa: PTH100 - as text, for speed


def file_keys(name: str, state: str) -> list[str]:
    """Return the texts that stand for image and cloud of a sample, whatever their suffixes are.

    A file without a partner has both texts, and so has each of more than two files.

    Args:
        name: Path of the sample.
        state: See `Arrived.state`.
    """
    path = Path(os.path.abspath(name))  # noqa: PTH100 - links stay
    folder = path.parent.parent if path.parent.name in SAMPLE_FOLDERS else path.parent
    states = state.split("+")
    kinds = PAIR if len(states) == len(PAIR) else [kind for kind in PAIR for _ in states]
    return [f"{folder / path.stem} {kind} {one}" for kind, one in zip(kinds, states * 2, strict=False)]
