"""The state machine that decides the result of every trigger.

Every trigger gets exactly one result in time, and OK only if the part was really inspected. Events with the present
time go in, and actions come out. The machine has no clock, process or file, so tests can drive it through any order of
events. A part goes through these stages::

    trigger -> acquiring -> waiting -> inspecting -> recording -> done
                   |           |            |            |
                   +-----------+------------+------------+--> NG with a reason, at the deadline at the latest

OK is published in one place only, `_recorded`, after `_objection` found nothing against it.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace
from typing import Any

from cmdiad_line.reasons import STATION_REASONS, StationReason
from cmdiad_line.supervisor.actions import Action, Adopt, Kill, Publish, Send
from cmdiad_line.supervisor.ids import Ids
from cmdiad_line.supervisor.limits import Limits
from cmdiad_line.supervisor.part import Part
from cmdiad_line.supervisor.picture_slots import PictureSlots
from cmdiad_line.supervisor.readiness import Readiness
from cmdiad_line.supervisor.rows import Rows
from cmdiad_line.transport.messages import (
    Acknowledge,
    Acquired,
    AcquisitionDone,
    Inspected,
    Message,
    NotAcquired,
    NotRecorded,
    Opened,
    PictureDone,
    Pushed,
    Recorded,
    Release,
    Reserve,
    Result,
    Trigger,
    Triggered,
)

UNACKNOWLEDGED = 8
"""Number of results that wait for the acknowledgement of the PLC, as in its result buffer."""
COUNTERS = ("triggers", "ok", "ng", "missed", "late", "pictures_skipped")


class Dispatch:
    """The parts in work and their results.

    Args:
        readiness: Facts of the station, which the supervisor updates.
        limits: Times of the station.

    Attributes:
        counters: Numbers since the start; see COUNTERS.
    """

    def __init__(self, readiness: Readiness, limits: Limits) -> None:
        self.counters: Counter[str] = Counter(dict.fromkeys(COUNTERS, 0))
        self._readiness = readiness
        self._limits = limits
        self._parts: dict[int, Part] = {}
        self._engine: Part | None = None  # It stays in the inspection process after its deadline, until the answer.
        self._killing = False
        self._ids = Ids()
        self._pictures = PictureSlots()
        self._rows = Rows()
        self._unacknowledged: deque[Result] = deque(maxlen=UNACKNOWLEDGED)
        self._actions: list[Action] = []

    @property
    def in_work(self) -> int:
        """Return the number of parts without a result."""
        return len(self._open_parts())

    @property
    def is_full(self) -> bool:
        """Return True if another part would be an overrun."""
        return self.in_work >= self._limits.max_in_work

    @property
    def engine_busy(self) -> bool:
        """Return True while the inspection process has a part."""
        return self._engine is not None

    @property
    def rows_lost(self) -> int:
        """Return the number of rows that could not be kept until the records process came back."""
        return self._rows.lost

    def next_ns(self) -> int | None:
        """Return the time at which `tick` must be called at the latest, or None."""
        times = [part.deadline_ns for part in self._open_parts()]
        if self._engine is not None and not self._killing:
            times.append(self._engine.deadline_ns + self._limits.hang_ns)
        return min(times, default=None)

    def handle(self, source: str, message: Message, now_ns: int, time: str) -> list[Action]:
        """Handle a message of a process and return the actions that follow, in order.

        Args:
            source: Name of the process that sent the message.
            message: The message. Kinds that do not concern parts are ignored.
            now_ns: Present monotonic time.
            time: Present wall-clock time, ISO 8601 in UTC.

        Raises:
            NoIdsError: A trigger came and no acquisition id is left.
        """
        self._expire(now_ns)
        sender, handler = _HANDLERS.get(type(message), ("", None))
        if isinstance(message, Trigger | Pushed):
            self._trigger(source, message, now_ns, time)
        elif handler is not None and source == sender:
            handler(self, message, now_ns)
        return self._flush(now_ns)

    def tick(self, now_ns: int) -> list[Action]:
        """Answer the parts whose deadline has come, and have a hung inspection process killed."""
        self._expire(now_ns)
        hung = self._engine is not None and now_ns >= self._engine.deadline_ns + self._limits.hang_ns
        if hung and not self._killing:
            self._killing = True
            self._actions.append(Kill("inspection", "inspection-hung"))
        return self._flush(now_ns)

    def abort(self, now_ns: int) -> list[Action]:
        """Answer all parts in work with NG `aborted`."""
        for part in self._open_parts():
            self._fail(part, _reason("aborted"), now_ns)
        return self._flush(now_ns)

    def process_down(self, name: str, reason: StationReason, now_ns: int) -> list[Action]:
        """Answer the parts that the end of a process affects.

        Args:
            name: Name of the process.
            reason: Reason for the parts that were in that process.
            now_ns: Present monotonic time.
        """
        affected: list[Part] = []
        if name == "acquisition":
            self._forget_slots()
            affected = [part for part in self._open_parts() if part.stage == "acquiring"]
        elif name == "inspection":  # Every part in work was to be judged by the engine that has ended.
            self._engine, self._killing = None, False
            affected = self._open_parts()
        elif name == "records":
            self._records_down(now_ns)
        for part in affected:
            self._fail(part, _reason(reason), now_ns)
        return self._flush(now_ns)

    def replay(self) -> list[Result]:
        """Return the results that a restarted PLC process must show, oldest first.

        One that no process received was never shown, so the process shows no OK of it after the deadline.
        """
        results = list(self._unacknowledged)
        again = (replace(result, replayed=True) for result in results)
        self._unacknowledged = deque(again, maxlen=UNACKNOWLEDGED)
        return results

    # --- events ------------------------------------------------------------------------------------------------------

    def _trigger(self, channel: str, message: Trigger | Pushed, now_ns: int, time: str) -> None:
        refusal: tuple[str, str] | None = self._readiness.refusal()
        if refusal is None and self.is_full:
            refusal = _reason("overrun")
        triggered_ns = min(message.sent_ns, now_ns) if isinstance(message, Trigger) and message.sent_ns > 0 else now_ns
        part = Part(
            acquisition_id=self._new_id(),
            channel=channel,
            part_id=message.part_id,
            meas_id="" if isinstance(message, Pushed) else message.meas_id,
            time=time,
            triggered_ns=triggered_ns,
            deadline_ns=triggered_ns + self._limits.deadline_ns,
            margin_ns=self._limits.margin_ns,
            recipe_id=self._readiness.active_id,
            loaded=self._readiness.active,
            pushed=isinstance(message, Pushed),
        )
        self._parts[part.acquisition_id] = part
        self.counters["triggers"] += 1
        answer = Triggered(token=message.token, acquisition_id=part.acquisition_id, accepted=refusal is None)
        self._actions.append(Send(channel, answer))
        if isinstance(message, Pushed):
            self._actions.append(Adopt(message.slot, message.token, part.acquisition_id))
            self._take_frame(part, message, now_ns)
        elif refusal is None:
            self._actions.append(Send("acquisition", part.acquire()))
        if refusal is not None:
            self.counters["missed"] += 1
            self._fail(part, refusal, now_ns)

    def _acquired(self, message: Acquired, now_ns: int) -> None:
        part = self._parts.get(message.acquisition_id)
        if part is not None and part.stage == "acquiring":
            self._take_frame(part, message, now_ns)
            return
        self.counters["late"] += 1
        if part is None or not part.owns_slot or part.slot != message.slot:
            self._actions.append(Send("acquisition", Release(slot=message.slot)))

    def _not_acquired(self, message: NotAcquired, now_ns: int) -> None:
        part = self._parts.get(message.acquisition_id)
        if part is not None and part.stage == "acquiring":
            self._fail(part, (message.reason, message.message), now_ns)
        else:
            self.counters["late"] += 1

    def _inspected(self, message: Inspected, now_ns: int) -> None:
        part = self._engine
        if part is None or part.acquisition_id != message.acquisition_id:
            return  # This part is not in the inspection process, so the answer does not count.
        self._engine, part.inspected = None, message
        part.timings |= {stage: round(value, 3) for stage, value in message.timings_ms.items()}
        part.stamp("inspected", now_ns)
        if part.result is not None:
            self.counters["late"] += 1
            return
        objection = self._objection(part, now_ns)
        if objection is not None:
            self._fail(part, objection, now_ns)
            return
        part.stage, part.recording = "recording", True
        self._rows.add(part.row(part.make_result("OK", "", "")))

    def _recorded(self, message: Recorded, now_ns: int) -> None:
        part = self._answered(message.acquisition_id)
        if part is None:
            return
        if part.result is None:
            part.stamp("recorded", now_ns)
            objection = self._objection(part, now_ns)
            if objection is None:
                part.stamp("published", now_ns)
                self._publish(part, part.make_result("OK", "", ""))
            else:
                self._fail(part, objection, now_ns)
        part.recording = False

    def _not_recorded(self, message: NotRecorded, now_ns: int) -> None:
        part = self._answered(message.acquisition_id)
        if part is None:
            return
        part.recording = False
        if part.result is None:
            self._fail(part, (message.reason, message.message), now_ns)
        else:
            self._rows.add(part.row(part.result))  # NG was published meanwhile, and has no row yet.

    def _answered(self, acquisition_id: int) -> Part | None:
        """Note the answer to a row. Return the part if the row said OK, otherwise None."""
        row = self._rows.answered(acquisition_id)
        return self._parts.get(acquisition_id) if row is not None and row.result.verdict == "OK" else None

    def _picture_done(self, message: PictureDone, now_ns: int) -> None:
        self.counters["pictures_skipped"] += message.skipped
        if self._pictures.done(message.slot):
            self._actions.append(Send("acquisition", Release(slot=message.slot)))

    def _acknowledged(self, message: Acknowledge, now_ns: int) -> None:
        remaining = [result for result in self._unacknowledged if result.acquisition_id != message.acquisition_id]
        self._unacknowledged = deque(remaining, maxlen=UNACKNOWLEDGED)

    def _opened(self, message: Opened, now_ns: int) -> None:
        self._ids.add(message)
        self._rows.opened()

    # --- parts -------------------------------------------------------------------------------------------------------

    def _open_parts(self) -> list[Part]:
        return [part for part in self._parts.values() if part.result is None]

    def _new_id(self) -> int:
        acquisition_id = self._ids.take()
        if self._ids.are_few:
            self._ids.reserving = True
            self._actions.append(Send("records", Reserve()))
        return acquisition_id

    def _expire(self, now_ns: int) -> None:
        for part in self._open_parts():
            if now_ns >= part.deadline_ns:
                self._fail(part, _reason("deadline"), now_ns)

    def _take_frame(self, part: Part, frame: Acquired | Pushed, now_ns: int) -> None:
        part.take_frame(frame, now_ns)
        self._actions.append(Publish(part.channel, AcquisitionDone(acquisition_id=part.acquisition_id)))

    def _objection(self, part: Part, now_ns: int) -> tuple[str, str] | None:
        """Return reason and message why a part must not be OK, or None if every rule holds."""
        inspected, loaded = part.inspected, part.loaded
        if inspected is None or loaded is None:
            return _reason("station-error")
        if inspected.verdict != "OK" or inspected.reason:
            return inspected.reason or "station-error", inspected.message
        rules: tuple[tuple[bool, StationReason], ...] = (
            (inspected.score is not None and inspected.score <= inspected.threshold, "station-error"),
            (now_ns < part.deadline_ns, "deadline"),
            (part.is_fresh(self._limits.max_frame_age_ns), "stale-frame"),
            (self._readiness.loaded.get(loaded.recipe_id) is loaded, "recipe-changed"),
            (inspected.recipe_id == loaded.recipe_id, "recipe-changed"),
            (inspected.threshold == loaded.threshold, "recipe-changed"),
            ("records" in self._readiness.running, "not-recorded"),
        )
        broken = next((reason for holds, reason in rules if not holds), None)
        return None if broken is None else _reason(broken)

    def _fail(self, part: Part, objection: tuple[str, str], now_ns: int) -> None:
        """Publish NG for a part without a result, and have it recorded."""
        part.stamp("published", now_ns)
        result = part.make_result("NG", *objection)
        self._publish(part, result)
        if part.recording and not self._rows.withdraw(part.acquisition_id):
            self._rows.correct(part.correction(result))
        else:
            part.recording = False
            self._rows.add(part.row(result))

    def _publish(self, part: Part, result: Result) -> None:
        if part.stage == "acquiring":
            self._actions.append(Publish(part.channel, AcquisitionDone(acquisition_id=part.acquisition_id)))
        part.result, part.stage = result, "done"
        self.counters["ok" if result.verdict == "OK" else "ng"] += 1
        if part.channel == "plc":
            self._unacknowledged.append(replace(result, replayed="plc" in self._readiness.running))
        self._actions.append(Publish(part.channel, result))

    def _records_down(self, now_ns: int) -> None:
        """Answer the parts whose row is in doubt, and free the slots that waited for pictures."""
        self._ids.reserving = False
        for row in self._rows.closed():
            part = self._parts[row.result.acquisition_id]
            part.recording = False
            if part.result is None:
                self._fail(part, _reason("not-recorded"), now_ns)
            else:
                self._rows.add(part.row(part.result))
            assert part.result is not None
            self._rows.correct(part.correction(part.result))
        for part in self._open_parts():
            if part.stage == "recording":
                self._fail(part, _reason("not-recorded"), now_ns)
        self._actions.extend(Send("acquisition", Release(slot=slot)) for slot in self._pictures.records_ended())

    def _forget_slots(self) -> None:
        """Forget all slots: a new acquisition process begins with free ones. The headers protect frames in use."""
        self._pictures.acquisition_ended()
        for part in self._parts.values():
            part.owns_slot = False

    # --- actions -----------------------------------------------------------------------------------------------------

    def _flush(self, now_ns: int) -> list[Action]:
        """Do what can be done now, and return all actions."""
        self._begin_inspection(now_ns)
        for part in [part for part in self._parts.values() if part.result is not None and part is not self._engine]:
            self._let_go_of_slot(part)
            if not part.recording:
                del self._parts[part.acquisition_id]
        rows = [Send("records", row) for row in self._rows.take()]
        pictures = [action for action in self._actions if _is_for_records(action)]
        others = [action for action in self._actions if not _is_for_records(action)]
        self._actions = []
        return [*others, *rows, *pictures]

    def _begin_inspection(self, now_ns: int) -> None:
        """Send the oldest waiting part to the inspection process, if that is free.

        One part at a time, so that a part whose deadline has passed does not delay the next one.
        """
        waiting = (part for part in list(self._parts.values()) if part.stage == "waiting")
        for part in waiting:
            if self._engine is not None or "inspection" not in self._readiness.running:
                return
            part.begun_ns = now_ns
            if not part.is_fresh(self._limits.max_frame_age_ns):
                self._fail(part, _reason("stale-frame"), now_ns)
            elif part.loaded is None or self._readiness.loaded.get(part.recipe_id) is not part.loaded:
                self._fail(part, _reason("recipe-changed"), now_ns)
            else:
                part.stage, self._engine = "inspecting", part
                self._actions.append(Send("inspection", part.inspect()))

    def _let_go_of_slot(self, part: Part) -> None:
        """Have pictures kept if the rule for pictures says so, else free the slot.

        If many slots wait for a slow disk, the pictures are skipped: the next parts must find a free slot.
        """
        if not part.owns_slot or part.result is None:
            return
        part.owns_slot = False
        recording = "records" in self._readiness.running
        if recording and len(self._pictures) < self._limits.picture_slots:
            self._pictures.keep(part.slot)
            self._actions.append(Send("records", part.picture(part.result)))
        else:
            self.counters["pictures_skipped"] += recording
            self._actions.append(Send("acquisition", Release(slot=part.slot)))


_HANDLERS: dict[type, tuple[str, Any]] = {
    Acquired: ("acquisition", Dispatch._acquired),
    NotAcquired: ("acquisition", Dispatch._not_acquired),
    Inspected: ("inspection", Dispatch._inspected),
    Recorded: ("records", Dispatch._recorded),
    NotRecorded: ("records", Dispatch._not_recorded),
    PictureDone: ("records", Dispatch._picture_done),
    Opened: ("records", Dispatch._opened),
    Acknowledge: ("plc", Dispatch._acknowledged),
}
"""Process that may send a message, and the method that handles it."""


def _is_for_records(action: Action) -> bool:
    return isinstance(action, Send) and action.to == "records"


def _reason(code: StationReason) -> tuple[str, str]:
    return code, STATION_REASONS[code]
