"""Digital lines, against a double of libgpiod: no test ran on a device."""

from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from cmdiad_line.plc.gpio import GpioLines
from cmdiad_line.plc.process import serve
from cmdiad_line.station_file.gpio import Gpio
from cmdiad_line.station_file.mistakes import StationFileError
from cmdiad_line.station_file.read import read_station
from cmdiad_line.transport.link import Link, link_pair
from cmdiad_line.transport.messages import Alive, End, Ready, Trigger, Triggered
from cmdiad_runtime.errors import CmdiadError
from cmdiad_runtime.support.records import RecordError
from patience import LIMIT_S, wait_until
from station_messages import part_result, station_state

gpiod = pytest.importorskip("gpiod", reason="needs the package gpiod")
SETTINGS = Gpio(
    inputs={"trigger": 3, "results_ack": 4},
    outputs={"results_valid": 10, "job_pass": 11, "job_fail": 12, "error": 13},
    active_low=("error",),
)


class FakeRequest:
    """Lines in memory; `history` has every request to set values, in order."""

    fd = 99

    def __init__(self, config):
        self.config = config
        self.inputs = dict.fromkeys([3, 4], gpiod.line.Value.INACTIVE)
        self.events = []
        self.history = []
        self.released = False

    def set_values(self, values):
        assert not self.released
        self.history.append({line: value is gpiod.line.Value.ACTIVE for line, value in values.items()})

    def get_values(self, lines):
        return [self.inputs[line] for line in lines]

    def read_edge_events(self):
        events, self.events = self.events, []
        return events

    def release(self):
        self.released = True


@pytest.fixture
def request_of(monkeypatch):
    def request_lines(path, consumer, config):
        assert path == "/dev/gpiochip0"
        return FakeRequest(config)

    monkeypatch.setattr("gpiod.request_lines", request_lines)
    return lambda lines: lines._request


def test_lines_are_requested_inactive(request_of):
    config = request_of(GpioLines(SETTINGS)).config
    outputs = [config[line] for line in SETTINGS.outputs.values()]
    assert all(line.direction is gpiod.line.Direction.OUTPUT for line in outputs)
    assert all(line.output_value is gpiod.line.Value.INACTIVE for line in outputs)
    assert [line.active_low for line in outputs] == [False, False, False, True]
    assert config[3].edge_detection is gpiod.line.Edge.BOTH


def test_results_valid_rises_last_and_falls_first(request_of):
    lines = GpioLines(SETTINGS)
    lines.show(frozenset(["results_valid", "job_pass", "online"]))
    history = request_of(lines).history
    assert history == [{11: True, 12: False, 13: False}, {10: True}]
    history.clear()
    lines.show(frozenset())
    assert history == [{10: False}, {11: False, 12: False, 13: False}]
    history.clear()
    lines.show(frozenset(["online"]))
    assert history == [], "nothing changed"


def test_outputs_are_inactive_after_the_end(request_of):
    lines = GpioLines(SETTINGS)
    lines.show(frozenset(["results_valid", "job_pass"]))
    lines.close()
    levels = {}
    for values in request_of(lines).history:
        levels |= values
    assert not any(levels.values()) and request_of(lines).released


def test_lines_are_released_even_if_setting_fails(request_of, monkeypatch):
    lines = GpioLines(SETTINGS)
    lines.show(frozenset(["results_valid"]))
    monkeypatch.setattr(FakeRequest, "set_values", lambda self, values: (_ for _ in ()).throw(OSError("gone")))
    with pytest.raises(OSError, match="gone"):
        lines.close()
    assert request_of(lines).released


def test_every_edge_counts_in_order(request_of):
    lines = GpioLines(SETTINGS)
    assert lines.levels() == {"trigger": False, "results_ack": False}
    kinds = gpiod.EdgeEvent.Type
    events = [(3, kinds.RISING_EDGE), (3, kinds.FALLING_EDGE), (4, kinds.RISING_EDGE)]
    request = request_of(lines)
    request.events = [
        SimpleNamespace(line_offset=line, event_type=kind, timestamp_ns=time_ns)
        for time_ns, (line, kind) in enumerate(events)
    ]
    request.inputs[4] = gpiod.line.Value.ACTIVE
    before_ns = time.monotonic_ns()
    *changes, (levels, now_ns) = lines.edges()
    assert changes == [({"trigger": True}, 0), ({"trigger": False}, 1), ({"results_ack": True}, 2)]
    assert levels == {"trigger": False, "results_ack": True}
    assert before_ns <= now_ns <= time.monotonic_ns()
    assert request.config[3].event_clock is gpiod.line.Clock.MONOTONIC


def test_missing_chip_is_explained(tmp_path):
    with pytest.raises(CmdiadError, match="check chip and lines|Check chip and lines"):
        GpioLines(Gpio(chip=str(tmp_path / "none"), outputs={"job_pass": 1}))


class LivingRequest(FakeRequest):
    """Lines whose descriptor wakes the process after an edge."""

    def __init__(self, config):
        super().__init__(config)
        self.fd, self._wake = os.pipe()

    def raise_line(self, line):
        self.inputs[line] = gpiod.line.Value.ACTIVE
        rising, now_ns = gpiod.EdgeEvent.Type.RISING_EDGE, time.monotonic_ns()
        self.events.append(SimpleNamespace(line_offset=line, event_type=rising, timestamp_ns=now_ns))
        os.write(self._wake, b"x")

    def read_edge_events(self):
        os.read(self.fd, 1)
        return super().read_edge_events()

    def active(self):
        levels = {}
        for values in list(self.history):
            levels |= values
        return {name for name, line in SETTINGS.outputs.items() if levels.get(line)}

    def release(self):
        super().release()
        os.close(self.fd)
        os.close(self._wake)


def test_part_is_inspected_by_lines_only(monkeypatch):
    """The process shows OK for a limited time, and every line is inactive at the end."""
    requests, now_ns = [], [time.monotonic_ns()]
    monkeypatch.setattr("cmdiad_line.plc.process.time", SimpleNamespace(monotonic_ns=lambda: now_ns[0]))
    monkeypatch.setattr(
        "gpiod.request_lines", lambda path, consumer, config: requests.append(LivingRequest(config)) or requests[0]
    )
    supervisor, socket = link_pair()
    process = Link(socket)
    station = SimpleNamespace(modbus=None, gpio=Gpio(**{**vars(SETTINGS), "ok_hold_ms": 50}))
    thread = threading.Thread(target=serve, args=(process, station))
    thread.start()
    messages = []

    def arrived(kind):
        messages.extend(supervisor.receive())
        return [message for message in messages if isinstance(message, kind)]

    wait_until(lambda: arrived(Ready) and arrived(Alive))
    lines = requests[0]
    supervisor.send(station_state())
    wait_until(lambda: lines.history and "error" not in lines.active())
    lines.raise_line(3)
    wait_until(lambda: arrived(Trigger))
    supervisor.send(Triggered(token=arrived(Trigger)[0].token, acquisition_id=7, accepted=True))
    supervisor.send(part_result(7, deadline_ns=time.monotonic_ns() + 10**12))
    wait_until(lambda: {10: True} in lines.history)
    assert any(values.get(11) for values in lines.history), "job_pass before results_valid"
    now_ns[0] += 50 * 10**6
    wait_until(lambda: lines.active() == {"results_valid"})
    supervisor.send(End())
    thread.join(timeout=LIMIT_S)
    assert not thread.is_alive() and lines.released and lines.active() == set()
    process.close()
    supervisor.close()


def test_lines_that_cannot_be_updated_end_the_process(request_of, monkeypatch):
    """Without this, OK could stay on its line beyond its time."""
    shown = []

    def show(lines, active):
        shown.append(active)
        if len(shown) == 3:
            raise RuntimeError("the lines are gone")

    monkeypatch.setattr(GpioLines, "show", show)
    supervisor, socket = link_pair()
    process = Link(socket)
    station = SimpleNamespace(modbus=None, gpio=Gpio(outputs={"job_pass": 11}))
    with ThreadPoolExecutor() as pool:
        served = pool.submit(serve, process, station)
        try:
            with pytest.raises(RuntimeError, match="the lines are gone"):
                served.result(timeout=LIMIT_S)
        finally:
            supervisor.send(End())
    process.close()
    supervisor.close()


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"outputs": {"job_pas": 1}},
        {"inputs": {"job_pass": 1}},
        {"inputs": {"trigger": 1}, "outputs": {"job_pass": 1}},
        {"outputs": {"job_pass": -1}},
        {"outputs": {"job_pass": 1}, "active_low": ("job_pass",)},
        {"outputs": {"results_valid": 1}, "active_low": ("results_valid",)},
        {"outputs": {"job_pass": 1}, "active_low": ("error",)},
    ],
)
def test_wrong_sections_are_refused(keys):
    with pytest.raises(RecordError):
        Gpio(**keys)


BUNDLE = Path(__file__).parents[2] / "fixtures" / "format1" / "both-each.cmdiad"
FILE = f"""
[station]
name = "Press 3"
state = "state"
simulation = true
[recipe]
bundle = "{BUNDLE}"
[[source]]
kind = "simulated"
delivers = "both"
[gpio]
outputs = {{job_pass = 1, results_valid = 2}}
"""


@pytest.mark.parametrize("more", ["inputs = {trigger = 3}", "inputs = {results_ack = 3}", "[modbus]"])
def test_station_file_with_lines(tmp_path, more):
    (tmp_path / "station.toml").write_text(f"{FILE}{more}\n", encoding="utf-8")
    assert read_station(tmp_path / "station.toml").gpio.outputs == {"job_pass": 1, "results_valid": 2}


def test_result_that_nothing_can_end_is_a_mistake(tmp_path):
    (tmp_path / "station.toml").write_text(FILE, encoding="utf-8")
    with pytest.raises(StationFileError, match="neither trigger nor results_ack"):
        read_station(tmp_path / "station.toml")
