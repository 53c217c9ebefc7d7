"""Move inspected files of a watched folder into the folders `OK` and `NG`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.inspection.arrived import Arrived, FileState
from cmdiad_runtime.printable import cause_of, printable
from cmdiad_runtime.support.lock import lock_folder


@dataclass(frozen=True)
class DoneFolders:
    """Folders for inspected files; see `open_done_folders`.

    Attributes:
        watched: Watched folder, whose folders are repeated below `OK` and `NG`.
        folder: Folder with the folders `OK` and `NG`.
    """

    watched: Path
    folder: Path

    def move(self, arrived: Arrived, verdict: str) -> str:
        """Move the files of a sample, and return the problem as text, or "".

        A file that is no longer the inspected one stays where it is: no file gets into `OK` without a look.

        Args:
            arrived: Inspected sample.
            verdict: "OK" or "NG".
        """
        outside = [file.path for file in arrived.files if not file.path.is_relative_to(self.watched)]
        if outside:
            return f"{printable(outside[0])} is not in {printable(self.watched)}"
        places = [self.folder / verdict / file.path.relative_to(self.watched) for file in arrived.files]
        try:
            for path in places:
                path.parent.mkdir(parents=True, exist_ok=True)
            targets = _free_names(places)
            for file, target in zip(arrived.files, targets, strict=True):
                if not _move(file, target):
                    is_link = file.path.is_symlink()  # A relative link leads nowhere from another folder.
                    why = "is a relative link" if is_link else "has been replaced since the inspection"
                    return f"{printable(file.path)} {why}"
        except OSError as error:
            return cause_of(error)
        return ""


@contextmanager
def open_done_folders(watched: Path, folder: Path) -> Iterator[DoneFolders]:
    """Own a folder for inspected files.

    Args:
        watched: Watched folder.
        folder: Folder for `OK` and `NG`; created if missing.

    Raises:
        OutputError: The folder cannot be written to, is the watched one, lies on another file system (a move would
            not be atomic), or another process uses it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        problem = ""
        if folder.stat().st_dev != watched.stat().st_dev:
            problem = "a folder on another file system than the watched one, to which no file can be moved in one step"
        if folder.samefile(watched):
            problem = "the watched folder itself"
    except OSError as error:
        problem = cause_of(error)
    if problem:
        raise OutputError(
            folder,
            found=problem,
            expected="a writable folder on the file system of the watched one",
            action=f"choose another --move-to, for example {printable(watched / 'inspected')}",
        )
    with lock_folder(folder):
        yield DoneFolders(watched, folder)


def _free_names(targets: list[Path]) -> list[Path]:
    """Return the paths themselves, or all with the same number behind their stems if one is taken."""
    names, number = targets, 1
    while any(path.exists() or path.is_symlink() for path in names):
        number += 1
        names = [path.with_name(f"{path.stem}-{number}{path.suffix}") for path in targets]
    return names


def _move(file: FileState, target: Path) -> bool:
    """Move a file that is still the inspected one; return False, with the file where it was, if it is not.

    Another file may take the name at any moment, so the file is checked again under a hidden name.
    """
    if FileState.of(file.path) != file:
        return False
    hidden = target.with_name(f".{target.name}.part")
    file.path.rename(hidden)
    moved = FileState.of(hidden)
    if (moved.size, moved.mtime_ns) == (file.size, file.mtime_ns):
        hidden.rename(target)
        return True
    if not file.path.exists():
        hidden.rename(file.path)
        return False
    raise OSError(f"replaced twice; the version in between is {hidden}")
