"""The pictures on the disk. The oldest ones are removed by age, by size, and for free space."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cmdiad_line.records.picture_places import is_day, is_part
from cmdiad_line.station_file.pictures import Pictures

_GIGABYTE = 10**9


class PictureRing:
    """Folders of parts, oldest first, with their sizes. Owned by one process.

    The order is that of the acquisition ids, so a clock that steps back changes nothing. Only the age in days depends
    on the clock.

    Args:
        folder: Folder of all pictures; created if missing.
        section: Section `[pictures]` of the station file.

    Attributes:
        bytes: Size of all pictures in bytes.
    """

    def __init__(self, folder: Path, section: Pictures) -> None:
        self._folder, self._section = folder, section
        folder.mkdir(exist_ok=True)
        self._sizes = dict(sorted(_parts(folder), key=lambda entry: entry[0].name))
        self.bytes = sum(self._sizes.values())
        self._aged: datetime.date | None = None  # Last date on which parts were removed by age.

    def make_room(self, size: int, today: datetime.date) -> bool:
        """Remove the oldest parts until a further one fits; return False if it does not fit even so.

        Args:
            size: Bytes of the new part.
            today: Date of today, UTC.
        """
        if today != self._aged:
            oldest_day = (today - datetime.timedelta(days=self._section.days)).isoformat()
            for part in [part for part in self._sizes if part.parent.name < oldest_day]:
                self._remove(part)
            self._aged = today
        while not self._fits(size) and self._sizes:
            self._remove(next(iter(self._sizes)))
        return self._fits(size)

    def add(self, part: Path) -> None:
        """Add the folder of a part that was written."""
        self._sizes[part] = _size(part)
        self.bytes += self._sizes[part]

    def _fits(self, size: int) -> bool:
        free = shutil.disk_usage(self._folder).free - self._section.least_free_gigabytes * _GIGABYTE
        return size <= free and self.bytes + size <= self._section.gigabytes * _GIGABYTE

    def _remove(self, part: Path) -> None:
        shutil.rmtree(part, ignore_errors=True)
        self.bytes -= self._sizes.pop(part)
        with suppress(OSError):  # The folder of the day contains other parts.
            part.parent.rmdir()


def _parts(folder: Path) -> Iterator[tuple[Path, int]]:
    """Yield the folders of complete parts with their sizes; remove what killed processes left."""
    for day in sorted(path for path in folder.iterdir() if is_day(path.name) and path.is_dir()):
        for part in day.iterdir():
            if is_part(part.name):
                yield part, _size(part)
            elif part.name.startswith("."):
                shutil.rmtree(part, ignore_errors=True)


def _size(part: Path) -> int:
    with suppress(OSError):
        return sum(file.stat().st_size for file in part.iterdir())
    return 0
