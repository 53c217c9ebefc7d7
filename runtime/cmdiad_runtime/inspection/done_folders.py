"""Move inspected files of a watched folder into the folders `OK` and `NG`."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.inspection.arrived import Arrived, FileState
from cmdiad_runtime.printable import cause_of, printable
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.lock import lock_folder
from cmdiad_runtime.support.regular_file import open_regular

_RECORD = ".cmdiad.move.json"
"""Name of the record of an unfinished move of several files: a file that a kill left behind would be inspected with the
partner of another part."""


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

        A file that is no longer the inspected one stays where it is: no file gets into `OK` without a look. The others
        are moved, because they would complete another part.

        Args:
            arrived: Inspected sample.
            verdict: "OK" or "NG".
        """
        outside = [file.path for file in arrived.files if not file.path.is_relative_to(self.watched)]
        if outside:
            return f"{printable(outside[0])} is not in {printable(self.watched)}"
        places = [self.folder / verdict / file.path.relative_to(self.watched) for file in arrived.files]
        problem = ""
        try:
            for path in places:
                path.parent.mkdir(parents=True, exist_ok=True)
            targets = _free_names(places)
            if len(targets) > 1:
                self.finish_move()
                self._record(arrived, targets)
            for file, target in zip(arrived.files, targets, strict=True):
                if not _move(file, target):
                    is_link = file.path.is_symlink()  # A relative link leads nowhere from another folder.
                    why = "is a relative link" if is_link else "has been replaced since the inspection"
                    problem = problem or f"{printable(file.path)} {why}"
            if len(targets) > 1:
                (self.folder / _RECORD).unlink()
        except OSError as error:
            return cause_of(error)
        except OutputError as error:
            return str(error)
        return problem

    def finish_move(self) -> None:
        """Move the files that a kill or a failure left in the watched folder, if they are still those of the record.

        Raises:
            OutputError: The record cannot be used, or a file cannot be moved.
        """
        record = self.folder / _RECORD
        if not os.path.lexists(record):
            return
        try:
            for file, target in self._recorded():
                hidden = _hidden(target)
                if os.path.lexists(hidden):
                    _show(hidden, file, target)
                else:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    _move(file, _free_names([target])[0])
            record.unlink()
        except (OSError, ValueError) as error:
            raise OutputError(
                record,
                found=f"an unfinished move of the files of one part ({cause_of(error)})",
                expected=f"files in {self.watched} that can be moved",
                action="move the files of this part by hand, then remove the record",
            ) from error

    def _recorded(self) -> list[tuple[FileState, Path]]:
        """Return the files of the record and where to move them.

        Raises:
            OSError: The record cannot be read.
            ValueError: The record is damaged, or that of another watched folder: if it were ignored, the files would
                complete other parts.
        """
        try:
            with open_regular(self.folder / _RECORD) as file:
                record = json.loads(file.read())
        except (ValueError, RecursionError) as error:
            raise ValueError("the record is damaged") from error
        match record:
            case {"watched": str(watched), "files": [_, *_] as entries} if all(map(_is_entry, entries)):
                pass
            case _:
                raise ValueError("the record is damaged")
        if watched != str(self.watched.resolve()):
            raise ValueError(f"the files are in the folder {watched}")
        return [
            (FileState(self.watched / name, size, mtime_ns), self.folder / place)
            for name, size, mtime_ns, place in entries
        ]

    def _record(self, arrived: Arrived, targets: list[Path]) -> None:
        """Write durably which files are going to be moved where."""
        entries = [
            (str(file.path.relative_to(self.watched)), file.size, file.mtime_ns, str(target.relative_to(self.folder)))
            for file, target in zip(arrived.files, targets, strict=True)
        ]
        write_json(self.folder / _RECORD, {"watched": str(self.watched.resolve()), "files": entries})


@contextmanager
def open_done_folders(watched: Path, folder: Path) -> Iterator[DoneFolders]:
    """Own a folder for inspected files.

    Args:
        watched: Watched folder.
        folder: Folder for `OK` and `NG`; created if missing.

    Raises:
        OutputError: The folder cannot be written to, is the watched one, lies on another file system (a move would
            not be atomic), another process uses it, or a move that was interrupted cannot be finished.
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
        done = DoneFolders(watched, folder)
        done.finish_move()
        yield done


def _is_entry(entry: object) -> bool:
    """Return True for name, size, time of change and target of a file, both of which stay in their folders."""
    match entry:
        case [str(name), int(), int(), str(place)]:
            return all(
                not Path(one).anchor and ".." not in Path(one).parts and "\0" not in one for one in (name, place)
            )
    return False


def _free_names(targets: list[Path]) -> list[Path]:
    """Return the paths themselves, or all with the same number behind their stems if one is taken.

    A kill may have left a file under the hidden name of a path.
    """
    names, number = targets, 1
    while any(os.path.lexists(path) or os.path.lexists(_hidden(path)) for path in names):
        number += 1
        names = [path.with_name(f"{path.stem}-{number}{path.suffix}") for path in targets]
    return names


def _move(file: FileState, target: Path) -> bool:
    """Move a file that is still the inspected one; return False, with the file where it was, if it is not.

    Another file may take the name at any moment, so the file is checked again under a hidden name.
    """
    if FileState.of(file.path) != file:
        return False
    hidden = _hidden(target)
    file.path.rename(hidden)
    return _show(hidden, file, target)


def _hidden(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _show(hidden: Path, file: FileState, target: Path) -> bool:
    """Give a file under a hidden name its own name, or put another one back and return False."""
    moved = FileState.of(hidden)
    if (moved.size, moved.mtime_ns) == (file.size, file.mtime_ns):
        hidden.rename(target)
        return True
    if not file.path.exists():
        hidden.rename(file.path)
        return False
    raise OSError(f"replaced twice; the version in between is {hidden}")
