"""Every trigger gets exactly one result, and OK only if the part was inspected, in any order of events."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cmdiad_line.reasons import STATION_REASONS
from cmdiad_line.records.export import STAGES
from cmdiad_line.supervisor.actions import Action, Kill, Publish, Send
from cmdiad_line.supervisor.dispatch import Dispatch
from cmdiad_line.supervisor.ids import NoIdsError
from cmdiad_line.supervisor.limits import Limits
from cmdiad_line.supervisor.readiness import LoadedRecipe, Readiness
from cmdiad_line.supervisor.rows import LONGEST_BACKLOG, Rows
from cmdiad_line.transport.messages import (
    Acknowledge,
    Acquire,
    Acquired,
    AcquisitionDone,
    Correct,
    Inspect,
    Inspected,
    KeepPicture,
    Message,
    NotAcquired,
    NotRecorded,
    Opened,
    PictureDone,
    Pushed,
    Record,
    Recorded,
    Release,
    Result,
    SourcesState,
    Trigger,
    Verdict,
)
from record_rows import a_rejected
from station_messages import part_inspected

MS = 10**6
LIMITS = Limits(
    deadline_ns=100 * MS, max_in_work=2, max_frame_age_ns=50 * MS, hang_ns=200 * MS, picture_slots=2, margin_ns=7
)
TIME = "2026-11-26T12:00:00+00:00"
CONNECTED = SourcesState(connected=True, message="", reconnects=0)


def recipe(recipe_id: str = "gear", threshold: float = 1.0) -> LoadedRecipe:
    return LoadedRecipe(
        recipe_id=recipe_id, bundle_digest=f"{recipe_id}-digest", modality="rgb", engine="engine", threshold=threshold
    )


def inspected(part: int, *, verdict: Verdict = "OK", threshold: float = 1.0, **changes: object) -> Inspected:
    values = {"threshold": threshold, "map_threshold": threshold, "timings_ms": {"engine": 1.0}, **changes}
    return part_inspected(part, verdict, **values)


def acquired(part: int, slot: int, captured_ns: int) -> Acquired:
    return Acquired(acquisition_id=part, slot=slot, arrays=(), captured_ns=captured_ns, sensors={})


@dataclass
class Oracle:
    """Facts about one trigger, noted by the test itself."""

    triggered_ns: int
    loaded: LoadedRecipe | None
    pushed: bool
    accepted: bool
    fresh: bool = False
    good: bool = False
    recorded: bool = False
    results: list[Result] = field(default_factory=list)


class Station(RuleBasedStateMachine):
    """Events in any order, with answers that are late, doubled, wrong or missing."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000 * MS
        self.readiness = Readiness(
            running={"records", "acquisition", "inspection"}, sources=CONNECTED, active_id="gear"
        )
        self.readiness.loaded = {"gear": recipe(), "nut": recipe("nut")}
        self.dispatch = Dispatch(self.readiness, LIMITS)
        self.parts: dict[int, Oracle] = {}
        self.orders: list[Acquire] = []
        self.order: Inspect | None = None
        self.rows: list[Record] = []
        self.pictures: list[int] = []
        self.stale_pictures = 0  # The first ones are of an acquisition process that has ended.
        self.held: set[int] = set()
        self.stored: dict[int, str] = {}
        self.corrected: set[int] = set()
        self.killed = False
        self.next_id = 1

    @initialize()
    def begin(self) -> None:
        self.give(self.dispatch.handle("records", Opened(next_id=1, reserved=2000), self.now, TIME))

    # --- what the actions do ---------------------------------------------------------------------------------------

    def give(self, actions: list[Action]) -> None:
        for action in actions:
            if isinstance(action, Publish) and isinstance(action.message, Result):
                self.check(action.message)
            elif isinstance(action, Kill):
                assert not self.killed
                self.killed = True
            elif isinstance(action, Send):
                self.take(action.to, action.message)

    def take(self, to: str, message: Message) -> None:
        if isinstance(message, Acquire):
            self.orders.append(message)
        elif isinstance(message, Inspect):
            assert to == "inspection"
            assert self.order is None, "one part at a time"
            self.order = message
        elif isinstance(message, Record):
            assert to == "records"
            self.rows.append(message)
        elif isinstance(message, Correct):
            assert self.parts[message.acquisition_id].results[0].verdict == "NG"
            self.corrected.add(message.acquisition_id)
        elif isinstance(message, KeepPicture):
            assert message.result.acquisition_id in self.parts
            self.pictures.append(message.slot)
            assert len(self.pictures) - self.stale_pictures <= LIMITS.picture_slots
        elif isinstance(message, Release):
            assert message.slot in self.held, "a slot is freed once"
            assert message.slot not in self.pictures[self.stale_pictures :]
            self.held.remove(message.slot)

    def check(self, result: Result) -> None:
        part = self.parts[result.acquisition_id]
        assert not part.results, "one result per trigger"
        part.results.append(result)
        if result.verdict == "NG":
            assert result.reason in STATION_REASONS or result.reason == "score"
            return
        assert part.accepted
        assert part.fresh
        assert part.good
        assert part.recorded
        assert self.now < part.triggered_ns + LIMITS.deadline_ns
        assert part.loaded is not None
        assert self.readiness.loaded.get(part.loaded.recipe_id) is part.loaded
        assert "records" in self.readiness.running
        assert "inspection" in self.readiness.running
        assert (result.recipe_id, result.bundle_digest) == (part.loaded.recipe_id, part.loaded.bundle_digest)

    # --- events ----------------------------------------------------------------------------------------------------

    def note_trigger(self, *, pushed: bool, fresh: bool = False) -> None:
        in_work = sum(
            not part.results and self.now < part.triggered_ns + LIMITS.deadline_ns for part in self.parts.values()
        )
        accepted = self.readiness.refusal() is None and in_work < LIMITS.max_in_work
        self.parts[self.next_id] = Oracle(self.now, self.readiness.active, pushed, accepted, fresh)
        self.next_id += 1

    @rule(channel=st.sampled_from(["plc", "web"]))
    def trigger(self, channel: str) -> None:
        self.note_trigger(pushed=False)
        self.give(self.dispatch.handle(channel, Trigger(token=7), self.now, TIME))

    @precondition(lambda self: "acquisition" in self.readiness.running)
    @rule(age_ms=st.integers(-5, 80))
    def push(self, age_ms: int) -> None:
        self.note_trigger(pushed=True, fresh=0 <= age_ms * MS <= LIMITS.max_frame_age_ns)
        slot = self.free_slot()
        pushed = Pushed(token=9, slot=slot, arrays=(), captured_ns=self.now - age_ms * MS)
        self.give(self.dispatch.handle("acquisition", pushed, self.now, TIME))

    def free_slot(self) -> int:
        slot = next(slot for slot in range(1000) if slot not in self.held)
        self.held.add(slot)
        return slot

    @precondition(lambda self: self.readiness.refusal() is None and self.order is None and not self.orders)
    @rule()
    def nearly_finish(self) -> None:
        """Bring a part to the last step before OK, so that the events in between are tried often."""
        self.trigger("plc")
        if self.orders:
            order = self.orders.pop()
            self.parts[order.acquisition_id].fresh = True
            message = acquired(order.acquisition_id, self.free_slot(), self.now)
            self.give(self.dispatch.handle("acquisition", message, self.now, TIME))
        if self.order is not None:
            self.inspect("OK", 0, "same", 0.5, 1.0)

    @precondition(lambda self: self.orders)
    @rule(data=st.data(), late_ms=st.integers(-3, 3), again=st.booleans())
    def deliver(self, data: st.DataObject, late_ms: int, again: bool) -> None:
        order = data.draw(st.sampled_from(self.orders))
        if not again:
            self.orders.remove(order)
        captured_ns = order.triggered_ns + late_ms * MS
        part = self.parts[order.acquisition_id]
        if not part.results and not part.fresh and part.accepted:
            part.fresh = order.triggered_ns <= captured_ns <= self.now
        slot = self.free_slot()
        self.give(
            self.dispatch.handle("acquisition", acquired(order.acquisition_id, slot, captured_ns), self.now, TIME)
        )

    @precondition(lambda self: self.orders)
    @rule()
    def fail_to_deliver(self) -> None:
        order = self.orders.pop()
        message = NotAcquired(acquisition_id=order.acquisition_id, reason="partner-missing", message="")
        self.give(self.dispatch.handle("acquisition", message, self.now, TIME))

    @precondition(lambda self: self.order is not None)
    @rule(
        verdict=st.sampled_from(["OK", "OK", "OK", "NG"]),
        shift=st.sampled_from([0, 0, 0, 1]),
        recipe_id=st.sampled_from(["same", "same", "nut"]),
        score=st.sampled_from([0.5, 0.5, 1.0, 1.5, None, float("nan")]),
        threshold=st.sampled_from([1.0, 1.0, 1.0, 2.0]),
    )
    def inspect(self, verdict: str, shift: int, recipe_id: str, score: float | None, threshold: float) -> None:
        assert self.order is not None
        part = self.order.acquisition_id + shift
        recipe_id = self.order.recipe_id if recipe_id == "same" else recipe_id
        if not shift:
            true = verdict == "OK" and score is not None and score <= threshold and threshold == 1.0
            self.parts[part].good = true and recipe_id == self.order.recipe_id and self.order is not None
            self.order = None
        message = inspected(part, verdict=verdict, recipe_id=recipe_id, threshold=threshold, score=score)
        self.give(self.dispatch.handle("inspection", message, self.now, TIME))

    @precondition(lambda self: self.rows)
    @rule(data=st.data(), stored=st.sampled_from([True, True, False]))
    def record(self, data: st.DataObject, stored: bool) -> None:
        row = data.draw(st.sampled_from(self.rows))
        self.rows.remove(row)
        part = row.result.acquisition_id
        if stored:
            self.store(row.result)
            self.parts[part].recorded = True
            message: Message = Recorded(acquisition_id=part)
        else:
            message = NotRecorded(acquisition_id=part, reason="disk-full", message="")
        self.give(self.dispatch.handle("records", message, self.now, TIME))

    def store(self, result: Result) -> None:
        """Keep a row as the records process does: the second row of a part only turns OK into NG."""
        part = result.acquisition_id
        self.stored[part] = "NG" if self.stored.get(part) == "NG" else result.verdict

    @rule(part=st.integers(1, 12), source=st.sampled_from(["records", "inspection", "plc"]))
    def nonsense(self, part: int, source: str) -> None:
        """Answers to questions that nobody asked, and answers from the wrong process."""
        if any(row.result.acquisition_id == part for row in self.rows) and source == "records":
            return
        if self.order is not None and self.order.acquisition_id == part and source == "inspection":
            return
        for message in (Recorded(acquisition_id=part), inspected(part)):
            self.give(self.dispatch.handle(source, message, self.now, TIME))

    @precondition(lambda self: self.pictures)
    @rule(data=st.data())
    def picture(self, data: st.DataObject) -> None:
        number = data.draw(st.integers(0, len(self.pictures) - 1))
        slot = self.pictures[number]
        number = self.pictures.index(slot)  # Answers for the same slot come in order.
        del self.pictures[number]
        self.stale_pictures -= number < self.stale_pictures
        self.give(self.dispatch.handle("records", PictureDone(slot=slot, kept=False), self.now, TIME))

    @rule(milliseconds=st.sampled_from([0, 1, 5, 40, 90, 400]))
    def wait(self, milliseconds: int) -> None:
        self.now += milliseconds * MS
        self.give(self.dispatch.tick(self.now))
        next_ns = self.dispatch.next_ns()
        assert next_ns is None or next_ns > self.now

    @rule(milliseconds=st.sampled_from([5, 95]))
    def stall(self, milliseconds: int) -> None:
        """The supervisor does not run for a while: the next event comes before its tick."""
        self.now += milliseconds * MS

    @rule(name=st.sampled_from(["acquisition", "inspection", "records"]))
    def end_process(self, name: str) -> None:
        if name not in self.readiness.running:
            return
        self.readiness.running.discard(name)
        if name == "acquisition":
            self.orders.clear()
            self.held.clear()
            self.stale_pictures = len(self.pictures)
        elif name == "inspection":
            self.readiness.loaded.clear()
            self.order, self.killed = None, False
        else:
            self.rows.clear()
            self.pictures.clear()
            self.stale_pictures = 0
        self.give(self.dispatch.process_down(name, "inspection-died", self.now))

    @rule()
    def start_processes(self) -> None:
        reopened = "records" not in self.readiness.running
        if "inspection" not in self.readiness.running:
            self.readiness.loaded = {"gear": recipe(), "nut": recipe("nut")}
        self.readiness.running.update(("acquisition", "inspection", "records"))
        if reopened:
            first = 2000 + self.next_id
            self.give(self.dispatch.handle("records", Opened(next_id=first, reserved=first - 1), self.now, TIME))

    @rule(recipe_id=st.sampled_from(["gear", "nut"]), again=st.booleans(), stopped=st.booleans())
    def change(self, recipe_id: str, again: bool, stopped: bool) -> None:
        self.readiness.active_id, self.readiness.stopped = recipe_id, stopped
        if again and "inspection" in self.readiness.running:
            self.readiness.loaded[recipe_id] = recipe(recipe_id)

    @rule()
    def abort(self) -> None:
        self.give(self.dispatch.abort(self.now))
        assert self.dispatch.in_work == 0

    @invariant()
    def one_result_each(self) -> None:
        assert self.dispatch.in_work == sum(not part.results for part in self.parts.values())

    def teardown(self) -> None:
        """In the end every trigger has its result, every row says the same, and every slot is free."""
        self.start_processes()
        self.now += 10**9
        self.give(self.dispatch.tick(self.now))
        assert all(len(part.results) == 1 for part in self.parts.values())
        self.end_process("inspection")
        for order in self.orders:
            late = acquired(order.acquisition_id, self.free_slot(), self.now)
            self.give(self.dispatch.handle("acquisition", late, self.now, TIME))
        while self.rows:
            row = self.rows.pop(0)
            part = row.result.acquisition_id
            self.store(row.result)
            self.give(self.dispatch.handle("records", Recorded(acquisition_id=part), self.now, TIME))
        while self.pictures:
            self.stale_pictures = max(self.stale_pictures - 1, 0)
            done = PictureDone(slot=self.pictures.pop(0), kept=True)
            self.give(self.dispatch.handle("records", done, self.now, TIME))
        assert not self.held
        recorded = {part: "NG" if part in self.corrected else verdict for part, verdict in self.stored.items()}
        assert recorded == {part: self.parts[part].results[0].verdict for part in self.stored}


Station.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestStation = Station.TestCase


# --- single rules ----------------------------------------------------------------------------------------------------


@pytest.fixture
def ready() -> Readiness:
    readiness = Readiness(running={"records", "acquisition", "inspection"}, sources=CONNECTED, active_id="gear")
    readiness.loaded = {"gear": recipe()}
    return readiness


@pytest.fixture
def dispatch(ready: Readiness) -> Dispatch:
    dispatch = Dispatch(ready, LIMITS)
    dispatch.handle("records", Opened(next_id=1, reserved=1000), 0, TIME)
    return dispatch


def test_active_recipe_without_its_sensor_is_not_ready(ready: Readiness) -> None:
    assert ready.refusal() is None
    ready.delivered = frozenset()
    reason, message = ready.refusal() or ("", "")
    assert reason == "not-ready"
    assert "no sensor of the station file delivers" in message


def results(actions: list[Action]) -> list[tuple[int, str, str]]:
    found = [action.message for action in actions if isinstance(action, Publish) and isinstance(action.message, Result)]
    return [(result.acquisition_id, result.verdict, result.reason) for result in found]


def bring_to_recording(dispatch: Dispatch, part: int = 1) -> None:
    dispatch.handle("plc", Trigger(token=1), 0, TIME)
    dispatch.handle("acquisition", acquired(part, 0, 1), 1, TIME)
    dispatch.handle("inspection", inspected(part), 2, TIME)


def test_good_part_is_ok_only_after_its_row_is_on_the_disk(dispatch):
    bring_to_recording(dispatch)
    assert dispatch.in_work == 1
    assert results(dispatch.handle("records", Recorded(acquisition_id=1), 3, TIME)) == [(1, "OK", "")]


def test_rows_have_every_time_that_the_export_has_a_column_for(dispatch):
    """A column that no row can fill looks like a fault of the station."""
    times = {"preprocess": 1.0, "engine": 1.0, "map": 1.0}
    actions = []
    for part, verdict in ((1, "OK"), (2, "NG")):
        actions += dispatch.handle("plc", Trigger(token=part), 0, TIME)
        actions += dispatch.handle("acquisition", acquired(part, part, 1), 1, TIME)
        actions += dispatch.handle("inspection", inspected(part, verdict=verdict, timings_ms=times), 2, TIME)
        actions += dispatch.handle("records", Recorded(acquisition_id=part), 3, TIME)
    rows = [action.message for action in actions if isinstance(action, Send) and isinstance(action.message, Record)]
    assert [row.result.verdict for row in rows] == ["OK", "NG"]
    assert {stage for row in rows for stage in row.result.timings_ms} == set(STAGES)


def test_recipe_that_is_loaded_again_before_the_row_is_on_the_disk_makes_the_part_ng(dispatch, ready):
    bring_to_recording(dispatch)
    ready.loaded["gear"] = recipe()
    assert results(dispatch.handle("records", Recorded(acquisition_id=1), 3, TIME)) == [(1, "NG", "recipe-changed")]


def test_row_that_is_stored_at_the_deadline_is_too_late(dispatch):
    bring_to_recording(dispatch)
    actions = dispatch.handle("records", Recorded(acquisition_id=1), LIMITS.deadline_ns, TIME)
    assert results(actions) == [(1, "NG", "deadline")]


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (inspected(1, recipe_id="nut"), "recipe-changed"),
        (inspected(1, threshold=2.0), "recipe-changed"),
        (inspected(1, score=None), "station-error"),
        (inspected(1, score=float("nan")), "station-error"),
        (inspected(1, score=1.5), "station-error"),
        (inspected(1, verdict="NG"), "score"),
    ],
)
def test_answer_with_any_doubt_is_ng(dispatch, answer, reason):
    dispatch.handle("plc", Trigger(token=1), 0, TIME)
    dispatch.handle("acquisition", acquired(1, 0, 1), 1, TIME)
    assert results(dispatch.handle("inspection", answer, 2, TIME)) == [(1, "NG", reason)]


@pytest.mark.parametrize("captured_ns", [99, 120])
def test_frame_from_before_the_trigger_or_from_the_future_is_stale(dispatch, captured_ns):
    dispatch.handle("plc", Trigger(token=1), 100, TIME)
    found = results(dispatch.handle("acquisition", acquired(1, 0, captured_ns), 110, TIME))
    assert found == [(1, "NG", "stale-frame")]


def test_pushed_frame_is_ok_if_it_is_young(dispatch):
    pushed = Pushed(token=1, slot=0, arrays=(), captured_ns=95 * MS, part_id="a")
    dispatch.handle("acquisition", pushed, 100 * MS, TIME)
    dispatch.handle("inspection", inspected(1), 101 * MS, TIME)
    assert results(dispatch.handle("records", Recorded(acquisition_id=1), 102 * MS, TIME)) == [(1, "OK", "")]


def test_part_may_move_once_for_every_trigger(dispatch):
    actions = dispatch.handle("plc", Trigger(token=1), 0, TIME)
    actions += dispatch.handle("acquisition", acquired(1, 0, 1), 1, TIME)
    actions += dispatch.handle("plc", Trigger(token=2), 2, TIME) + dispatch.tick(10**9)
    moved = [
        action.message.acquisition_id
        for action in actions
        if isinstance(action, Publish) and isinstance(action.message, AcquisitionDone)
    ]
    assert moved == [1, 2]


def test_row_with_ok_is_corrected_if_the_deadline_comes_first(dispatch):
    bring_to_recording(dispatch)
    actions = dispatch.tick(LIMITS.deadline_ns)
    assert results(actions) == [(1, "NG", "deadline")]
    corrections = [
        action.message for action in actions if isinstance(action, Send) and isinstance(action.message, Correct)
    ]
    assert [(entry.acquisition_id, entry.verdict) for entry in corrections] == [(1, "NG")]
    assert results(dispatch.handle("records", Recorded(acquisition_id=1), LIMITS.deadline_ns + 1, TIME)) == []


def test_hung_engine_is_killed_once(dispatch):
    dispatch.handle("plc", Trigger(token=1), 0, TIME)
    dispatch.handle("acquisition", acquired(1, 0, 1), 1, TIME)
    assert results(dispatch.tick(LIMITS.deadline_ns)) == [(1, "NG", "deadline")]
    late = LIMITS.deadline_ns + LIMITS.hang_ns
    assert dispatch.tick(late - 1) == []
    assert dispatch.tick(late) == [Kill("inspection", "inspection-hung")]
    assert dispatch.tick(late + 1) == []


def test_third_trigger_is_an_overrun(dispatch):
    found = [results(dispatch.handle("plc", Trigger(token=token), 0, TIME)) for token in range(3)]
    assert found == [[], [], [(3, "NG", "overrun")]]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stopped": True}, "stopped"),
        ({"sources": None}, "camera-gone"),
        ({"loaded": {}}, "not-ready"),
        ({"running": {"acquisition", "inspection"}}, "not-ready"),
        ({"fault": ("self-test", "failed")}, "self-test"),
    ],
)
def test_station_that_is_not_ready_answers_at_once(dispatch, ready, change, reason):
    for name, value in change.items():
        setattr(ready, name, value)
    assert results(dispatch.handle("plc", Trigger(token=1), 0, TIME)) == [(1, "NG", reason)]


def test_plc_gets_results_again_until_it_acknowledges_them(dispatch, ready):
    ready.stopped = True
    ready.running.add("plc")
    for token in range(10):
        dispatch.handle("plc", Trigger(token=token), 0, TIME)
        dispatch.handle("web", Trigger(token=token), 0, TIME)
    dispatch.handle("plc", Acknowledge(acquisition_id=19), 0, TIME)
    dispatch.handle("web", Acknowledge(acquisition_id=17), 0, TIME)
    again = dispatch.replay()
    assert [result.acquisition_id for result in again] == [5, 7, 9, 11, 13, 15, 17]
    assert all(result.replayed for result in again)


def test_result_that_no_plc_process_received_was_never_shown(dispatch, ready):
    """So an OK of it is too late after its deadline, unlike one that the PLC may have seen in time."""
    for name in ("plc", "other"):
        ready.running.add(name)
        dispatch.handle("plc", Trigger(token=1), 0, TIME)
        dispatch.abort(0)
        ready.running.discard("plc")
    assert [result.replayed for result in dispatch.replay()] == [True, False]
    assert [result.replayed for result in dispatch.replay()] == [True, True]


def test_without_ids_there_is_no_answer(ready):
    with pytest.raises(NoIdsError):
        Dispatch(ready, LIMITS).handle("plc", Trigger(token=1), 0, TIME)


def test_ids_that_were_used_are_not_used_again(dispatch, ready):
    ready.stopped = True
    for _ in range(3):
        dispatch.handle("plc", Trigger(token=1), 0, TIME)
    dispatch.handle("records", Opened(next_id=1, reserved=1000), 0, TIME)
    assert results(dispatch.handle("plc", Trigger(token=1), 0, TIME)) == [(4, "NG", "stopped")]


def test_rows_wait_for_a_restarted_records_process(dispatch, ready):
    bring_to_recording(dispatch)
    ready.running.discard("records")
    assert results(dispatch.process_down("records", "not-recorded", 3)) == [(1, "NG", "not-recorded")]
    ready.running.add("records")
    actions = dispatch.handle("records", Opened(next_id=2000, reserved=3000), 4, TIME)
    sent = [action.message for action in actions if isinstance(action, Send) and action.to == "records"]
    assert [type(message) for message in sent] == [Record, Correct]
    assert all(getattr(message, "verdict", "NG") == "NG" for message in sent)


def test_pushed_frame_that_waited_too_long_for_the_engine_is_not_ok(dispatch):
    start = 1000 * MS
    for token in (1, 2):
        frame = Pushed(token=token, slot=token, arrays=(), captured_ns=start)
        dispatch.handle("acquisition", frame, start, TIME)
    published = results(dispatch.handle("inspection", inspected(1), start + LIMITS.max_frame_age_ns + 1, TIME))
    assert published == [(2, "NG", "stale-frame")]


def test_ok_with_a_reason_is_no_ok(dispatch):
    now = 1000 * MS
    dispatch.handle("plc", Trigger(token=1), now, TIME)
    dispatch.handle("acquisition", acquired(1, 0, now), now, TIME)
    answer = replace(inspected(1), reason="score")
    assert results(dispatch.handle("inspection", answer, now, TIME)) == [(1, "NG", "score")]


@pytest.mark.parametrize(("sent_ns", "counted_ns"), [(0, 1000), (990, 990), (1001, 1000)])
def test_deadline_counts_from_the_trigger_at_its_sender(dispatch, sent_ns, counted_ns):
    dispatch.handle("plc", Trigger(token=1, sent_ns=sent_ns * MS), 1000 * MS, TIME)
    assert dispatch.next_ns() == counted_ns * MS + LIMITS.deadline_ns
    actions = dispatch.tick(counted_ns * MS + LIMITS.deadline_ns)
    assert results(actions) == [(1, "NG", "deadline")]
    shown = [a.message for a in actions if isinstance(a, Publish) and isinstance(a.message, Result)]
    assert shown[0].deadline_ns == counted_ns * MS + LIMITS.deadline_ns + LIMITS.margin_ns


def test_rows_that_find_no_room_are_counted():
    rows = Rows()
    for part in range(1, LONGEST_BACKLOG + 3):
        rows.add(a_rejected(part))
    assert rows.lost == 2
    rows.opened()
    assert [row.result.acquisition_id for row in rows.take()[:2]] == [3, 4]


def test_slots_that_wait_for_a_slow_disk_leave_room_for_the_next_parts(dispatch):
    kept, freed = [], []
    for part in range(1, LIMITS.picture_slots + 2):
        dispatch.handle("plc", Trigger(token=part), 0, TIME)
        dispatch.handle("acquisition", acquired(part, part, 1), 1, TIME)
        actions = dispatch.handle("inspection", inspected(part, verdict="NG"), 2, TIME)
        messages = [action.message for action in actions if isinstance(action, Send)]
        kept += [message.slot for message in messages if isinstance(message, KeepPicture)]
        freed += [message.slot for message in messages if isinstance(message, Release)]
    assert (kept, freed) == ([1, 2], [3])
    assert dispatch.counters["pictures_skipped"] == 1
