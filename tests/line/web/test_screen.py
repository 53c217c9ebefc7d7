"""The operator's screen: no input leads to an OK that is stale, unsure or of another part."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdiad_line.reasons import StationReason
from cmdiad_line.transport.messages import Alive, Phase, Result, StationState
from cmdiad_line.web.desk import SILENCE_S, Desk
from cmdiad_line.web.screen import Screen, make_screen
from cmdiad_line.web.words import TITLES
from cmdiad_runtime.reasons import Reason
from web_doubles import READY, Clock, make_result


def make_desk(state: StationState | None, *results: Result) -> Desk:
    desk = Desk(lambda message: None, 1.0, Clock())
    if state is not None:
        desk.receive(state)
    for result in results:
        desk.receive(result)
    return desk


def screen_of(desk: Desk) -> Screen:
    return make_screen(desk, {"ok": 3, "ng": 1}, 30)


def test_a_fresh_ok_is_shown_while_ready() -> None:
    screen = screen_of(make_desk(READY, make_result(1)))
    assert (screen.kind, screen.headline) == ("ok", "OK")
    assert screen.part is not None
    assert screen.part.part_id == "P1"
    assert screen.counters == {"parts": "4", "ok": "3", "ng": "1", "rate": "25.0 %"}


def test_an_ng_shows_its_reason_in_plain_words() -> None:
    screen = screen_of(make_desk(READY, make_result(1, "NG", "score")))
    assert (screen.kind, screen.headline, screen.title) == ("ng", "NG", "Defect")
    assert screen.message


@pytest.mark.parametrize("phase", [phase for phase in get_args(Phase) if phase != "ready"])
def test_no_verdict_unless_ready(phase: Phase) -> None:
    screen = screen_of(make_desk(replace(READY, phase=phase, reason="camera-gone"), make_result(1)))
    assert screen.kind in ("not-ready", "failed", "stopped")
    assert screen.headline != "OK"
    assert screen.part is None


def test_no_state_is_not_ready() -> None:
    assert screen_of(make_desk(None, make_result(1))).kind == "not-ready"


def test_the_verdict_of_the_part_before_disappears_when_the_next_is_in_work() -> None:
    screen = screen_of(make_desk(replace(READY, in_work=1), make_result(1)))
    assert (screen.kind, screen.part) == ("working", None)


def test_a_verdict_disappears_after_its_time() -> None:
    desk = make_desk(READY, make_result(1))
    assert isinstance(desk.clock, Clock)
    desk.clock.now += 30
    desk.receive(Alive())
    assert screen_of(desk).kind == "ok"
    desk.clock.now += 0.1
    assert (screen_of(desk).kind, screen_of(desk).part) == ("waiting", None)


def test_no_verdict_while_the_supervisor_is_silent() -> None:
    desk = make_desk(READY, make_result(1))
    assert isinstance(desk.clock, Clock)
    desk.clock.now += SILENCE_S
    assert screen_of(desk).kind == "ok"
    desk.clock.now += 0.1
    assert screen_of(desk).kind == "not-ready"
    desk.receive(Alive())
    assert screen_of(desk).kind == "ok"


def test_a_replayed_result_is_not_shown() -> None:
    assert screen_of(make_desk(READY, make_result(5, replayed=True))).kind == "waiting"


def test_a_late_result_of_an_earlier_part_does_not_replace_a_newer_one() -> None:
    screen = screen_of(make_desk(READY, make_result(8, "NG", "score"), make_result(7)))
    assert screen.kind == "ng"
    assert [part.id for part in screen.parts] == [8, 7]


def test_a_second_result_of_the_same_part_changes_nothing() -> None:
    assert screen_of(make_desk(READY, make_result(1, "NG", "score"), make_result(1))).kind == "ng"


states = st.none() | st.builds(
    lambda phase, work: replace(READY, phase=phase, in_work=work), st.sampled_from(get_args(Phase)), st.integers(0, 2)
)
results = st.lists(
    st.builds(
        lambda number, good, replayed: make_result(
            number, "OK" if good else "NG", "" if good else "score", replayed=replayed
        ),
        st.integers(1, 6),
        st.booleans(),
        st.booleans(),
    ),
    max_size=8,
)


@given(states, results, st.floats(0, 100), st.floats(0, 4))
def test_ok_is_shown_only_if_everything_says_so(
    state: StationState | None, arrived: list[Result], age_s: float, silence_s: float
) -> None:
    desk = make_desk(state, *arrived)
    assert isinstance(desk.clock, Clock)
    desk.clock.now += age_s
    desk.receive(Alive())
    desk.clock.now += silence_s
    screen = screen_of(desk)
    first: dict[int, Result] = {}
    for result in arrived:
        if not result.replayed:
            first.setdefault(result.acquisition_id, result)
    newest_is_ok = bool(first) and first[max(first)].verdict == "OK"
    earned = state is not None and state.phase == "ready" and state.in_work == 0 and newest_is_ok
    earned = earned and desk.clock.now - 1000.0 <= 30 and silence_s <= SILENCE_S
    assert (screen.kind == "ok") == earned
    assert (screen.headline == "OK") == earned


def test_every_reason_has_a_title() -> None:
    assert set(TITLES) == {*get_args(StationReason), *get_args(Reason)}
    assert all(len(title) <= 40 for title in TITLES.values())
