"""The transfer of uploads to the acquisition over a local socket in the state folder.

One connection carries one upload: four bytes with the length of a JSON header, the header, then the files. The header
reads `{"part_id": "…", "arrived_ns": 1234, "files": [{"name": "rgb.png", "bytes": 1234}]}`; `arrived_ns` is the
monotonic time of the upload. The answer is four bytes with the length of a JSON object: `{"acquisition_id": 17}`. An
upload that cannot be read gets an id, too, and the verdict NG.
"""

from __future__ import annotations

import asyncio
import json
import struct
import time
from pathlib import Path, PurePath
from typing import Any

from fastapi import HTTPException, UploadFile

from cmdiad_line.station_file.source import PushSource
from cmdiad_line.station_file.station import Station
from cmdiad_runtime.readers import RGB_SUFFIXES, XYZ_SUFFIXES

SOCKET = "run/push.sock"
"""Socket in the state folder, on which the acquisition listens."""
LARGEST_ANSWER = 16 * 1024
"""Largest answer of the acquisition in bytes."""

_PATIENCE_S = 10.0


class Push:
    """Sender of uploads to the acquisition of this station.

    Args:
        socket: Path of the socket.
        largest_bytes: Largest upload in bytes.
    """

    def __init__(self, socket: Path, largest_bytes: int) -> None:
        self._socket = socket
        self._turn = asyncio.Lock()
        self.largest_bytes = largest_bytes

    async def send(self, part_id: str, *, image: UploadFile | None, cloud: UploadFile | None) -> int:
        """Send an upload and return the acquisition id of its trigger.

        Raises:
            HTTPException: The upload was refused, or the acquisition is gone. There is no result: the part is NG.
        """
        try:
            answer = await asyncio.wait_for(self._in_turn(part_id, image, cloud), _PATIENCE_S)
            number = answer["acquisition_id"]
            if type(number) is not int:
                raise ValueError("no id")
        except (OSError, EOFError, ValueError, KeyError, asyncio.TimeoutError) as error:
            raise HTTPException(503, "NG. The acquisition does not take uploads now. Try again later.") from error
        return number

    async def _in_turn(self, part_id: str, image: UploadFile | None, cloud: UploadFile | None) -> dict[str, Any]:
        """Send one upload at a time. An upload that was given up while it waited never reaches the acquisition."""
        arrived_ns = time.monotonic_ns()
        async with self._turn:
            files = await _files(image, cloud)
            described = [{"name": name, "bytes": len(data)} for name, data in files]
            header = {"part_id": part_id, "arrived_ns": arrived_ns, "files": described}
            return await self._exchange(header, [data for _, data in files])

    async def _exchange(self, header: dict[str, Any], contents: list[bytes]) -> dict[str, Any]:
        reader, writer = await asyncio.open_unix_connection(self._socket)
        try:
            text = json.dumps(header).encode()
            writer.write(struct.pack(">I", len(text)) + text)
            for content in contents:
                writer.write(content)
                await writer.drain()
            (length,) = struct.unpack(">I", await reader.readexactly(4))
            if length > LARGEST_ANSWER:
                raise ValueError("answer too long")
            answer = json.loads(await reader.readexactly(length))
            if not isinstance(answer, dict):
                raise ValueError("answer is no object")
            return answer
        finally:
            writer.close()


def push_of(station: Station) -> Push | None:
    """Return the sender of uploads of a station, or None if no source takes uploads."""
    for source in station.sources:
        if isinstance(source, PushSource):
            return Push(station.state / SOCKET, source.max_megabytes * 1_000_000)
    return None


async def _files(image: UploadFile | None, cloud: UploadFile | None) -> list[tuple[str, bytes]]:
    """Return name and content of each uploaded file. Only the ending of the sender's name is used."""
    files = []
    for sensor, upload, endings in (("rgb", image, RGB_SUFFIXES), ("xyz", cloud, XYZ_SUFFIXES)):
        if upload is None:
            continue
        ending = PurePath(upload.filename or "").suffix.lower()
        if ending not in endings:
            problem = f"found a file ending in {ending[:12]!r}. Expected one of {', '.join(sorted(endings))}."
            raise HTTPException(415, f"NG. {'image' if sensor == 'rgb' else 'cloud'}: {problem} Send another file.")
        files.append((f"{sensor}{ending}", await upload.read()))
    return files
