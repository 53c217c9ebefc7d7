"""The calibration record: thresholds of score and map, and the held-out scores behind them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from cmdiad_runtime.bundle.session import MOST_SESSIONS, TRAINING, Session
from cmdiad_runtime.names import VERDICTS, Verdict
from cmdiad_runtime.support.records import (
    RecordError,
    fields_from_json,
    make_tuple,
    require,
    require_integer,
    require_line,
    require_number,
    require_numbers,
)

SCORE_LIMIT = 1e12
"""Largest magnitude of a threshold or held-out score.

Distances between features are many orders of magnitude smaller. A larger threshold could only switch the verdict off.
"""


@dataclass(frozen=True)
class SessionScores:
    """The held-out scores of one session.

    Attributes:
        session: The session.
        scores: Deciding scores of the session's held-out samples.
        peaks: Largest map value of each of these samples.
    """

    session: Session
    scores: tuple[float, ...]
    peaks: tuple[float, ...]


@dataclass(frozen=True)
class Calibration:
    """Thresholds that separate OK from NG, and the data they rest on.

    Attributes:
        score_threshold: Score above which a sample is NG.
        map_threshold: Map value above which a pixel is drawn as anomalous.
        false_reject_rate: Requested share of good parts that may be rejected, in (0, 1); for a threshold set by hand,
            the share of held-out samples above it, in [0, 1].
        samples: Number of held-out good samples behind the thresholds; the number of held-out scores if there are any.
        method: Method that determined the score threshold.
        warning: Reason why the number of samples does not support the rate, or "".
        interval: 95 % confidence interval of the share of good parts above the score threshold; (0, 1) if unknown.
        held_out_scores: Scores of the held-out good samples, of the kind that decides; empty in bundles that do not
            carry them.
        held_out_peaks: Largest map value of each held-out good sample, in the same order.
        verdict: Score that decides: "map" (the largest value of the anomaly map over the sensor's image) or "image"
            (the image score that the graph returns). JSON has the field for "map" only, so that earlier versions can
            read the calibration of an earlier bundle.
        sessions: Sessions of the held-out samples. The scores of a session lie next to each other, in the order of the
            sessions. Empty in bundles that do not record sessions: all samples belong to the training data.

    Raises:
        RecordError: A value has the wrong kind or is out of range.
    """

    score_threshold: float
    map_threshold: float
    false_reject_rate: float
    samples: int
    method: str
    warning: str
    interval: tuple[float, float] = (0.0, 1.0)
    held_out_scores: tuple[float, ...] = ()
    held_out_peaks: tuple[float, ...] = ()
    verdict: Verdict = "image"
    sessions: tuple[Session, ...] = ()

    def __post_init__(self) -> None:
        for name in ("interval", "held_out_scores", "held_out_peaks"):
            make_tuple(self, name)
        for name in ("score_threshold", "map_threshold"):
            require_number(self, name, -SCORE_LIMIT, SCORE_LIMIT)
        require_number(self, "false_reject_rate", 0, 1)
        require_integer(self, "samples", 0, 1 << 40)
        require_line(self, "method")
        require_line(self, "warning")
        require_numbers(self, "interval", 0, 1)
        require(
            len(self.interval) == 2 and self.interval[0] <= self.interval[1], self, "interval", "two ascending shares"
        )
        require(self.verdict in VERDICTS, self, "verdict", f"one of {', '.join(VERDICTS)}")
        for name in ("held_out_scores", "held_out_peaks"):
            require_numbers(self, name, -SCORE_LIMIT, SCORE_LIMIT)
            count = len(getattr(self, name))
            require(count in (0, self.samples), self, "samples", f"{count}, the number of {name}")
        self._check_sessions()

    def _check_sessions(self) -> None:
        make_tuple(self, "sessions")
        require(all(isinstance(s, Session) for s in self.sessions), self, "sessions", "a list of sessions")
        if not self.sessions:
            return
        names = [session.name for session in self.sessions]
        require(len(names) == len({*names}) <= MOST_SESSIONS, self, "sessions", "sessions with different names")
        scores = sum(session.samples for session in self.sessions)
        complete = scores == len(self.held_out_scores) == len(self.held_out_peaks)
        require(complete, self, "sessions", "as many samples in all sessions as there are held-out scores")

    @property
    def by_session(self) -> tuple[SessionScores, ...]:
        """Return the held-out scores of each session; empty without held-out scores."""
        if not self.held_out_scores:
            return ()
        if not self.sessions:
            training = Session(TRAINING, len(self.held_out_scores))
            return (SessionScores(training, self.held_out_scores, self.held_out_peaks),)
        parts, start = [], 0
        for session in self.sessions:
            end = start + session.samples
            parts.append(SessionScores(session, self.held_out_scores[start:end], self.held_out_peaks[start:end]))
            start = end
        return tuple(parts)

    @staticmethod
    def from_json(value: object) -> Calibration:
        """Read a calibration from parsed JSON.

        Raises:
            NewerRecordError: The object has an unknown field.
            RecordError: A field is missing, has the wrong kind or is out of range.
        """
        content = fields_from_json(Calibration, value)
        if "sessions" in content:
            content["sessions"] = _sessions_from_json(content["sessions"])
        return Calibration(**content)

    def to_json(self) -> dict[str, Any]:
        """Return the calibration as a JSON object, without sessions and verdict if they are those of older bundles."""
        content = asdict(self)
        content["sessions"] = list(content["sessions"])
        if not self.sessions:
            del content["sessions"]
        if self.verdict == "image":
            del content["verdict"]
        return content


def _sessions_from_json(value: object) -> tuple[Session, ...]:
    if not isinstance(value, list):
        raise RecordError(f"Calibration.sessions is {value!r:.60}, expected a list")
    return tuple(Session(**fields_from_json(Session, entry)) for entry in value)
