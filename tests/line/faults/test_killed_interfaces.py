"""The processes towards the outside are killed one by one. The station stays ready, and every part gets its result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lanes import some
from patience import free_port, wait_until
from stations import RunningStation, running_station, write_station_file

INTERFACES = ("opcua", "mqtt", "web")
"""The PLC process is killed in tests/line/plc/test_plc_station.py."""


@pytest.fixture(scope="module")
def station(exported, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStation]:
    sections = {"opcua": {"port": 0}, "mqtt": {"port": free_port()}, "web": {"port": 0}}
    folder = tmp_path_factory.mktemp("station")
    file = write_station_file(folder, exported("rgb"), data / "gear" / "train", **sections)
    with running_station(file) as running:
        running.plc.wait_ready()
        wait_until(lambda: all(running.runs(name) for name in INTERFACES))
        yield running


def kill(station: RunningStation, name: str) -> None:
    """Kill a process, and wait until another one takes its orders."""
    killed = station.pid(name)
    station.kill(name)
    wait_until(lambda: station.runs(name, but=killed))


@pytest.mark.parametrize("name", some(INTERFACES, ["mqtt", "web"]))
def test_interface_that_is_killed_while_there_are_no_parts(station, name):
    states = len(station.plc.states)
    kill(station, name)
    assert {state.phase for state in station.plc.states[states:]} <= {"ready"}
    result = station.plc.inspect()
    assert (result.verdict, result.reason) == ("OK", "")


@pytest.mark.parametrize("name", INTERFACES)
def test_interface_that_is_killed_with_a_part_in_work(station, name):
    with station.frozen("inspection"):
        part = station.plc.trigger()
        station.wait_stage(part, "inspecting")
        kill(station, name)
        assert part not in station.plc.results
    assert station.plc.result(part).verdict == "OK"
    assert station.plc.inspect().verdict == "OK"
    assert all(len(results) == 1 for results in station.plc.results.values())
