"""Recorded results as the pages need them: a protocol, which `cmdiad_line.records.reading` fulfils."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

from cmdiad_line.station_file.station import Station

PictureKind = Literal["image", "overlay"]
"""Stored pictures of a part: as the sensor saw it, and with the anomaly map."""


class History(Protocol):
    """Read-only access to the records of a station. Every method may be called from any thread."""

    def latest(self, *, limit: int, before: int | None = None, verdict: str = "") -> Sequence[dict[str, Any]]:
        """Return recorded results as JSON values, newest first.

        Args:
            limit: Largest number of results.
            before: Only results with a smaller acquisition id; None for the newest.
            verdict: "OK" or "NG"; "" for both.
        """
        ...

    def result(self, acquisition_id: int) -> dict[str, Any] | None:
        """Return one recorded result as JSON values, or None."""
        ...

    def picture(self, acquisition_id: int, kind: PictureKind) -> bytes | None:
        """Return a stored picture as PNG, or None if none was kept."""
        ...

    def counts(self, since: str) -> dict[str, int]:
        """Return the numbers "ok" and "ng" of results since a time in UTC, ISO 8601."""
        ...

    def next_for_review(self, *, before: int | None, second_look_by: str) -> dict[str, Any] | None:
        """Return the newest part that waits for a judgement, or None.

        Args:
            before: Only parts with a smaller acquisition id; None for all.
            second_look_by: Name of a person, for parts that only others have judged; "" for parts that nobody has judged.
        """
        ...

    def waiting_for_review(self, *, second_look_by: str) -> int:
        """Return the number of parts that wait for a judgement; see `next_for_review`."""
        ...


def open_history(station: Station) -> History:
    """Return the recorded results of a station."""
    raise NotImplementedError
