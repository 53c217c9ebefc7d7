"""The pictures on the disk. The oldest ones are removed by age, by size, and for free space."""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cmdiad_line.records.picture_places import is_day, is_part, part_folder
from cmdiad_line.station_file.pictures import Pictures

_GIGABYTE = 10**9


class PictureRing:
    """Folders of parts, oldest first, with their sizes. Owned by one process.

    The order is that of the acquisition ids, so a clock that steps back changes nothing. Only the age in days depends
    on the clock.

    Args:
        folder: Folder of all pictures, see `pictures_folder`; created if missing.
        section: Section `[pictures]` of the station file.

    Attributes:
        bytes: Size of all pictures in bytes.
    """

    def __init__(self, folder: Path, section: Pictures) -> None:
        self._folder, self._section = folder, section
        folder.mkdir(exist_ok=True)
        # Sizes by day and id. A path for every part would need five times the memory.
        self._days = {day: parts for day, parts in _read_days(folder) if parts}
        self.bytes = sum(size for parts in self._days.values() for size in parts.values())
        self._aged: datetime.date | None = None  # Last date on which parts were removed by age.

    def make_room(self, size: int, today: datetime.date) -> bool:
        """Remove the oldest parts until a further one fits; return False if it does not fit even so.

        Args:
            size: Bytes of the new part.
            today: Date of today, UTC.
        """
        if today != self._aged:
            oldest_day = (today - datetime.timedelta(days=self._section.days)).isoformat()
            for day in [day for day in self._days if day < oldest_day]:
                for part in list(self._days[day]):
                    self._remove(day, part)
            self._aged = today
        while not self._fits(size) and self._days:
            oldest, day = min((next(iter(parts)), day) for day, parts in self._days.items())
            self._remove(day, oldest)
        return self._fits(size)

    def add(self, part: Path) -> None:
        """Add the folder of a part that was written."""
        size = _size(part)
        self._days.setdefault(part.parent.name, {})[int(part.name)] = size
        self.bytes += size

    def _fits(self, size: int) -> bool:
        free = shutil.disk_usage(self._folder).free - self._section.least_free_gigabytes * _GIGABYTE
        return size <= free and self.bytes + size <= self._section.gigabytes * _GIGABYTE

    def _remove(self, day: str, acquisition_id: int) -> None:
        part = part_folder(self._folder.parent, acquisition_id, day)
        shutil.rmtree(part, ignore_errors=True)
        self.bytes -= self._days[day].pop(acquisition_id)
        if not self._days[day]:
            del self._days[day]
            with suppress(OSError):  # The folder contains files of others.
                part.parent.rmdir()


def _read_days(folder: Path) -> Iterator[tuple[str, dict[int, int]]]:
    """Yield each day with the sizes of its complete parts by id, in order; remove what killed processes left."""
    for day in folder.iterdir():
        if is_day(day.name) and day.is_dir():
            yield day.name, dict(sorted(_parts(day)))


def _parts(day: Path) -> Iterator[tuple[int, int]]:
    for part in day.iterdir():
        if is_part(part.name):
            yield int(part.name), _size(part)
        elif part.name.startswith("."):
            shutil.rmtree(part, ignore_errors=True)


def _size(part: Path) -> int:
    with suppress(OSError):
        return sum(file.stat().st_size for file in part.iterdir())
    return 0
