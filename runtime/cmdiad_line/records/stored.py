"""Results, counters, scores and entries of the audit log, as readers of the records receive them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True)
class StoredResult:
    """One trigger, with the verdict as it was published.

    Attributes:
        sequence: Number of the row in the chain.
        hash: Hash of the row.
        acquisition_id: Id of the part.
        time: Wall-clock time of the trigger, ISO 8601 in UTC.
        triggered_ns: Monotonic time of the trigger in nanoseconds; comparable within one run of the machine only.
        part_id: Id of the part from the plant, or "".
        meas_id: Id of the measurement from the plant, or "".
        channel: Process that triggered.
        recipe_id: Recipe.
        bundle_digest: SHA-256 of the manifest of the bundle.
        sensors: Facts of the sensors, such as serial numbers.
        engine: Library, version and device of the engine.
        score: Score, or None if the part was not inspected.
        map_max: Largest map value, or None.
        threshold: Threshold in use, or None if the part was not inspected.
        timings_ms: Milliseconds from the trigger to the end of each stage; see `messages.Result`. A row is written
            before it is recorded, so "recorded" is missing, and for OK "published" too.
        verdict: Published verdict, "OK" or "NG".
        reason: Code of the reason, or "".
        message: The reason as one line for people, or "".
        judgement: Last judgement of a person: "good", "defect", "unsure", or None.
        override: Verdict by which a person replaced the published one, or None.
    """

    sequence: int
    hash: str
    acquisition_id: int
    time: str
    triggered_ns: int
    part_id: str
    meas_id: str
    channel: str
    recipe_id: str
    bundle_digest: str
    sensors: dict[str, str]
    engine: str
    score: float | None
    map_max: float | None
    threshold: float | None
    timings_ms: dict[str, float]
    verdict: str
    reason: str
    message: str
    judgement: str | None
    override: str | None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Results to select. Every condition that is not None must hold.

    Attributes:
        since: Earliest time of the trigger, ISO 8601 in UTC.
        until: Time of the trigger must be before this, ISO 8601 in UTC.
        verdict: Published verdict.
        reason: Code of the reason.
        recipe_id: Recipe.
        bundle_digest: Bundle.
        part_id: Id of the part from the plant.
        meas_id: Id of the measurement from the plant.
        judgement: Last judgement; "" selects parts without one.
        before_id: Only parts with a smaller acquisition id, for pages of a list.
    """

    since: str | None = None
    until: str | None = None
    verdict: str | None = None
    reason: str | None = None
    recipe_id: str | None = None
    bundle_digest: str | None = None
    part_id: str | None = None
    meas_id: str | None = None
    judgement: str | None = None
    before_id: int | None = None


@dataclass(frozen=True, kw_only=True)
class Counters:
    """Numbers of parts in a span of time.

    Attributes:
        triggers: All triggers.
        ok: Parts that were published as OK.
        ng: Parts that were published as NG.
        reasons: Number of NG parts by reason code, largest first.
    """

    triggers: int
    ok: int
    ng: int
    reasons: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ScoreSeries:
    """Scores of inspected parts, oldest first.

    Attributes:
        ids: Acquisition ids, int64 `[n]`.
        times: Times of the triggers in seconds since 1970 UTC, float64 `[n]`.
        scores: Scores, float64 `[n]`.
        thresholds: Thresholds in use, float64 `[n]`.
        accepted: True for parts that were published as OK, bool `[n]`.
    """

    ids: npt.NDArray[np.int64]
    times: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    thresholds: npt.NDArray[np.float64]
    accepted: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Remark:
    """A judgement or an override of a part by a person.

    Attributes:
        time: Wall-clock time, ISO 8601 in UTC.
        user: Account.
        value: The judgement, or the verdict of an override.
        note: Text of the person, or "".
    """

    time: str
    user: str
    value: str
    note: str


@dataclass(frozen=True, kw_only=True)
class AuditEntry:
    """One entry of the audit log.

    Attributes:
        sequence: Number of the row in the chain.
        hash: Hash of the row.
        time: Wall-clock time, ISO 8601 in UTC.
        user: Account or channel.
        action: Name of the action.
        subject: Object of the action.
        details: Further facts.
    """

    sequence: int
    hash: str
    time: str
    user: str
    action: str
    subject: str
    details: dict[str, Any]
