"""Frames in shared memory: one file, mapped by all processes, with a fixed number of slots.

::

    pool = FramePool.create(frames_path(state), slots=8, slot_bytes=36_000_000)      # the supervisor
    places = FramePool.attach(path).write(3, 17, {"rgb": image})                     # the acquisition, part 17
    image = FramePool.attach(path).read(3, 17, places)["rgb"]                        # the inspection

Every slot carries the id of the part that its frame belongs to, a sequence number that is odd during a write, and a
CRC-32 of the data. A reader copies the data and then compares all three, so an array of another part, half a frame
or a frame that changed during the copy ends in `WrongFrameError` and never in a verdict. A writer that is killed
leaves an odd number, which is an empty slot.

The anomaly map has a separate area behind the data with its own id and CRC, so that an inspection that answers too
late cannot damage the frame that is in the slot by then.
"""

from __future__ import annotations

import fcntl
import hashlib
import math
import mmap
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_line.transport.messages import ArrayPlace
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.printable import cause_of

Arrays = dict[str, npt.NDArray[Any]]
"""Arrays by name: "rgb", "xyz", "map"."""

MAP_BYTES = 4 << 20
"""Room for the anomaly map in bytes: float32 `[1024, 1024]`."""
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - memory of the system, and every file there is made by O_EXCL
"""Folder in memory, if the system has one."""

_PREFIX = "cmdiad-line-"
_MAGIC = b"CMDIADF1"
_HEAD = struct.Struct("<8sQQ")  # magic, slots, slot_bytes
_SLOT = struct.Struct("<qQQI4xqQI4x")  # owner, sequence, bytes, crc; owner, bytes, crc of the map
_MAP = struct.Struct("<qQI4x")
_MAP_OFFSET = struct.calcsize("<qQQI4x")
_PAGE = 4096
_ALIGNMENT = 64
_DTYPES = ("uint8", "float32")


class WrongFrameError(Exception):
    """A slot does not hold the frame that its reader expects."""


class FrameTooLargeError(ValueError):
    """A frame or map does not fit into a slot."""


@dataclass(frozen=True)
class _Header:
    """Header of a slot.

    Attributes:
        owner: Id of the part, or 0.
        sequence: Number of writes, twice; odd during a write.
        size: Number of data bytes.
        crc: CRC-32 of the data.
        map_owner: Id of the part that the map belongs to, or 0.
        map_size: Number of bytes of the map.
        map_crc: CRC-32 of the map.
    """

    owner: int
    sequence: int
    size: int
    crc: int
    map_owner: int
    map_size: int
    map_crc: int


def frames_path(state: Path) -> Path:
    """Return the path of the frames of the station that owns a state folder.

    Args:
        state: State folder.
    """
    if SHARED_MEMORY.is_dir() and os.access(SHARED_MEMORY, os.W_OK):
        return SHARED_MEMORY / f"{_PREFIX}{hashlib.sha256(os.fsencode(state.resolve())).hexdigest()[:24]}"
    return state / f"{_PREFIX}frames"


def pushed_owner(token: int) -> int:
    """Return the id under which a pushed frame is stored until the supervisor adopts it under an acquisition id.

    Args:
        token: Token of `Pushed`, above 0. The id is negative, so it never equals an acquisition id.
    """
    return -token


class FramePool:
    """Frame slots in a mapped file. A slot has one writer at a time; the messages decide which.

    Args:
        file: Descriptor of the open file, which the pool closes.
        path: Path of the file.
        slots: Number of slots.
        slot_bytes: Largest frame in bytes.
        owned: True for the process that made the file and removes it.

    Attributes:
        path: See Args.
        slots: See Args.
        slot_bytes: See Args.
    """

    def __init__(self, file: int, path: Path, slots: int, slot_bytes: int, *, owned: bool) -> None:
        self.path = path
        self.slots = slots
        self.slot_bytes = slot_bytes
        self._file = file
        self._owned = owned
        self._memory = mmap.mmap(file, _file_bytes(slots, slot_bytes))

    @staticmethod
    def create(path: Path, slots: int, slot_bytes: int) -> FramePool:
        """Create the file and reserve its memory. Files that killed stations left behind are removed.

        Args:
            path: Path of the file, see `frames_path`. A file of this name must belong to a station that has ended.
            slots: Number of slots.
            slot_bytes: Largest frame in bytes; rounded up to whole pages.

        Raises:
            OutputError: The file cannot be created, or there is not enough memory.
        """
        slot_bytes = -(-slot_bytes // _PAGE) * _PAGE
        try:
            _remove_abandoned(path)
            file = _create_locked(path)
        except OSError as error:
            raise _refused(path, cause_of(error), "allow this account to write there") from error
        try:
            # Reserved now: without a page of memory, a later write would end the process with SIGBUS.
            os.posix_fallocate(file, 0, _file_bytes(slots, slot_bytes))
            os.pwrite(file, _HEAD.pack(_MAGIC, slots, slot_bytes), 0)
            return FramePool(file, path, slots, slot_bytes, owned=True)
        except OSError as error:
            os.close(file)
            path.unlink(missing_ok=True)
            megabytes = _file_bytes(slots, slot_bytes) / 1e6
            action = "lower frame_megapixels or frame_slots in [station], or give the container more --shm-size"
            raise _refused(path, f"no {megabytes:.0f} MB for {slots} frames ({cause_of(error)})", action) from error

    @staticmethod
    def attach(path: Path) -> FramePool:
        """Return the pool that the supervisor has created.

        Raises:
            OutputError: There is no such file, or it is no pool.
        """
        try:
            file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError as error:
            raise _refused(path, cause_of(error), "start the station again") from error
        head = os.pread(file, _HEAD.size, 0)
        magic, slots, slot_bytes = _HEAD.unpack(head) if len(head) == _HEAD.size else (b"", 0, 0)
        if magic != _MAGIC or os.fstat(file).st_size != _file_bytes(slots, slot_bytes):
            os.close(file)
            raise _refused(path, "a file without frames", "start the station again")
        return FramePool(file, path, slots, slot_bytes, owned=False)

    def write(self, slot: int, owner_id: int, arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[ArrayPlace, ...]:
        """Write a frame into a slot, over whatever is there.

        Args:
            slot: Slot number from 0.
            owner_id: Id of the part, or `pushed_owner`; not 0.
            arrays: uint8 or float32 arrays by name.

        Returns:
            Places of the arrays, for the message to the reader.

        Raises:
            FrameTooLargeError: The arrays do not fit.
        """
        places = _places(arrays)
        size = max((place.offset + arrays[place.name].nbytes for place in places), default=0)
        if size > self.slot_bytes:
            raise FrameTooLargeError(f"a frame of {size / 1e6:.1f} MB, but slots of {self.slot_bytes / 1e6:.1f} MB")
        start = self._start(slot)
        sequence = self._header(slot).sequence | 1
        _SLOT.pack_into(self._memory, start, 0, sequence, 0, 0, 0, 0, 0)
        for place in places:
            array = arrays[place.name]
            first = start + _PAGE + place.offset
            view = np.frombuffer(self._memory, place.dtype, array.size, first).reshape(array.shape)
            np.copyto(view, array)
        crc = self._crc(start + _PAGE, size)
        _SLOT.pack_into(self._memory, start, owner_id, sequence + 1, size, crc, 0, 0, 0)
        return places

    def read(self, slot: int, owner_id: int, places: Sequence[ArrayPlace]) -> Arrays:
        """Return copies of arrays in a slot.

        Args:
            slot: Slot number from 0.
            owner_id: Id of the part that the frame must belong to.
            places: Places of the arrays; the place of the map may be among them.

        Raises:
            WrongFrameError: The slot holds the frame of another part, half a frame, damaged data or other arrays.
        """
        before = self._checked(slot, owner_id)
        start = self._start(slot)
        frame = [place for place in places if place.offset < self.slot_bytes]
        maps = [place for place in places if place.offset >= self.slot_bytes]
        arrays = self._copies(frame, start + _PAGE, before.size, before.crc, 0) if frame else {}
        if maps:
            if before.map_owner != owner_id:
                raise WrongFrameError(f"slot {slot} has no map of part {owner_id}")
            first = start + _PAGE + self.slot_bytes
            arrays |= self._copies(maps, first, before.map_size, before.map_crc, self.slot_bytes)
        if self._header(slot) != before:
            raise WrongFrameError(f"slot {slot} was written while part {owner_id} was read")
        return arrays

    def add_map(self, slot: int, owner_id: int, anomaly_map: npt.NDArray[np.float32]) -> ArrayPlace:
        """Write the anomaly map of the part in a slot, and return its place.

        Args:
            slot: Slot number from 0.
            owner_id: Id of the part.
            anomaly_map: float32 `[height, width]`.

        Raises:
            WrongFrameError: The slot holds the frame of another part.
            FrameTooLargeError: The map does not fit.
        """
        (place,) = _places({"map": anomaly_map})
        if anomaly_map.nbytes > MAP_BYTES:
            raise FrameTooLargeError(f"a map of {anomaly_map.nbytes / 1e6:.1f} MB, but room for {MAP_BYTES / 1e6:.1f}")
        self._checked(slot, owner_id)
        start = self._start(slot)
        first = start + _PAGE + self.slot_bytes
        _MAP.pack_into(self._memory, start + _MAP_OFFSET, 0, 0, 0)
        view = np.frombuffer(self._memory, np.float32, anomaly_map.size, first).reshape(anomaly_map.shape)
        np.copyto(view, anomaly_map)
        crc = self._crc(first, anomaly_map.nbytes)
        _MAP.pack_into(self._memory, start + _MAP_OFFSET, owner_id, anomaly_map.nbytes, crc)
        return ArrayPlace(name="map", dtype=place.dtype, shape=place.shape, offset=self.slot_bytes)

    def adopt(self, slot: int, old_id: int, new_id: int) -> None:
        """Give the frame in a slot another id: the acquisition id of a pushed frame, in place of its token.

        Args:
            slot: Slot number from 0.
            old_id: Present id, see `pushed_owner`.
            new_id: New id.

        Raises:
            WrongFrameError: The slot holds the frame of another part.
        """
        self._checked(slot, old_id)
        struct.pack_into("<q", self._memory, self._start(slot), new_id)

    def owner(self, slot: int) -> int:
        """Return the id of the part whose whole frame is in a slot, or 0 for an empty slot or half a frame."""
        header = self._header(slot)
        return 0 if header.sequence % 2 else header.owner

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        sequence = (self._header(slot).sequence | 1) + 1
        _SLOT.pack_into(self._memory, self._start(slot), 0, sequence, 0, 0, 0, 0, 0)

    def close(self) -> None:
        """Unmap the file; the process that created it removes it. Idempotent."""
        if self._memory.closed:
            return
        self._memory.close()
        if self._owned:
            self.path.unlink(missing_ok=True)
        os.close(self._file)

    def __enter__(self) -> FramePool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, slot: int) -> int:
        """Return the first byte of a slot's header."""
        if not 0 <= slot < self.slots:
            raise WrongFrameError(f"slot {slot} of {self.slots} does not exist")
        return _PAGE + slot * _slot_stride(self.slot_bytes)

    def _header(self, slot: int) -> _Header:
        return _Header(*_SLOT.unpack_from(self._memory, self._start(slot)))

    def _checked(self, slot: int, owner_id: int) -> _Header:
        """Return the header of a slot with a whole frame of a part, otherwise raise WrongFrameError."""
        header = self._header(slot)
        if header.sequence % 2 or header.owner != owner_id or owner_id == 0:
            present = "half a frame" if header.sequence % 2 else f"part {header.owner}" if header.owner else "nothing"
            raise WrongFrameError(f"slot {slot} holds {present}, not part {owner_id}")
        return header

    def _crc(self, first: int, size: int) -> int:
        with memoryview(self._memory) as memory, memory[first : first + size] as data:
            return zlib.crc32(data)

    def _copies(self, places: Sequence[ArrayPlace], first: int, size: int, crc: int, base: int) -> Arrays:
        """Return the arrays of one area of a slot as views into one private copy of the area."""
        if not 0 <= size <= max(self.slot_bytes, MAP_BYTES):
            raise WrongFrameError(f"a header with {size} bytes")
        data = np.frombuffer(self._memory, np.uint8, size, first).copy()
        if zlib.crc32(data.data) != crc:
            raise WrongFrameError("data that do not match their checksum")
        return {place.name: _view(data, place, place.offset - base) for place in places}


def _view(data: npt.NDArray[np.uint8], place: ArrayPlace, offset: int) -> npt.NDArray[Any]:
    """Return an array in a private copy, or raise WrongFrameError if the place is outside."""
    if place.dtype not in _DTYPES or not all(0 < side < 1 << 31 for side in place.shape) or offset % _ALIGNMENT:
        raise WrongFrameError(f"an impossible place: {place}")
    end = offset + math.prod(place.shape) * np.dtype(place.dtype).itemsize
    if not 0 <= offset < end <= data.size:
        raise WrongFrameError(f"a place beyond the {data.size} bytes of the frame: {place}")
    return data[offset:end].view(place.dtype).reshape(place.shape)


def _places(arrays: Mapping[str, npt.NDArray[Any]]) -> tuple[ArrayPlace, ...]:
    """Return the places of arrays one after another, each at a multiple of _ALIGNMENT."""
    places, offset = [], 0
    for name, array in arrays.items():
        if array.dtype.name not in _DTYPES or not array.size:
            raise FrameTooLargeError(f"{name} of {array.dtype} {list(array.shape)}, but slots for uint8 and float32")
        places.append(ArrayPlace(name=name, dtype=array.dtype.name, shape=tuple(array.shape), offset=offset))
        offset += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    return tuple(places)


def _slot_stride(slot_bytes: int) -> int:
    return _PAGE + slot_bytes + MAP_BYTES


def _file_bytes(slots: int, slot_bytes: int) -> int:
    return _PAGE + slots * _slot_stride(slot_bytes)


def _create_locked(path: Path) -> int:
    """Return the descriptor of a new file, locked as long as this process lives."""
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with suppress(BlockingIOError, FileNotFoundError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if path.stat().st_ino == os.fstat(file).st_ino:
                return file
        os.close(file)  # A station that starts at the same moment took the new file for an abandoned one.


def _remove_abandoned(path: Path) -> None:
    """Remove the file of this name, and in shared memory those of other stations of this account that have ended."""
    path.unlink(missing_ok=True)
    if path.parent != SHARED_MEMORY:
        return
    for other in path.parent.glob(f"{_PREFIX}*"):
        try:
            file = os.open(other, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            continue  # of another account, or removed in the meantime
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            other.unlink(missing_ok=True)
        except OSError:
            pass  # in use
        finally:
            os.close(file)


def _refused(path: Path, problem: str, action: str) -> OutputError:
    return OutputError(path, found=problem, expected="memory for the frames of the station", action=action)
