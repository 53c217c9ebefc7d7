"""Frames that arrive by HTTP: the process `web` receives them and passes them on through a local socket.

One connection carries one upload: four bytes with the length of a JSON header (big-endian), the header
`{"part_id": "…", "arrived_ns": 1234, "files": [{"name": "rgb.png", "bytes": 1234}]}`, then the files. `arrived_ns` is
the monotonic time at which the upload arrived by HTTP. The answer is four bytes with the length of a JSON object:
`{"acquisition_id": 17}`. An upload that cannot be read gets an id, too, and the verdict NG.
An upload that breaks the protocol gets no answer and no id.
"""

from __future__ import annotations

import json
import socket
import struct
import tempfile
import time
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePath
from typing import Any

from cmdiad_line.acquisition.source import (
    Frame,
    FrameRefusedError,
    FrameTimeoutError,
    Order,
    SourceError,
    SourceGoneError,
    arrays_of,
)
from cmdiad_line.station_file.source import PushSource, modalities_of
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.readers import RGB_SUFFIXES, XYZ_SUFFIXES
from cmdiad_runtime.readers.worker import TimedReader

SOCKET = "run/push.sock"
"""Socket in the state folder."""
LARGEST_HEADER = 16 * 1024
"""Largest header in bytes."""
_SENDER_S = 5.0
"""Longest time to wait for the next bytes of an upload."""
_SUFFIXES = {"rgb": RGB_SUFFIXES, "xyz": XYZ_SUFFIXES}


def make(settings: PushSource, state: Path) -> Push:
    """Return the source of pushed frames.

    Args:
        settings: Section of the station file.
        state: State folder of the station.
    """
    return Push(settings, state / SOCKET)


class Push:
    """Frames that arrive by HTTP; see `Source`.

    Args:
        settings: Section of the station file.
        path: Path of the socket.
    """

    def __init__(self, settings: PushSource, path: Path) -> None:
        self._settings = settings
        self._path = path
        self._socket: socket.socket | None = None
        self._reader: TimedReader | None = None

    def open(self) -> dict[str, str]:
        """Listen; see `Source.open`."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.unlink(missing_ok=True)
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._socket.bind(str(self._path))
            self._path.chmod(0o600)
            self._socket.listen(8)
        except OSError as error:
            raise SourceGoneError(f"the socket {self._path} cannot be opened ({cause_of(error)})") from error
        self._reader = TimedReader(self._settings.timeout_ms / 1000)
        return {}

    def check(self) -> None:
        """Raise SourceGoneError if somebody has removed the socket; see `Source.check`."""
        if not self._path.is_socket():
            raise SourceGoneError(f"the socket {self._path} is gone")

    def trigger(self, order: Order) -> None:
        """Refuse: frames arrive by themselves."""
        raise SourceError("pushed frames arrive by themselves")

    def frame(self, timeout_s: float) -> Frame:
        """Return the next upload; see `Source.frame`."""
        assert self._socket is not None
        self._socket.settimeout(timeout_s)
        try:
            connection, _ = self._socket.accept()
        except TimeoutError as error:
            raise FrameTimeoutError from error
        try:
            header, contents = self._receive(connection)
            return self._frame(connection, header, contents)
        except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
            connection.close()
            raise FrameTimeoutError from error
        except FrameRefusedError:
            raise
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Listen no longer; see `Source.close`."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
            self._path.unlink(missing_ok=True)
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _receive(self, connection: socket.socket) -> tuple[dict[str, Any], list[bytes]]:
        """Return header and files of an upload.

        Raises:
            OSError: The sender is gone or too slow.
            EOFError: The upload ends early.
            ValueError: The upload breaks the protocol or is too large.
        """
        connection.settimeout(_SENDER_S)
        (length,) = struct.unpack(">I", _read(connection, 4))
        if length > LARGEST_HEADER:
            raise ValueError("the header is too long")
        header = json.loads(_read(connection, length))
        sizes = [entry["bytes"] for entry in header["files"]]
        if type(header["arrived_ns"]) is not int or header["arrived_ns"] > time.monotonic_ns():
            raise ValueError("the header has no time of the upload")
        if not isinstance(header["part_id"], str) or not all(type(size) is int and size >= 0 for size in sizes):
            raise ValueError("the header has values of a wrong type")
        if sum(sizes) > self._settings.max_megabytes * 1_000_000 or len(sizes) > len(_SUFFIXES):
            raise ValueError("the upload is too large")
        return header, [_read(connection, size) for size in sizes]

    def _frame(self, connection: socket.socket, header: dict[str, Any], contents: list[bytes]) -> Frame:
        """Return the frame of an upload, or raise FrameRefusedError."""
        arrived_ns = header["arrived_ns"]  # The time in the socket counts as age of the upload.
        part_id, answer = header["part_id"][:200], partial(_answer, connection)
        assert self._reader is not None
        try:
            with tempfile.TemporaryDirectory(prefix="upload-", dir=self._path.parent) as folder:
                files = self._stored(Path(folder), header["files"], contents)
                sample = self._reader.read_files(
                    "upload", files.get("rgb"), files.get("xyz"), colour=self._settings.colour
                )
        except InputError as error:
            raise FrameRefusedError(
                error.reason, f"the upload has {error.found}", part_id=part_id, answer=answer
            ) from error
        except OSError as error:
            message = f"the upload cannot be stored ({cause_of(error)})"
            raise FrameRefusedError("acquisition-failed", message, part_id=part_id, answer=answer) from error
        return Frame(arrays=arrays_of(sample), captured_ns=arrived_ns, part_id=part_id, answer=answer)

    def _stored(self, folder: Path, entries: list[dict[str, Any]], contents: list[bytes]) -> dict[str, Path]:
        """Store the files of an upload under names of the station. Only the ending of a sender's name is used."""
        files: dict[str, Path] = {}
        for entry, content in zip(entries, contents, strict=True):
            name = PurePath(str(entry["name"]))
            suffix = name.suffix.lower()
            if suffix not in _SUFFIXES.get(name.stem, ()):
                raise InputError(
                    "upload",
                    found=f"a file {str(name)[:60]!r}",
                    expected=f"an image ({', '.join(RGB_SUFFIXES)}) or a cloud ({', '.join(XYZ_SUFFIXES)})",
                    action="send image and cloud as two files",
                    reason="unsupported",
                )
            files[name.stem] = folder / f"{name.stem}{suffix}"
            files[name.stem].write_bytes(content)
        for modality in modalities_of(self._settings.delivers):
            if modality not in files:
                raise InputError(
                    "upload",
                    found=f"no {'image' if modality == 'rgb' else 'cloud'}",
                    expected=f"files for {self._settings.delivers}",
                    action="send all files of a part in one request",
                    reason="missing-modality",
                )
        for extra in files.keys() - modalities_of(self._settings.delivers):
            raise InputError(  # The sender expects a look at the file.
                "upload",
                found=f"{'an image' if extra == 'rgb' else 'a cloud'}, which this station does not inspect",
                expected=f"files for {self._settings.delivers}",
                action="send no other file, or change delivers of the source",
                reason="unsupported",
            )
        return files


def _read(connection: socket.socket, size: int) -> bytes:
    """Return exactly `size` bytes, or raise EOFError."""
    content = bytearray()
    while len(content) < size:
        block = connection.recv(min(size - len(content), 1 << 20))
        if not block:
            raise EOFError(f"{size - len(content)} bytes are missing")
        content += block
    return bytes(content)


def _answer(connection: socket.socket, acquisition_id: int) -> None:
    """Report the acquisition id to the sender. A sender that is gone reads the result from the records."""
    text = json.dumps({"acquisition_id": acquisition_id}).encode()
    with connection, suppress(OSError):
        connection.settimeout(0.1)
        connection.sendall(struct.pack(">I", len(text)) + text)
