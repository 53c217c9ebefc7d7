"""The thread that keeps the pictures of some parts, so that results are stored without delay."""

from __future__ import annotations

import datetime
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt

from cmdiad_line.records.picture_files import size_of, write_pictures
from cmdiad_line.records.picture_places import part_folder, pictures_folder
from cmdiad_line.records.picture_ring import PictureRing
from cmdiad_line.records.picture_rule import PictureRule
from cmdiad_line.station_file.pictures import Pictures
from cmdiad_line.transport.mailbox import Mailbox
from cmdiad_line.transport.messages import ArrayPlace, KeepPicture, PictureDone
from cmdiad_runtime.support.scheduling import take_normal_priority

_END_S = 1.0
_logger = logging.getLogger("cmdiad.line.pictures")


class Frames(Protocol):
    """Frame memory, see `cmdiad_line.transport.frames`."""

    def read(self, slot: int, owner_id: int, places: Sequence[ArrayPlace], /) -> Mapping[str, npt.NDArray[Any]]:
        """Return copies of the arrays in a slot, or raise if the slot belongs to another part."""


class PictureKeeper:
    """Pictures of the parts that the rule selects.

    At most `most_waiting` parts wait for the disk. Further ones are skipped, so that their frame slots are free again.

    Args:
        state: State folder of the station.
        section: Section `[pictures]` of the station file.
        attach: Function that opens the frame memory; called once, in the thread.
        most_waiting: Largest number of parts that wait, each of which occupies a frame slot.
    """

    def __init__(self, state: Path, section: Pictures, attach: Callable[[], Frames], most_waiting: int) -> None:
        self._state, self._section, self._attach = state, section, attach
        self._rule = PictureRule(section)
        self._orders: queue.Queue[KeepPicture | None] = queue.Queue()
        self._answers: Mailbox[PictureDone] = Mailbox()
        self._most_waiting, self._waiting = max(1, most_waiting), 0
        self._thread = threading.Thread(target=self._work, name="cmdiad-pictures", daemon=True)

    def __enter__(self) -> PictureKeeper:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End the thread. Pictures that wait are dropped; one that is being written has a second to end."""
        with suppress(queue.Empty):
            while True:
                self._orders.get_nowait()
        self._orders.put(None)
        self._thread.join(_END_S)
        self._answers.close()

    def fileno(self) -> int:
        """Return a file descriptor that is readable when there are answers, for `select`."""
        return self._answers.fileno()

    def keep(self, order: KeepPicture) -> PictureDone | None:
        """Return the answer if no pictures are kept; otherwise None, and the answer comes by `done`."""
        if not self._rule.keeps(order.result):
            return PictureDone(slot=order.slot, kept=False)
        if self._waiting >= self._most_waiting:
            return PictureDone(slot=order.slot, kept=False, skipped=True)
        self._waiting += 1
        self._orders.put(order)
        return None

    def done(self) -> list[PictureDone]:
        """Return the answers about pictures that are finished."""
        answers = self._answers.take()
        self._waiting -= len(answers)
        return answers

    def _work(self) -> None:
        take_normal_priority()
        ring: PictureRing | None = None
        frames: Frames | None = None
        while (order := self._orders.get()) is not None:
            kept = False
            try:
                frames = frames or self._attach()
                ring = ring or PictureRing(pictures_folder(self._state), self._section)
                kept = self._write(ring, frames, order)
            except Exception as error:  # A lost picture must not stop the records, whatever the reason.
                _logger.warning("pictures of part %d: %s", order.result.acquisition_id, error)
            self._answers.put(PictureDone(slot=order.slot, kept=kept, skipped=not kept))

    def _write(self, ring: PictureRing, frames: Frames, order: KeepPicture) -> bool:
        """Write the pictures of one part; return False if there is no room."""
        result = order.result
        anomaly_map = None if order.inspected is None else order.inspected.map
        places = order.arrays if anomaly_map is None else (*order.arrays, anomaly_map)
        arrays = frames.read(order.slot, result.acquisition_id, places)
        if not ring.make_room(size_of(arrays), datetime.datetime.now(datetime.timezone.utc).date()):
            return False
        folder = part_folder(self._state, result.acquisition_id, result.time)
        folder.parent.mkdir(exist_ok=True)
        write_pictures(folder, arrays, result, order.inspected, overlay=self._section.overlay)
        ring.add(folder)
        return True
