"""Files of a watched folder whose part has no recorded result yet.

A sample that was read is claimed: its files move to a separate folder. They move on to the folder of taken files
when the records have the result. So a claim that is left after a kill names a part whose result may be lost.
"""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Iterable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

from cmdiad_line.records.database import database_path
from cmdiad_line.records.read_only import connect_read_only
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.inspection.arrived import FileState
from cmdiad_runtime.inspection.inputs import files_of_part, image_candidates

WAITING = ".waiting"
"""Name of the folder of claims, in the folder of taken files."""
RECORDED_S = 30.0
"""Seconds after which a claim that an earlier process left is lost if the records have no result.

Until then a supervisor that survived has recorded the result, or a new one is ready.
"""
_UNKNOWN = "new-"


@dataclass
class Claim:
    """Files of one part that were moved out of the watched folder.

    Attributes:
        folder: Folder of the files. Its name is the acquisition id, or begins with "new-" before there is one.
        lost_s: Time of `time.monotonic` at which the claim is lost without a recorded result, or None if this process
            made the claim.
    """

    folder: Path
    lost_s: float | None = None

    @property
    def acquisition_id(self) -> int:
        """Return the acquisition id, or 0 if the part has none yet."""
        return int(self.folder.name) if self.folder.name.isdecimal() else 0

    @property
    def name(self) -> str:
        """Return the path of the first file in the watched folder."""
        return min((file.relative_to(self.folder).as_posix() for file in self.files()), default="")

    def files(self) -> list[Path]:
        """Return the files."""
        return [path for path in self.folder.rglob("*") if path.is_file()]

    def note(self, acquisition_id: int) -> None:
        """Note the acquisition id in the name of the folder. Without a note the claim stays until the next start."""
        with suppress(OSError):
            self.folder = self.folder.rename(self.folder.with_name(str(acquisition_id)))


class Claims:
    """Folders with files that were taken from a watched folder and have no recorded result yet.

    Args:
        taken: Folder of taken files, which exists.
        state: State folder of the station, with the records.
    """

    def __init__(self, taken: Path, state: Path) -> None:
        self._taken, self._state = taken, state
        self._folder = taken / WAITING
        self._folder.mkdir(exist_ok=True)
        lost_s = time.monotonic() + RECORDED_S
        self._claims = [Claim(folder, lost_s) for folder in sorted(self._folder.iterdir()) if folder.is_dir()]

    def take_partners(self, watched: Path) -> None:
        """Move the other files of a part out of the watched folder, if a kill between image and cloud left them there.

        One would complete the next part of the same name.

        Args:
            watched: The watched folder, which is not watched yet.

        Raises:
            OSError: A file cannot be moved.
        """
        for claim in self._claims:
            files = claim.files()
            if claim.acquisition_id or not files:  # A claim with an id had all files.
                continue
            image, *_ = image_candidates(watched / files[0].relative_to(claim.folder))
            for path in files_of_part(image, arriving=True):
                place = claim.folder / path.relative_to(watched)
                if path.is_file() and not place.exists():  # Otherwise it is of the next part.
                    _move(path, place)

    def add(self, watched: Path, files: Iterable[FileState]) -> Claim:
        """Move the files of a part out of the watched folder: all of them, or none if one cannot be moved.

        Args:
            watched: The watched folder.
            files: Files in it. One that somebody has removed or replaced is left out: a new one is of another part.

        Raises:
            OSError: A file cannot be moved.
        """
        folder = self._folder / f"{_UNKNOWN}{time.time_ns()}"
        folder.mkdir(parents=True)
        claim = Claim(folder)
        self._claims.append(claim)
        try:
            for file in files:
                if FileState.of(file.path) == file:
                    with suppress(FileNotFoundError):
                        _move(file.path, folder / file.path.relative_to(watched))
        except OSError:
            claim.lost_s = time.monotonic()  # What cannot be put back is refused.
            for path in claim.files():
                place = watched / path.relative_to(folder)
                with suppress(OSError):
                    if not place.exists():
                        path.replace(place)
            raise
        return claim

    def settle(self) -> Claim | None:
        """Let the files of recorded parts move on, and return a claim that is lost, which the caller must refuse.

        A claim without files is forgotten: its process was killed before it moved one.

        Raises:
            OSError: A file cannot be moved.
        """
        recorded = self._recorded()
        for claim in [claim for claim in self._claims if claim.acquisition_id in recorded or not claim.name]:
            self.finish(claim)
        now_s = time.monotonic()
        for claim in self._claims:
            if claim.lost_s is not None and now_s >= claim.lost_s:
                claim.lost_s = None
                return claim
        return None

    def finish(self, claim: Claim) -> None:
        """Move the files of a claim to the folder of taken files. Somebody may have removed them.

        Raises:
            OSError: A file cannot be moved.
        """
        self._claims.remove(claim)
        for file in claim.files():
            _move(file, self._taken / file.relative_to(claim.folder))
        shutil.rmtree(claim.folder, ignore_errors=True)

    def _recorded(self) -> set[int]:
        """Return those acquisition ids of the claims that the records have a result for."""
        ids = [claim.acquisition_id for claim in self._claims if claim.acquisition_id]
        if not ids:
            return set()
        statement = f"SELECT acquisition_id FROM results WHERE acquisition_id IN ({','.join('?' * len(ids))})"  # noqa: S608
        try:
            with closing(connect_read_only(database_path(self._state))) as connection:
                return {number for (number,) in connection.execute(statement, ids)}
        except (sqlite3.Error, OutputError):
            return set()  # The next call tries again.


def _move(file: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    file.replace(target)
