"""Watched folder. Each sample that is complete is a trigger and a frame in one.

Files that were read leave the watched folder, so that every file in it still needs its verdict, also after a restart.
They are in the folder `taken` as soon as the result is recorded; see `claims` for those between.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from pathlib import Path

from cmdiad_line.acquisition.source import (
    Frame,
    FrameRefusedError,
    FrameTimeoutError,
    Order,
    SourceError,
    SourceGoneError,
    arrays_of,
)
from cmdiad_line.acquisition.sources.claims import Claim, Claims
from cmdiad_line.station_file.source import FolderSource, modalities_of
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.arrived import Arrived
from cmdiad_runtime.inspection.watch import FolderWatch, WatchOptions
from cmdiad_runtime.printable import cause_of, printable
from cmdiad_runtime.readers.worker import TimedReader
from cmdiad_runtime.sample import Sample

TAKEN = "taken"
"""Name of the folder for files that were read."""
_PAUSE_S = 0.02
_LOST = "the station ended before the result of this part was recorded"
_logger = logging.getLogger("cmdiad.line")


def make(settings: FolderSource, state: Path) -> WatchedFolder:
    """Return the source of a watched folder.

    Args:
        settings: Section of the station file.
        state: State folder of the station.
    """
    return WatchedFolder(settings, state)


class WatchedFolder:
    """A watched folder; see `Source`.

    Args:
        settings: Section of the station file.
        state: State folder of the station.
    """

    def __init__(self, settings: FolderSource, state: Path) -> None:
        self._settings = settings
        self._state = state
        self._folder = settings.path
        self._taken = settings.path / TAKEN
        self._watch: FolderWatch | None = None
        self._reader: TimedReader | None = None
        self._claims: Claims | None = None
        self._complete: deque[tuple[Arrived, int]] = deque()

    def open(self) -> dict[str, str]:
        """Begin to watch; see `Source.open`."""
        try:
            self._taken.mkdir(exist_ok=True)
            if self._claims is None:
                claims = Claims(self._taken, self._state)
                if self._settings.delivers == "both":
                    claims.take_partners(self._folder)
                self._claims = claims
        except OSError as error:
            raise SourceGoneError(f"{self._folder} cannot be written ({cause_of(error)})") from error
        settle_s, limit_s = self._settings.settle_ms / 1000, self._settings.limit_ms / 1000
        options = WatchOptions(settle_s=settle_s, limit_s=limit_s, excluded=(self._taken,), moves=True)
        modalities = modalities_of(self._settings.delivers)
        self._watch = FolderWatch(self._folder, modalities, options, _logger.warning)
        self._reader = TimedReader(self._settings.timeout_ms / 1000)
        return {"folder": str(self._folder)}

    def check(self) -> None:
        """Raise SourceGoneError if the folder is away; see `Source.check`."""
        if not self._taken.is_dir():
            raise SourceGoneError(f"the folder {self._folder} is away")

    def trigger(self, order: Order) -> None:
        """Refuse: frames arrive by themselves."""
        raise SourceError("the frames of a folder arrive by themselves")

    def frame(self, timeout_s: float) -> Frame:
        """Return the next sample that is complete; see `Source.frame`."""
        assert self._watch is not None
        self._settle()
        end = time.monotonic() + timeout_s
        while not self._complete:
            self._complete.extend((arrived, time.monotonic_ns()) for arrived in self._watch.search())
            if self._complete:
                break
            if time.monotonic() > end:
                raise FrameTimeoutError
            time.sleep(_PAUSE_S)
        arrived, complete_ns = self._complete.popleft()
        name = self._name(arrived.path.relative_to(self._folder).as_posix())
        refusal: InputError | None = None
        try:
            sample = self._read(arrived)
        except InputError as error:
            refusal = error
        claim = self._claim(arrived)
        if refusal is not None:
            text = f"{name}: found {refusal.found}"
            raise FrameRefusedError(refusal.reason, text, part_id=name, answer=claim.note) from refusal
        facts = {"file": name}
        return Frame(arrays=arrays_of(sample), captured_ns=complete_ns, part_id=name, facts=facts, answer=claim.note)

    def close(self) -> None:
        """End the reading process; see `Source.close`."""
        self._complete.clear()
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _read(self, arrived: Arrived) -> Sample:
        assert self._reader is not None
        if arrived.refusal is not None:
            raise arrived.refusal
        files = [file.path for file in arrived.files]
        image = files[0] if self._settings.delivers != "xyz" else None
        cloud = files[-1] if self._settings.delivers != "rgb" else None
        sample = self._reader.read_files(arrived.name, image, cloud, colour=self._settings.colour)
        arrived.check_unchanged()
        return sample

    def _claim(self, arrived: Arrived) -> Claim:
        """Move the files of a sample, so that no restart reads them again."""
        assert self._watch is not None
        assert self._claims is not None
        try:
            claim = self._claims.add(self._folder, arrived.files)
        except OSError as error:
            raise SourceError(f"{arrived.path} cannot be moved to {self._taken} ({cause_of(error)})") from error
        self._watch.release(arrived)
        return claim

    def _settle(self) -> None:
        """Refuse a part whose result was lost, and move the files of recorded parts."""
        assert self._claims is not None
        try:
            lost = self._claims.settle()
        except OSError as error:
            raise SourceError(f"a file cannot be moved to {self._taken} ({cause_of(error)})") from error
        if lost is not None:
            name = self._name(lost.name)
            raise FrameRefusedError("acquisition-died", f"{name}: {_LOST}", part_id=name, answer=lost.note)

    def _name(self, path: str) -> str:
        """Return the path of a file in the watched folder as the id of its part."""
        return printable(path)[-200:]
