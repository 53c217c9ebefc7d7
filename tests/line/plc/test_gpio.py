"""Digital lines, against a double of libgpiod: no test ran on a device."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from cmdiad_line.plc.gpio import GpioLines
from cmdiad_line.station_file.gpio import Gpio
from cmdiad_runtime.errors import CmdiadError
from cmdiad_runtime.support.records import RecordError

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
    request.events = [SimpleNamespace(line_offset=line, event_type=kind) for line, kind in events]
    request.inputs[4] = gpiod.line.Value.ACTIVE
    assert lines.edges() == [
        {"trigger": True},
        {"trigger": False},
        {"results_ack": True},
        {"trigger": False, "results_ack": True},
    ]


def test_missing_chip_is_explained(tmp_path):
    with pytest.raises(CmdiadError, match="check chip and lines|Check chip and lines"):
        GpioLines(Gpio(chip=str(tmp_path / "none"), outputs={"job_pass": 1}))


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
