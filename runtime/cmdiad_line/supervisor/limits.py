"""The times and numbers of the station file that decide when a part becomes NG."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Times of the station.

    Attributes:
        deadline_ns: Time from the trigger to the last moment for a verdict.
        max_in_work: Largest number of parts in work.
        max_frame_age_ns: Largest age of a pushed frame.
        hang_ns: Time after the deadline at which an inspection process that does not answer is killed.
        picture_slots: Largest number of frame slots that wait for the records process. The others are for parts.
        margin_ns: Time from the last moment for a verdict to the deadline of the plant.
    """

    deadline_ns: int
    max_in_work: int
    max_frame_age_ns: int
    hang_ns: int
    picture_slots: int
    margin_ns: int = 0
