"""Recorded results and pictures for the pages. Every call opens the records read-only, and may run in any thread."""

from __future__ import annotations

import io
import itertools
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from cmdiad_line.records.picture_places import OVERLAY, RGB, XYZ
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.records.rows import JUDGEMENTS
from cmdiad_line.records.stored import Counters, Remark, Selection, StoredResult
from cmdiad_runtime.inspection.overlay import depth_image
from cmdiad_runtime.support.regular_file import read_regular

PictureKind = Literal["image", "overlay"]
"""Pictures of a part: as the sensor saw the part, and with the anomaly map."""

LONGEST_QUEUE = 500
"""Largest number of parts that wait for a judgement; older ones follow when these are judged."""
LARGEST_PREVIEW = 150_000
"""Largest preview in bytes, so that a page with a picture is loaded at once; only pure noise may be larger."""
_QUALITIES = (85, 75, 60, 45, 30)
_LARGEST_PICTURE = 512 << 20  # bytes


class History:
    """Records of one station.

    Args:
        state: State folder of the station.
        near_share: OK parts are reviewed if the score is within this share of the threshold.
    """

    def __init__(self, state: Path, near_share: float) -> None:
        self._state = state
        self._near_share = near_share

    def reader(self) -> RecordReader:
        """Open the records.

        Raises:
            OutputError: There are no records yet, or they cannot be read.
        """
        return RecordReader(self._state)

    def latest(self, *, limit: int, before: int | None = None, verdict: str = "") -> list[StoredResult]:
        """Return recorded results, newest first.

        Args:
            limit: Largest number of results.
            before: Only results with a smaller acquisition id; None for the newest.
            verdict: "OK" or "NG"; "" for both.
        """
        with self.reader() as reader:
            return reader.select(Selection(before_id=before, verdict=verdict or None), limit=limit)

    def result(self, acquisition_id: int) -> StoredResult | None:
        """Return one recorded result, or None."""
        with self.reader() as reader:
            return reader.by_id(acquisition_id)

    def remarks(self, acquisition_id: int) -> tuple[list[Remark], list[Remark]]:
        """Return the judgements and the overrides of a part, oldest first."""
        with self.reader() as reader:
            return reader.judgements(acquisition_id), reader.overrides(acquisition_id)

    def last_id(self) -> int:
        """Return the largest recorded acquisition id, 0 without results."""
        newest = self.latest(limit=1)
        return newest[0].acquisition_id if newest else 0

    def counts(self, since: str) -> Counters:
        """Return the numbers of results since a time in UTC, ISO 8601."""
        with self.reader() as reader:
            return reader.counters(since=since)

    def kept(self, result: StoredResult) -> frozenset[PictureKind]:
        """Return the pictures of a part that are kept."""
        with self.reader() as reader:
            folder = reader.pictures(result)
        kinds: dict[PictureKind, tuple[str, ...]] = {"overlay": (OVERLAY,), "image": (RGB, XYZ)}
        if folder is None:
            return frozenset()
        return frozenset(kind for kind, names in kinds.items() if any((folder / name).is_file() for name in names))

    def picture(self, acquisition_id: int, kind: PictureKind, side: int = 0) -> bytes | None:
        """Return a stored picture, or None if none was kept. A cloud without an image becomes a grey picture.

        Args:
            acquisition_id: Id of the part.
            kind: Which picture.
            side: Largest side of a preview as JPEG, in pixels; 0 for the stored picture as PNG.
        """
        content = self._stored_picture(acquisition_id, kind)
        return _preview(content, side) if content is not None and side else content

    def _stored_picture(self, acquisition_id: int, kind: PictureKind) -> bytes | None:
        with self.reader() as reader:
            result = reader.by_id(acquisition_id)
            folder = None if result is None else reader.pictures(result)
        if folder is None:
            return None
        name = OVERLAY if kind == "overlay" else RGB
        try:
            return read_regular(folder / name, _LARGEST_PICTURE)
        except FileNotFoundError:  # The rule keeps no such picture, or the ring has removed the part just now.
            return _grey_picture(folder / XYZ) if kind == "image" else None

    def queue(self, *, second_look_by: str = "") -> list[StoredResult]:
        """Return the parts that wait for a judgement, newest first.

        Args:
            second_look_by: Name of a person, for parts that exactly one other person has judged; "" for parts without
                a judgement.
        """
        with self.reader() as reader:
            if not second_look_by:
                return reader.to_review(near_share=self._near_share, limit=LONGEST_QUEUE)
            judged = itertools.chain.from_iterable(
                reader.select(Selection(judgement=judgement), limit=LONGEST_QUEUE) for judgement in JUDGEMENTS
            )
            newest = sorted(judged, key=lambda part: part.acquisition_id, reverse=True)[:LONGEST_QUEUE]
            judges = [[remark.user for remark in reader.judgements(part.acquisition_id)] for part in newest]
        return [
            part for part, users in zip(newest, judges, strict=True) if len(users) == 1 and users[0] != second_look_by
        ]


def _preview(content: bytes, side: int) -> bytes | None:
    """Return a small JPEG of a PNG, or None if the file is damaged. A noisy picture is compressed more."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            small = picture.convert("RGB")
    except (OSError, ValueError, SyntaxError):  # A power failure may damage the last pictures.
        return None
    small.thumbnail((side, side))
    for quality in _QUALITIES:
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=quality)
        if buffer.tell() <= LARGEST_PREVIEW:
            break
    return buffer.getvalue()


def _grey_picture(file: Path) -> bytes | None:
    """Return a stored cloud as a grey PNG, or None if there is none."""
    try:
        content = read_regular(file, _LARGEST_PICTURE)
    except FileNotFoundError:
        return None
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            picture = Image.fromarray(depth_image(arrays["xyz"]))
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile):  # A power failure may damage the last pictures.
        return None
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
