"""The acquisition process answers every order once, and delivers only frames that show the part."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest

from cmdiad_line.acquisition import process, threads
from cmdiad_line.acquisition.process import Acquisition
from cmdiad_line.acquisition.source import Frame
from cmdiad_line.acquisition.sources.simulated import Simulated
from cmdiad_line.station_file.recipe import Recipe
from cmdiad_line.station_file.source import SimulatedSource, Source
from cmdiad_line.station_file.station import Station
from cmdiad_line.transport.frames import FramePool, frames_path
from cmdiad_line.transport.link import Link, LinkClosedError, link_pair
from cmdiad_line.transport.messages import (
    Acquire,
    Acquired,
    Alive,
    End,
    Message,
    NotAcquired,
    Ready,
    Release,
    SourcesState,
)
from patience import LIMIT_S

DEADLINE_NS = 10**12


def camera(delivers: str = "rgb", **changes: Any) -> SimulatedSource:
    values = {"name": delivers, "width": 32, "height": 24, "timeout_ms": 60_000, "skew_ms": 60_000}
    return SimulatedSource(kind="simulated", delivers=delivers, **{**values, **changes})


class Bench:
    """The supervisor's side of an acquisition that runs in a thread."""

    def __init__(self, folder: Path, *sources: Source, slots: int = 4, **changes: Any) -> None:
        recipe = Recipe(bundle=folder, id="gear")
        self.station = Station(name="s", state=folder, file=folder, recipe=recipe, sources=sources, **changes)
        self.pool = FramePool.create(frames_path(folder), slots, 100_000)
        self.link, end = link_pair()
        self.messages: list[Message] = []
        self.problem: BaseException | None = None
        self._thread = Thread(target=self._serve, args=(Link(end),))
        self._thread.start()

    def _serve(self, link: Link) -> None:
        try:
            process.serve(link, self.station)
        except BaseException as error:
            self.problem = error
        finally:
            link.close()

    def wait(self, condition: Callable[[Message], bool]) -> Any:
        """Return the first message that fulfils a condition, and forget those before."""
        limit = time.monotonic() + LIMIT_S
        while time.monotonic() < limit:
            while self.messages:
                message = self.messages.pop(0)
                if condition(message):
                    return message
            self.messages += self.link.receive()
            time.sleep(0.001)
        pytest.fail("no such message")

    def connected(self, reconnects: int = 0) -> SourcesState:
        state: SourcesState = self.wait(
            lambda message: isinstance(message, SourcesState) and message.connected and message.reconnects == reconnects
        )
        return state

    def order(self, part: int, modality: str = "rgb", *, age_ns: int = 0, limit_ns: int = DEADLINE_NS) -> None:
        now = time.monotonic_ns()
        order = Acquire(
            acquisition_id=part,
            triggered_ns=now - age_ns,
            deadline_ns=now + limit_ns,
            modality=modality,
            part_id="",
        )
        self.link.send(order)

    def answer(self, part: int, modality: str = "rgb", **options: int) -> Acquired | NotAcquired:
        self.order(part, modality, **options)
        return self.answered(part)

    def answered(self, part: int) -> Acquired | NotAcquired:
        answer: Acquired | NotAcquired = self.wait(lambda message: isinstance(message, Acquired | NotAcquired))
        assert answer.acquisition_id == part
        return answer

    def close(self) -> None:
        with suppress(LinkClosedError):
            self.link.send(End())
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        self.link.close()
        self.pool.close()


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Bench]]:
    monkeypatch.setattr(threads, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(threads, "CHECK_S", 0.01)
    benches: list[Bench] = []

    def make(*sources: Source, **changes: Any) -> Bench:
        benches.append(Bench(tmp_path, *sources, **changes))
        return benches[-1]

    yield make
    for started in benches:
        started.close()


def faults(folder: Path, *names: str) -> dict[str, Any]:
    """Keys of a simulated sensor whose next triggers have these faults."""
    file = folder / "faults"
    file.write_text("".join(f"{name}\n" for name in names))
    return {"fault_file": file}


def test_first_messages(bench):
    started = bench(camera())
    assert isinstance(started.wait(lambda _: True), Ready)
    assert started.connected().message == "rgb: connected"
    assert isinstance(started.wait(lambda message: isinstance(message, Alive)), Alive)


def test_frame_of_two_sensors(bench):
    started = bench(camera(), camera("xyz", seed=3))
    started.connected()
    before = time.monotonic_ns()
    frame = started.answer(7, "both")
    assert isinstance(frame, Acquired)
    assert before <= frame.captured_ns <= time.monotonic_ns()
    arrays = started.pool.read(frame.slot, 7, frame.arrays)
    assert {name: (array.dtype.name, array.shape) for name, array in arrays.items()} == {
        "rgb": ("uint8", (24, 32, 3)),
        "xyz": ("float32", (24, 32, 3)),
    }
    assert frame.sensors["rgb.serial"] == "simulated-0"
    assert frame.sensors["xyz.serial"] == "simulated-3"
    assert frame.sensors["rgb.frame"] == "1"


def test_only_needed_sensors_are_triggered(bench, tmp_path):
    started = bench(camera(), camera("xyz", **faults(tmp_path, "error")))
    started.connected()
    frame = started.answer(1)
    assert isinstance(frame, Acquired)
    assert [place.name for place in frame.arrays] == ["rgb"]


def test_one_sensor_for_both_delivers_what_is_needed(bench):
    started = bench(camera("both"))
    started.connected()
    for part, modality in enumerate(("rgb", "xyz", "both"), 1):
        frame = started.answer(part, modality)
        assert [place.name for place in frame.arrays] == (["rgb", "xyz"] if modality == "both" else [modality])


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("stale", "stale-frame"),
        ("repeat", "stale-frame"),
        ("freeze", "stale-frame"),
        ("swap", "wrong-frame"),
        ("error", "acquisition-failed"),
        ("lose", "acquisition-failed"),
        ("delay", "acquisition-failed"),
        ("unplug", "camera-gone"),
    ],
)
def test_fault_of_one_sensor(bench, tmp_path, fault, reason):
    short = {"timeout_ms": 20, "delay_ms": 1000} if fault in ("lose", "delay") else {}
    good = () if short else ("none",)  # No machine must capture a good frame within the short time.
    started = bench(camera(noisy=True, unplug_ms=50, **short, **faults(tmp_path, *good, fault)))
    started.connected()
    if good:
        assert isinstance(started.answer(1), Acquired)
    answer = started.answer(2)
    assert isinstance(answer, NotAcquired)
    assert answer.reason == reason
    assert answer.message.startswith("rgb")


@pytest.mark.parametrize(("delivers", "reason"), [("rgb", "acquisition-failed"), ("both", "partner-missing")])
def test_frame_that_was_captured_long_after_the_trigger_is_refused(bench, delivers, reason):
    """An order that waited, for example on an overloaded machine, would show the next part."""
    sources = [camera(timeout_ms=30_000)] + [camera("xyz")] * (delivers == "both")
    started = bench(*sources)
    started.connected()
    assert isinstance(started.answer(1, delivers, age_ns=1), Acquired)
    answer = started.answer(2, delivers, age_ns=31 * 10**9)
    assert isinstance(answer, NotAcquired)
    assert answer.reason == reason
    assert "ms after the trigger, at most 30000 ms are allowed (timeout_ms)" in answer.message


@pytest.mark.parametrize("fault", ["noise", "size", "none"])
def test_fault_that_the_inspection_must_see(bench, tmp_path, fault):
    started = bench(camera(**faults(tmp_path, fault)))
    started.connected()
    frame = started.answer(1)
    image = started.pool.read(frame.slot, 1, frame.arrays)["rgb"]
    assert image.shape == ((12, 16, 3) if fault == "size" else (24, 32, 3))
    assert (image.std() > 65) == (fault == "noise")


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("swap", "partner-missing"),
        ("lose", "partner-missing"),
        ("error", "partner-missing"),
        ("stale", "stale-frame"),
        ("unplug", "camera-gone"),
    ],
)
def test_fault_of_one_of_two_sensors(bench, tmp_path, fault, reason):
    limit = {"timeout_ms": 300} if fault == "lose" else {}
    started = bench(camera(), camera("xyz", unplug_ms=50, **limit, **faults(tmp_path, fault)))
    started.connected()
    answer = started.answer(1, "both")
    assert isinstance(answer, NotAcquired)
    assert answer.reason == reason
    assert "xyz" in answer.message


def test_partners_of_different_moments_are_refused(bench, monkeypatch):
    capture = Simulated.frame

    def frame(sensor: Simulated, timeout_s: float) -> Frame:
        captured, order = capture(sensor, timeout_s), sensor._order
        assert order is not None
        after_ns = 100 * 10**6 if "xyz" in captured.arrays else 0
        return replace(captured, captured_ns=order.triggered_ns + after_ns)

    monkeypatch.setattr(Simulated, "frame", frame)
    started = bench(camera(), camera("xyz", skew_ms=1))
    started.connected()
    answer = started.answer(1, "both")
    assert answer.reason == "partner-missing"
    assert "xyz was exposed 100 ms after rgb" in answer.message


def test_sensor_is_connected_again_and_counted(bench, tmp_path):
    started = bench(camera(unplug_ms=50, **faults(tmp_path, "unplug")))
    started.connected()
    assert started.answer(1).reason == "camera-gone"
    away = started.wait(lambda message: isinstance(message, SourcesState))
    assert not away.connected
    assert "unplugged" in away.message
    started.connected(reconnects=1)
    assert isinstance(started.answer(2), Acquired)


def test_trigger_while_the_sensor_is_away(bench, tmp_path):
    started = bench(camera(unplug_ms=10**5, **faults(tmp_path, "unplug")))
    started.connected()
    started.answer(1)
    started.wait(lambda message: isinstance(message, SourcesState) and not message.connected)
    answer = started.answer(2)
    assert answer.reason == "camera-gone"
    assert "unplugged" in answer.message


def test_trigger_during_an_exposure_is_refused_at_once(bench, monkeypatch):
    capture, exposed = Simulated.frame, Event()

    def frame(sensor: Simulated, timeout_s: float) -> Frame:
        assert exposed.wait(LIMIT_S)
        return capture(sensor, timeout_s)

    monkeypatch.setattr(Simulated, "frame", frame)
    started = bench(camera())
    started.connected()
    started.order(1)
    refused = started.answer(2)
    assert (refused.reason, refused.message) == ("overrun", "rgb was still exposing the part before")
    exposed.set()
    assert isinstance(started.answered(1), Acquired)


def test_hanging_driver_ends_the_signs_of_life(bench, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "ALIVE_NS", 10**6)
    started = bench(camera(timeout_ms=10, **faults(tmp_path, "hang")), hang_ms=100)
    started.connected()
    answer = started.answer(1, limit_ns=10**8)
    assert (answer.reason, answer.message) == ("acquisition-failed", "rgb: no answer")
    limit = time.monotonic() + LIMIT_S
    silent_since = time.monotonic()
    while time.monotonic() - silent_since < 0.5:
        assert time.monotonic() < limit
        if started.link.receive():
            silent_since = time.monotonic()
        time.sleep(0.01)


def test_all_slots_in_use(bench):
    started = bench(camera(), slots=2)
    started.connected()
    first, second = started.answer(1), started.answer(2)
    assert {first.slot, second.slot} == {0, 1}
    assert started.answer(3).reason == "frames-full"
    started.link.send(Release(slot=first.slot))
    third = started.answer(4)
    assert third.slot == first.slot
    assert started.pool.owner(third.slot) == 4


def test_slot_released_twice_is_given_once(bench):
    started = bench(camera(), slots=2)
    started.connected()
    first = started.answer(1)
    for _ in range(2):
        started.link.send(Release(slot=first.slot))
    assert {started.answer(2).slot, started.answer(3).slot} == {0, 1}
    assert started.answer(4).reason == "frames-full"


def test_frame_larger_than_a_slot(bench):
    started = bench(camera(width=400, height=400))
    started.connected()
    answer = started.answer(1)
    assert answer.reason == "frames-full"
    assert "frame_megapixels" in answer.message
    assert started.answer(2).reason == "frames-full"


def test_recipe_without_a_sensor(bench):
    started = bench(camera())
    started.connected()
    assert started.answer(1, "xyz").reason == "acquisition-failed"
    assert started.answer(2, "both").reason == "partner-missing"
    assert started.answer(3, "").reason == "acquisition-failed"


def test_closed_link_ends_the_process(bench):
    started = bench(camera())
    started.connected()
    started.link.close()
    started._thread.join(LIMIT_S)
    assert isinstance(started.problem, LinkClosedError)


def test_slots_with_frames_are_used_last_after_a_restart(tmp_path):
    station = Station(name="s", state=tmp_path, file=tmp_path, recipe=Recipe(bundle=tmp_path), sources=(camera(),))
    link, other = link_pair()
    with FramePool.create(tmp_path / "frames", 3, 4000) as pool:
        pool.write(0, 5, {"rgb": np.zeros((2, 2, 3), np.uint8)})
        acquisition = Acquisition(link, station, pool)
        assert list(acquisition._free) == [1, 2, 0]
        acquisition.close()
    link.close()
    other.close()
