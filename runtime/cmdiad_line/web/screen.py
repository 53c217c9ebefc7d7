"""The content of the operator page, computed from the state of the desk."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cmdiad_line.transport.messages import Result, StationState
from cmdiad_line.web.desk import Desk, SeenResult
from cmdiad_line.web.words import PHASES, local_time, meaning, score_ratio, sentence, title

Kind = Literal["ok", "ng", "working", "waiting", "stopped", "not-ready", "failed"]
"""`not-ready` and `failed` turn the whole screen red; only `ok` and `ng` show a verdict."""

SHOWN_PARTS = 50
"""Number of parts in the list."""
_TAKT_PARTS = 10


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part on the page.

    Attributes:
        id: Acquisition id.
        part_id: Id of the part from the plant, or "".
        time: Time of day of the trigger in local time, "14:03:59".
        verdict: "OK" or "NG".
        title: Title of the reason; "" for OK.
        message: The reason as a sentence; "" for OK.
        score: Score relative to the threshold, as text such as "0.83"; "" if the part was not inspected.
        milliseconds: Time from the trigger to the result as text, or "".
    """

    id: int
    part_id: str
    time: str
    verdict: str
    title: str
    message: str
    score: str
    milliseconds: str


@dataclass(frozen=True, kw_only=True)
class Screen:
    """Content of the operator page at one moment.

    Attributes:
        kind: Kind of the screen.
        headline: One or two large words.
        title: The reason in a few words, or "".
        message: The reason as a sentence, or "".
        part: The part of the verdict, or None.
        takt: Mean time between the last parts, such as "1.8 s", or "".
        in_work: Number of parts in work.
        recipe: Id of the active recipe, or "".
        phase: Phase of the station as text.
        counters: Numbers of this shift: "parts", "ok", "ng", and "rate" as text.
        parts: Last parts, newest first.
    """

    kind: Kind
    headline: str
    title: str
    message: str
    part: Part | None
    takt: str
    in_work: int
    recipe: str
    phase: str
    counters: dict[str, str]
    parts: tuple[Part, ...]


def make_screen(desk: Desk, counters: dict[str, int], verdict_s: float) -> Screen:
    """Return the present screen.

    A verdict is on the screen only while the station is ready, no part is in work, and the verdict is fresh.

    Args:
        desk: State of the station.
        counters: Numbers of this shift: "ok" and "ng".
        verdict_s: Seconds for which a verdict stays on the screen.
    """
    state, newest = desk.state, desk.newest()
    fresh = newest is not None and desk.clock() - newest.at <= verdict_s
    part = as_part(newest.result) if newest is not None and fresh else None
    kind, headline, reason, message = _content(state, part)
    seen = sorted(desk.results.values(), key=lambda entry: entry.result.acquisition_id, reverse=True)[:SHOWN_PARTS]
    return Screen(
        kind=kind,
        headline=headline,
        title=reason,
        message=message,
        part=part if kind in ("ok", "ng") else None,
        takt=_takt(seen),
        in_work=state.in_work if state is not None else 0,
        recipe=state.recipe_id if state is not None else "",
        phase=PHASES[state.phase] if state is not None else "Not connected",
        counters=_counted(counters),
        parts=tuple(as_part(entry.result) for entry in seen),
    )


def as_part(result: Result) -> Part:
    """Return a result as a part on a page."""
    published = result.timings_ms.get("published")
    good = result.verdict == "OK"
    return Part(
        id=result.acquisition_id,
        part_id=result.part_id,
        time=local_time(result.time)[-8:],
        verdict="OK" if good else "NG",
        title="" if good else title(result.reason),
        message="" if good else sentence(result.message) or meaning(result.reason),
        score=score_ratio(result),
        milliseconds="" if published is None else f"{published:.0f} ms",
    )


def _content(state: StationState | None, part: Part | None) -> tuple[Kind, str, str, str]:
    """Return kind, headline, title and message. `part` is the newest one if its verdict is fresh, else None."""
    if state is None:
        return "not-ready", "Not ready", "", "The station does not answer. Look at the station itself."
    if state.phase != "ready":
        return _unready(state)
    if state.in_work > 0:
        return "working", "Inspecting", "", ""
    if part is None:
        return "waiting", "Ready", "", "Waiting for the next part."
    if part.verdict == "OK":
        return "ok", "OK", "", ""
    return "ng", "NG", part.title, part.message


def _unready(state: StationState) -> tuple[Kind, str, str, str]:
    if state.phase == "failed":
        return "failed", PHASES["failed"], title(state.reason), sentence(state.message) or "Call an engineer."
    if state.phase == "stopped":
        return "stopped", PHASES["stopped"], "", "Every part is NG until somebody presses Start."
    reason = "" if state.reason == "not-ready" else title(state.reason)  # The headline contains this reason already.
    return "not-ready", PHASES[state.phase], reason, sentence(state.message)


def _takt(seen: list[SeenResult]) -> str:
    """Return the mean time between the last parts as text, or "" for fewer than two parts."""
    times = [entry.at for entry in seen[:_TAKT_PARTS]]
    if len(times) < 2:
        return ""
    seconds = (max(times) - min(times)) / (len(times) - 1)
    return f"{seconds:.1f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def _counted(counters: dict[str, int]) -> dict[str, str]:
    good, bad = counters["ok"], counters["ng"]
    rate = f"{100 * bad / (good + bad):.1f} %" if good + bad else "–"
    return {"parts": f"{good + bad}", "ok": f"{good}", "ng": f"{bad}", "rate": rate}
