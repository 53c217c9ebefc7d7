"""Every process is killed in every phase of a part. The part gets one right result, and the station is ready again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cmdiad_line.worker import REAL_TIME
from cmdiad_runtime.support.scheduling import take_real_time_priority
from patience import wait_until
from stations import RunningStation, running_station, write_station_file

pytestmark = pytest.mark.filterwarnings("default::pytest.PytestUnhandledThreadExceptionWarning")

FREEZE = {"acquiring": "acquisition", "inspecting": "inspection", "recording": "records"}
"""Process that is stopped to hold a part in a phase."""
EXPECTED = {
    ("acquiring", "acquisition"): "acquisition-died",
    ("acquiring", "inspection"): "inspection-died",
    ("acquiring", "records"): "",
    ("inspecting", "acquisition"): "",
    ("inspecting", "inspection"): "inspection-died",
    ("inspecting", "records"): "",
    ("recording", "acquisition"): "",
    ("recording", "inspection"): "inspection-died",
    ("recording", "records"): "not-recorded",
}
"""Reason of the part by phase and killed process; "" if the part can still be OK."""


@pytest.fixture(scope="module")
def station(exported, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStation]:
    folder = tmp_path_factory.mktemp("station")
    file = write_station_file(folder, exported("rgb"), data / "gear" / "train")
    with running_station(file) as running:
        running.plc.wait_ready()
        yield running


def test_good_part_is_ok(station):
    result = station.plc.inspect()
    assert (result.verdict, result.reason) == ("OK", "")


def test_a_hung_detector_keeps_no_core_from_the_other_processes(station):
    allowed = take_real_time_priority_in_a_thread()
    assert os.sched_getscheduler(station.pid("inspection")) == os.SCHED_OTHER
    for name in ("acquisition", "records"):
        assert os.sched_getscheduler(station.pid(name)) == (os.SCHED_RR if allowed else os.SCHED_OTHER)


def take_real_time_priority_in_a_thread() -> bool:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(take_real_time_priority, REAL_TIME).result()


@pytest.mark.parametrize(("phase", "victim"), EXPECTED)
def test_killed_process(station, phase, victim):
    station.wait_ok()
    with station.frozen(FREEZE[phase]):
        part = station.plc.trigger()
        station.wait_stage(part, phase)
        killed = station.pid(victim)
        station.kill(victim)
        wait_until(lambda: station.runs(victim, but=killed))
    result = station.plc.result(part)
    reason = EXPECTED[phase, victim]
    assert (result.verdict, result.reason) == (("NG", reason) if reason else ("OK", ""))
    station.wait_ok()
    assert all(len(results) == 1 for results in station.plc.results.values())
