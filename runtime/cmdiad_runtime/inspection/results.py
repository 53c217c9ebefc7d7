"""Results of a run: one line of JSON and one overlay picture per sample, in a folder that one process owns.

The line of a sample is stored before its verdict is printed, and a line is whole or absent, so a run that is killed
loses at most the sample in work. An overlay has a temporary name until its line is stored, so every overlay belongs
to a line. docs/results.md describes the files.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from PIL import Image

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.inspection.arrived import Arrived
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.inspection.part_ids import PartIds
from cmdiad_runtime.inspection.pipeline import InspectedSource
from cmdiad_runtime.inspection.result_line import Station, Stored, csv_line, json_line, result_line
from cmdiad_runtime.inspection.stored_results import (
    OVERLAYS,
    RESULTS,
    TABLE,
    has_results,
    repair_results,
    temporary_overlay,
    write_table,
)
from cmdiad_runtime.names import Sensors
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.files import free_name, require_outside_bundles
from cmdiad_runtime.support.in_place import FileInPlace
from cmdiad_runtime.support.line_file import LineFile
from cmdiad_runtime.support.lock import lock_folder

Stations: TypeAlias = Mapping[Sensors | None, Station]
"""Bundle and engine by pattern; the pattern None belongs to a bundle for one pattern."""


@dataclass(frozen=True, kw_only=True)
class ResultsOptions:
    """Choices for a folder of results.

    Attributes:
        append: True to add to the results in the folder; False to refuse a folder with results.
        table: True to write `results.csv` too. A table that exists is continued in any case.
        overlays: True to write a picture per sample.
    """

    append: bool = False
    table: bool = False
    overlays: bool = True


DEFAULT_RESULTS = ResultsOptions()


@dataclass(frozen=True)
class _Unsettled:
    """An overlay whose line is not stored yet.

    Attributes:
        temporary: Present name.
        picture: Name once the line is stored.
        size: Size of `results.jsonl` without the line.
    """

    temporary: Path
    picture: Path
    size: int


class Results:
    """Writer of a folder of results; see `open_results`.

    Args:
        folder: Folder to write to, which this process owns.
        stations: Bundle and engine by pattern, see `stations_of`.
        ids: Source of ids.
        lock: Lock file of the folder.
        options: Choices; `append` is not used.

    Attributes:
        folder: See Args.
        lost_overlays: Number of pictures that could not be written.

    Raises:
        OutputError: A file cannot be opened.
    """

    def __init__(
        self, folder: Path, stations: Stations, ids: PartIds, *, lock: FileInPlace, options: ResultsOptions
    ) -> None:
        self.folder = folder
        self.lost_overlays = 0
        self._stations = stations
        self._lock = lock
        self._ids = ids
        self._overlays = options.overlays
        self._unsettled: _Unsettled | None = None
        self._lines = LineFile(folder / RESULTS)
        self._table = LineFile(folder / TABLE) if options.table else None

    def add(self, inspected: InspectedSource) -> dict[str, Any]:
        """Store a sample and return its line. A picture that cannot be written is left out, with the reason.

        Raises:
            OutputError: The line cannot be stored, or the folder was removed, moved or replaced. Everything stored
                before stays.
        """
        source = inspected.source
        part_id = self._ids.next(source if isinstance(source, Path) else Path(source.name))
        overlay, error = self._draw(part_id, inspected.inspection) if self._overlays else (None, "")
        state = source.state if isinstance(source, Arrived) else None
        stored = Stored(
            part_id=part_id, read_ms=inspected.read_ms, overlay=overlay, overlay_error=error, file_state=state
        )
        line = result_line(inspected.inspection, stored, self._stations[inspected.inspection.pattern])
        self.require_in_place()
        self._lines.append(json_line(line))
        if problem := self._settle():  # The stored line names a picture that could not get its name: warn.
            line |= {"overlay": None, "overlay_error": problem}
        if self._table is not None:
            self._table.append(csv_line(line))
        self.lost_overlays += line["overlay_error"] is not None
        return line

    def require_in_place(self) -> None:
        """Check that the folder still holds the files that this process has opened.

        Raises:
            OutputError: A file was removed, moved or replaced.
        """
        for file in filter(None, (self._lines, self._table)):
            file.require_in_place()
        self._lock.require()

    def close(self) -> None:
        """Finish the last picture and close the files.

        Raises:
            OutputError: The disk reports an error.
        """
        with ExitStack() as files:
            files.callback(self._lines.close)
            if self._table is not None:
                files.callback(self._table.close)
            self._settle()

    def _draw(self, part_id: str, inspection: Inspection) -> tuple[str | None, str]:
        """Write an overlay under its temporary name. Return its final path in the folder, or None, and the reason."""
        picture = self.folder / OVERLAYS / f"{part_id}.png"
        self._unsettled = _Unsettled(temporary_overlay(picture), picture, self._lines.size)
        try:
            with self._unsettled.temporary.open("wb") as file:
                Image.fromarray(inspection.overlay()).save(file, format="png", compress_level=1)
                file.flush()
                os.fsync(file.fileno())
        except Exception as error:  # A picture is for people: no fault of one may cost a verdict.
            self._settle()
            return None, cause_of(error)
        return f"{OVERLAYS}/{picture.name}", ""

    def _settle(self) -> str:
        """Name the last overlay finally if its line is stored, otherwise remove it. Return the problem, or ""."""
        last, self._unsettled = self._unsettled, None
        if last is None:
            return ""
        try:
            if self._lines.size > last.size:
                last.temporary.replace(last.picture)
            else:
                last.temporary.unlink(missing_ok=True)
        except OSError as error:
            with contextlib.suppress(OSError):
                last.temporary.unlink()
            return cause_of(error)
        return ""


@contextmanager
def open_results(
    folder: Path, station: Station | Stations, options: ResultsOptions = DEFAULT_RESULTS
) -> Iterator[Results]:
    """Own a folder and open it for results. What a killed run left unfinished is repaired first.

    Args:
        folder: Folder to write to; created if missing.
        station: Bundle and engine; for a bundle for whichever sensors arrive those of each pattern.
        options: Choices.

    Raises:
        OutputError: Another process owns the folder, it contains results and `append` is False, its results are
            damaged, it cannot be written to, it lies in a bundle, or it was removed, moved or replaced meanwhile.
    """
    require_outside_bundles(folder, option="--output")
    _make_folders(folder)
    with lock_folder(folder) as lock:
        if not options.append and has_results(folder, table=options.table):
            raise OutputError(
                folder,
                found="results of an earlier run",
                expected="a new or empty folder",
                action=f"add --append to continue these results; --output {free_name(folder)} is free",
            )
        continued = options.append and (folder / TABLE).exists()
        stored = repair_results(folder)
        options = replace(options, table=options.table or continued)
        if options.table:
            write_table(folder)
        stations: Stations = {None: station} if isinstance(station, Station) else station
        with contextlib.closing(Results(folder, stations, PartIds(stored.ids), lock=lock, options=options)) as results:
            yield results
            results.require_in_place()


def _make_folders(folder: Path) -> None:
    try:
        (folder / OVERLAYS).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            folder,
            found=cause_of(error),
            expected="a folder to write results to",
            action="choose another --output",
        ) from error
