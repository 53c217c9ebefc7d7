"""Add the scores of good parts of other sessions to the calibration of a bundle."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.calibration import Calibration, SessionScores
from cmdiad_runtime.bundle.session import LEAST_PARTS, TRAINING, Session
from cmdiad_runtime.bundle.session_name import session_name
from cmdiad_runtime.bundle.threshold import adjusted, is_rate_based
from cmdiad_runtime.errors import BundleError, InputError
from cmdiad_runtime.printable import printable


@dataclass(frozen=True)
class GoodParts:
    """The good parts in a folder.

    Attributes:
        folder: The folder.
        scores: Deciding score and largest map value of each part, by the digest of the part's content.
    """

    folder: Path
    scores: Mapping[str, tuple[float, float]]


def with_sessions(bundle: Bundle, folders: Sequence[GoodParts]) -> tuple[Bundle, list[str]]:
    """Return a bundle whose calibration also rests on further good parts, with lines about what was added.

    A part whose content is recorded already is not added again. The other parts extend the session of the folder's
    name if the folder holds parts of that session; otherwise they are a new session. The thresholds are computed again
    for the false-reject rate of the calibration. A threshold that was set otherwise stays, with new evidence.

    Args:
        bundle: Verified bundle.
        folders: Good parts, scored by the bundle.

    Raises:
        BundleError: The bundle contains no held-out scores.
        InputError: A new session has too few parts.
    """
    calibration = bundle.calibration
    if not calibration.by_session:
        raise BundleError(
            bundle.path,
            found="no held-out scores in its calibration",
            expected="scores of held-out good samples that further sessions can be compared with",
            action="export the run again with this version of cmdiad",
        )
    sessions = list(calibration.by_session)
    lines = [_add(sessions, parts) for parts in folders]
    if not calibration.sessions:
        lines.append(
            "warning: the bundle does not record its training samples, so these are not recognised among the good "
            "parts. Train and export again with this version."
        )
    extended = _with_scores(calibration, sessions)
    changed = replace(bundle, calibration=extended)
    if is_rate_based(calibration):
        return adjusted(changed, false_reject_rate=calibration.false_reject_rate), lines
    score = calibration.score_threshold
    by_hand = adjusted(changed, score=score, map_threshold=calibration.map_threshold).calibration
    return replace(changed, calibration=replace(by_hand, method=calibration.method)), lines


def _with_scores(calibration: Calibration, sessions: Sequence[SessionScores]) -> Calibration:
    return replace(
        calibration,
        samples=sum(len(part.scores) for part in sessions),
        held_out_scores=tuple(score for part in sessions for score in part.scores),
        held_out_peaks=tuple(peak for part in sessions for peak in part.peaks),
        sessions=tuple(part.session for part in sessions),
    )


def _add(sessions: list[SessionScores], parts: GoodParts) -> str:
    """Add the new parts of a folder to the sessions, in place, and return a line about them."""
    known = {content for part in sessions for content in part.session.contents}
    new = {content: scores for content, scores in parts.scores.items() if content not in known}
    repeated = len(parts.scores) - len(new)
    if parts.scores and not new:
        return f"{printable(parts.folder)}: all {repeated} good parts are recorded already; nothing is added."
    place, name = _place(sessions, parts)
    earlier = sessions[place] if place < len(sessions) else None
    if earlier is None and len(new) < LEAST_PARTS:
        raise InputError(
            parts.folder,
            found=f"{len(new)} new good parts that the bundle inspects",
            expected=f"at least {LEAST_PARTS} good parts of another session",
            action="record more good parts",
        )
    added = SessionScores(
        Session(name, len(new), tuple(new)), tuple(s for s, _ in new.values()), tuple(p for _, p in new.values())
    )
    sessions[place : place + 1] = [added if earlier is None else _joined(earlier, added)]
    again = f" ({repeated} others are recorded already)" if repeated else ""
    return f"{printable(parts.folder)}: {len(new)} good parts added to the session {name}{again}."


def _place(sessions: Sequence[SessionScores], parts: GoodParts) -> tuple[int, str]:
    """Return position and name of the session that a folder extends, or those of a new session."""
    name = session_name(parts.folder, [])
    for i, part in enumerate(sessions):
        same = part.session.name == name or part.session.name.startswith(f"{name} (")
        if same and part.session.name != TRAINING and not parts.scores.keys().isdisjoint(part.session.contents):
            return i, part.session.name
    return len(sessions), session_name(parts.folder, [TRAINING, *(part.session.name for part in sessions)])


def _joined(earlier: SessionScores, added: SessionScores) -> SessionScores:
    session = Session(
        earlier.session.name,
        earlier.session.samples + added.session.samples,
        (*earlier.session.contents, *added.session.contents),
    )
    return SessionScores(session, (*earlier.scores, *added.scores), (*earlier.peaks, *added.peaks))
