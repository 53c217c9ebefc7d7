"""Check that a JPEG file contains the whole image, before its pixels are used.

ISO/IEC 10918-1 (ITU-T T.81): an image is one or more scans of entropy-coded data, and restart markers may divide a
scan. The decoder (libjpeg) fills the rest of a scan that ends early with one colour, decodes a progressive image
without its last scans into a blurred one, and reports neither to Pillow. Two checks find that: the scans must add up to
the whole image, and the decoder must need exactly the data of each scan.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from PIL import Image, JpegImagePlugin

from cmdiad_runtime.readers import limits
from cmdiad_runtime.readers._files import ContentError, bounded, too_many

JPEG_SIGNATURE = b"\xff\xd8\xff"
"""First bytes of a file: the beginning of the image and of a marker."""

_MARKER = re.compile(rb"\xff+([\x01-\xfe])")
"""A marker with its fill bytes. A byte of 255 in entropy-coded data is followed by a zero."""
_END, _SCAN, _RESTART_INTERVAL = 0xD9, 0xDA, 0xDD
_RESTARTS = range(0xD0, 0xD8)
_ALONE = (0x01, 0xD8, *_RESTARTS)
"""Markers without a length."""
_FRAMES = {0xC0: False, 0xC1: False, 0xC2: True}
"""Markers of frames with Huffman coding; True for progressive ones."""
_OTHER_FRAMES = (0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF)
_COEFFICIENTS = 64
_AHEAD = b"\xfe" * 8
"""Bytes after a scan, because the decoder reads up to eight bytes ahead. After a whole scan it skips them. As data they
would be long codes, so that they complete as little of a scan as possible.
"""
_MOST_LEFT = 64
"""Most bytes after the last pixel of a scan; some cameras write a few bytes too many."""
_NOTHING = 99
"""Stored for a coefficient of which no bit was sent yet."""


@dataclass(frozen=True)
class _Run:
    """Entropy-coded data between two markers.

    Attributes:
        start: Offset of the first byte.
        end: Offset behind the last byte.
    """

    start: int
    end: int


@dataclass
class _Frame:
    """Header of the image, and the bits of each coefficient that scans have sent.

    Attributes:
        progressive: True if coefficients come in several scans.
        height: Rows of the image.
        width: Columns of the image.
        sampling: Blocks of a component in a unit, across and down, by id.
        sent: Number of low bits of each coefficient that are still missing, by id of the component.
    """

    progressive: bool
    height: int
    width: int
    sampling: dict[int, tuple[int, int]]
    sent: dict[int, list[int]] = field(default_factory=dict)

    def add(self, ids: list[int], first: int, last: int, before: int, bit: int) -> None:
        """Count a scan."""
        for name in ids:
            sent = self.sent[name]
            for index in range(first, last + 1) if self.progressive else range(_COEFFICIENTS):
                if before and sent[index] != before:
                    raise ValueError("scans in the wrong order, or a missing scan")
                sent[index] = bit if self.progressive else 0

    def require_whole(self) -> None:
        """Raise EOFError if bits of a coefficient are missing."""
        missing = sum(any(sent) for sent in self.sent.values())
        if missing:
            raise EOFError(f"scans are missing for {missing} of {len(self.sent)} components")

    def units(self, ids: list[int]) -> int:
        """Return the number of units of a scan, between which restart markers may lie (T.81, A.2)."""
        across, down = (max(factors) for factors in zip(*self.sampling.values(), strict=True))
        own_across, own_down = self.sampling[ids[0]] if len(ids) == 1 else (1, 1)
        if len(ids) > 1:
            return -(-self.width // (8 * across)) * -(-self.height // (8 * down))
        width, height = -(-self.width * own_across // across), -(-self.height * own_down // down)
        return -(-width // 8) * -(-height // 8)


def check_jpeg(file: BinaryIO) -> None:
    """Check that all pixels of a JPEG image are in the file, and leave the file at its beginning.

    Damage that changes neither the number of scans nor the length of their data cannot be found: JPEG has no
    checksum. The entropy-coded data are decoded once, at an eighth of the size.

    Raises:
        ContentError: The image is arithmetic-coded or lossless, or a limit is exceeded.
        EOFError: Scans are missing, or a scan ends before its last pixel.
        ValueError: The structure is damaged, or data follow the last pixel of a scan.
    """
    file.seek(0)
    data = file.read(limits.MAX_JPEG_BYTES + 1)
    if len(data) > limits.MAX_JPEG_BYTES:
        too_many(len(data), "or more bytes in a JPEG image", limits.MAX_JPEG_BYTES)
    runs = list(_walk(data))
    file.seek(0)
    decoder = _Decoder(file)
    for run in runs:
        decoder.check(data, run)
    file.seek(0)


def _walk(data: bytes) -> Iterator[_Run]:
    """Yield the runs of entropy-coded data, and check that the scans add up to the whole image."""
    frame: _Frame | None = None
    interval, place, scans = 0, 2, 0
    while (marker := _MARKER.search(data, place)) and marker[1][0] != _END:
        code, place = marker[1][0], marker.end()
        if code in _ALONE:
            continue
        (length,) = struct.unpack_from(">H", data, place)
        content = data[place + 2 : place + length]
        place += max(length, 2)
        if code in _OTHER_FRAMES:
            raise ContentError("an arithmetic-coded or lossless JPEG image", "save the image as PNG or as usual JPEG")
        if code in _FRAMES:
            if frame is not None:
                raise ValueError("two images in one")
            frame = _read_frame(content, progressive=_FRAMES[code])
        elif code == _RESTART_INTERVAL:
            (interval,) = struct.unpack_from(">H", content)
        elif code == _SCAN:
            if frame is None:
                raise ValueError("a scan before the header of the image")
            scans += 1
            if scans > limits.MAX_JPEG_SCANS:
                too_many(scans, "scans in a JPEG image", limits.MAX_JPEG_SCANS)
            ids = _read_scan(content, frame)
            runs = list(_runs_of_scan(data, place))
            _check_restarts(len(runs), frame.units(ids), interval)
            place = runs[-1].end
            yield from runs
    if frame is None:
        raise ValueError("no header of an image")
    frame.require_whole()


def _read_frame(content: bytes, *, progressive: bool) -> _Frame:
    _, height, width, count = struct.unpack_from(">BHHB", content)
    sampling = {}
    for index in range(count):
        name, factors, _ = struct.unpack_from(">BBB", content, 6 + 3 * index)
        sampling[name] = (factors >> 4, factors & 15)
    if not sampling or not all(min(factors) for factors in sampling.values()):
        raise ValueError("a damaged header")
    sent = {name: [_NOTHING] * _COEFFICIENTS for name in sampling}
    return _Frame(progressive, height, width, sampling, sent)


def _read_scan(content: bytes, frame: _Frame) -> list[int]:
    """Count a scan in the frame, and return the ids of its components."""
    count = content[0]
    ids = [content[1 + 2 * index] for index in range(count)]
    first, last, bits = content[1 + 2 * count : 4 + 2 * count]
    if not ids or not set(ids) <= set(frame.sampling) or last >= _COEFFICIENTS:
        raise ValueError("a damaged header of a scan")
    frame.add(ids, first, last, bits >> 4, bits & 15)
    return ids


def _runs_of_scan(data: bytes, place: int) -> Iterator[_Run]:
    """Yield the runs up to the next marker that is no restart marker. Restart markers must count 0 to 7, in turn."""
    restarts = 0
    while True:
        marker = _MARKER.search(data, place)
        yield _Run(place, marker.start() if marker else len(data))
        if marker is None or marker[1][0] not in _RESTARTS:
            return
        if marker[1][0] != _RESTARTS[restarts % len(_RESTARTS)]:
            raise ValueError("a missing restart marker")
        restarts += 1
        place = marker.end()


def _check_restarts(runs: int, units: int, interval: int) -> None:
    expected = -(-units // interval) if interval else 1
    if runs != expected:
        raise ValueError(f"{runs - 1} restart markers in a scan that needs {expected - 1}")


class _Decoder:
    """The decoder of Pillow, fed in pieces that show where it is.

    The decoder takes data from a file in lumps, because it fills a register of several bytes. Between two scans it
    looks for the next marker, and takes each single byte at once. That tells the end of a scan from its middle.
    """

    def __init__(self, file: BinaryIO) -> None:
        image = JpegImagePlugin.JpegImageFile(bounded(file))
        image.draft(image.mode, (1, 1))  # an eighth of the size: the fewest pixels to compute
        image.load_prepare()
        codec, extents, _, arguments = image.tile[0]
        self._decoder = Image._getdecoder(image.mode, codec, arguments, image.decoderconfig)
        self._decoder.setimage(image.im, extents)
        self._waiting = b""
        self._finished = False
        self._place = 0

    def check(self, data: bytes, run: _Run) -> None:
        """Check that the decoder needs all data of a run, and no more.

        Raises:
            EOFError: The run ends before its last pixel.
            ValueError: Data follow the last pixel of the run.
        """
        if run.end - run.start > _MOST_LEFT:
            place = run.end - _MOST_LEFT
            while data[place - 1] == 0xFF or data[place] == 0xFF:
                place -= 1
            self._feed(data[self._place : place])
            self._place = place + 1
            if self._is_between_scans(data[place : place + 1]) and len(set(data[place : run.end])) > 1:
                raise ValueError("data after the last pixel of a scan")
        self._feed(data[self._place : run.end])
        self._feed(_AHEAD)
        self._place = run.end
        if not self._is_between_scans(_AHEAD[:1]):
            raise EOFError("a scan ends before its last pixel")

    def _is_between_scans(self, byte: bytes) -> bool:
        """Feed one byte, and return True if the decoder waits for a marker or has finished the image."""
        waiting = len(self._waiting)
        self._feed(byte)
        return self._finished or (not waiting and not self._waiting)

    def _feed(self, data: bytes) -> None:
        if self._finished:
            return
        self._waiting += data
        taken, error = self._decoder.decode(self._waiting)
        if error < 0:
            raise ValueError("damaged data of a scan")
        self._finished = taken < 0
        self._waiting = self._waiting[max(taken, 0) :]
