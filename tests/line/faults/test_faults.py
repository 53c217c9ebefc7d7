"""A fault of a sensor, engine, disk or person ends in NG with a reason, and the station is ready again afterwards."""

from __future__ import annotations

import os
import resource
import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import cmdiad_line.supervisor.restarts as restarts_module
import cmdiad_line.supervisor.supervisor as supervisor_module
from cmdiad_line.supervisor.child import Child
from cmdiad_line.transport.messages import Trigger
from lanes import long
from patience import LIMIT_S, refusing_port, wait_until
from stations import RunningStation, running_station, write_station_file


@pytest.fixture(scope="module")
def station(exported, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStation]:
    folder = tmp_path_factory.mktemp("station")
    file = write_station_file(folder, exported("rgb"), data / "gear" / "train", source={"unplug_ms": 300})
    usual = os.umask(0)  # The files of a station are private whatever the system's setting.
    try:
        with running_station(file) as running:
            yield running
    finally:
        os.umask(usual)


@pytest.fixture(autouse=True)
def ready(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test begins and ends with a station that is ready and finds a good part OK."""
    if "station" not in request.fixturenames:
        yield
        return
    running: RunningStation = request.getfixturevalue("station")
    running.wait_ok()
    yield
    running.wait_ok()
    assert all(len(results) == 1 for results in running.plc.results.values())


@pytest.mark.parametrize(
    ("fault", "reason"),
    [("error", "acquisition-failed"), ("stale", "stale-frame"), ("swap", "wrong-frame"), ("unplug", "camera-gone")],
)
def test_fault_of_a_sensor(station, fault, reason):
    station.faults.write_text(f"{fault}\n")
    result = station.plc.inspect()
    assert (result.verdict, result.reason) == ("NG", reason)


def test_camera_that_is_unplugged_and_comes_back(station):
    station.faults.write_text("unplug\n")
    results = [station.plc.inspect()]
    while results[-1].verdict == "NG":
        results.append(station.plc.inspect())
    assert {result.reason for result in results[:-1]} == {"camera-gone"}


def test_driver_that_ends_the_process(station):
    station.faults.write_text("crash\n")
    result = station.plc.inspect()
    assert (result.verdict, result.reason) == ("NG", "acquisition-died")


def test_trigger_storm(station):
    plc = station.plc
    tokens = range(10_000, 10_050)
    with station.frozen("acquisition"):  # While the first parts are in work, the others of this half come.
        for token in tokens[:25]:
            plc.send(Trigger(token=token))
        plc.wait_for(lambda: all(token in plc.ids for token in tokens[:25]))
    for token in tokens[25:]:
        plc.send(Trigger(token=token))
    plc.wait_for(lambda: all(token in plc.ids for token in tokens))
    answers = {plc.ids[token].acquisition_id: plc.ids[token] for token in tokens}
    results = [plc.result(part) for part in answers]
    assert len(answers) == len(tokens)
    refused = [result for result in results if not answers[result.acquisition_id].accepted]
    assert refused
    assert {(result.verdict, result.reason) for result in refused} == {("NG", "overrun")}


def test_plc_that_never_acknowledges_gets_its_results_again(station):
    plc = station.plc
    plc.acknowledges = False
    try:
        part = plc.inspect().acquisition_id
        starts = plc.starts
        plc.drop()
        plc.wait_for(lambda: plc.starts > starts and len(plc.results[part]) == 2)
        assert [result.replayed for result in plc.results.pop(part)] == [False, True]
    finally:
        plc.acknowledges = True
        plc.results.clear()


def test_supervisor_that_was_stopped_itself_calls_no_process_hung(station, monkeypatch):
    """As in a virtual machine that was suspended: a wait for messages lasts longer than any limit of silence."""
    processes = {name: station.pid(name) for name in ("records", "acquisition", "inspection")}
    receive, limits, paused = station.hub.receive, station.supervisor._limits, threading.Event()

    def receive_as_usual(timeout_s):
        station.supervisor._limits = limits
        paused.set()
        return receive(timeout_s)

    def receive_after_a_pause(timeout_s):
        station.supervisor._limits = replace(limits, hang_ns=0)
        station.hub.receive = receive_as_usual
        time.sleep(2.5)
        return []

    monkeypatch.setattr(station.hub, "receive", receive_after_a_pause)
    assert paused.wait(LIMIT_S)
    station.wait_ok()
    assert {name: station.pid(name) for name in processes} == processes


def test_clock_that_is_set_back_changes_no_verdict(station, monkeypatch):
    monkeypatch.setattr(supervisor_module, "_wall_clock", lambda: "1999-12-31T23:59:59.000+00:00")
    result = station.plc.inspect()
    assert (result.verdict, result.time[:4]) == ("OK", "1999")


def test_full_disk_is_ng(station):
    process = station.pid("records")
    limits = resource.prlimit(process, resource.RLIMIT_FSIZE)
    resource.prlimit(process, resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        result = station.plc.inspect()
    finally:
        resource.prlimit(process, resource.RLIMIT_FSIZE, limits)
    assert result.verdict == "NG"
    assert result.reason in ("disk-full", "not-recorded")


def test_records_and_pictures_are_for_the_account_of_the_station_alone(station):
    state = station.station.state
    station.faults.write_text("noise\n")
    assert station.plc.inspect().verdict == "NG"
    wait_until(lambda: any((state / "pictures").rglob("result.json")))
    entries = [state, *state.glob("records.sqlite*"), *(state / "pictures").rglob("*")]
    assert [entry for entry in entries if entry.exists() and entry.stat().st_mode & 0o077] == []


def test_abort_and_stop(station):
    plc = station.plc
    with station.frozen("inspection"):
        part = plc.trigger()
        station.wait_stage(part, "inspecting")
        assert plc.command("abort").done
    assert plc.result(part).reason == "aborted"
    assert plc.inspect().reason == "stopped"
    assert plc.command("start").done


def test_threshold_is_changed_between_parts(station):
    plc = station.plc
    assert plc.command("threshold", recipe_id="gear", score=1e-6).done
    plc.wait_ready()
    assert plc.inspect().reason == "score"
    assert plc.command("threshold", recipe_id="gear", score=None).done


def test_unknown_recipe_is_refused_and_the_present_one_stays(station):
    answer = station.plc.command("activate", recipe_id="nut")
    assert not answer.done
    assert "nut" in answer.message


def test_bundle_that_is_replaced_on_disk(station):
    graph = next((station.station.state / "bundles").glob("*/graph.onnx"))
    copy = graph.read_bytes()
    plc = station.plc
    graph.write_bytes(copy[:-1] + bytes([copy[-1] ^ 1]))
    try:
        assert plc.inspect().verdict == "OK", "the recipe in memory is the tested one"
        station.kill("inspection")
        plc.wait_for(lambda: plc.state().phase == "failed")
        assert plc.inspect().reason == "self-test"
    finally:
        graph.write_bytes(copy)
    assert plc.command("reset").done


@pytest.fixture
def own_folder(exported, data: Path, tmp_path: Path) -> tuple[Path, Path, Path]:
    return tmp_path, exported("rgb"), data / "gear" / "train"


def test_hung_engine_is_killed_after_its_deadline(own_folder):
    with running_station(write_station_file(*own_folder)) as station:
        station.plc.wait_ready()
        process = station.pid("inspection")
        with station.frozen("inspection"):
            part = station.plc.trigger()
            station.wait_stage(part, "inspecting")
            let_time_pass(station, part)
            result = station.plc.result(part)
            assert (result.verdict, result.reason) == ("NG", "deadline")
            wait_until(lambda: station.runs("inspection", but=process))
        states = station.plc.states
        station.plc.wait_for(lambda: states[-1].phase == "ready" and states[-1].counters["restarts"] >= 1)
        assert states[-1].counters["rows_lost"] == 0


def let_time_pass(station: RunningStation, part: int) -> None:
    """Let the deadline of a part, and the time after which its engine is taken for hung, be over for this part only."""
    assert station.supervisor is not None
    entry = station.supervisor._dispatch._parts[part]
    entry.deadline_ns -= 2 * 600_000 * 10**6


@pytest.mark.parametrize("name", ["inspection", long("acquisition"), long("records")])
def test_idle_process_without_a_sign_of_life_is_replaced(own_folder, name):
    with running_station(write_station_file(*own_folder)) as station:
        station.plc.wait_ready()
        process = station.pid(name)
        with station.frozen(name):
            child = station.hub.child(name)
            assert child is not None
            wait_until(lambda: silent(child, process, station))
        station.wait_ok()


def silent(child: Child, process: int, station: RunningStation) -> bool:
    """Date the last message of a process back by the time of silence; return True if another one runs."""
    child.heard_ns = -(10**18)
    return station.runs(child.name, but=process)


@pytest.fixture
def long_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let all restarts of a test count for the same minute, however long a process takes to start."""
    monkeypatch.setattr(restarts_module, "MINUTE_NS", 10**15)


@pytest.mark.usefixtures("long_minute")
def test_process_that_ends_again_and_again_ends_the_station(own_folder):
    file = write_station_file(*own_folder, station={"restarts_per_minute": 1})
    with running_station(file) as station:
        station.plc.wait_ready()
        first = station.pid("acquisition")
        station.kill("acquisition")
        wait_until(lambda: station.runs("acquisition", but=first))
        station.kill("acquisition")
        assert station.wait() == supervisor_module.GAVE_UP
        station.plc.wait_for(lambda: station.plc.state().phase == "failed")


@pytest.mark.usefixtures("long_minute")
def test_damaged_database_never_ends_in_ok(own_folder):
    file = write_station_file(*own_folder)
    with running_station(file) as station:
        station.plc.wait_ready()
        for _ in range(3):
            assert station.plc.inspect().verdict == "OK"
        state = station.station.state
    database = state / "records.sqlite"
    content = bytearray(database.read_bytes())
    for page in range(1, len(content) // 4096):
        content[page * 4096 : page * 4096 + 64] = b"\xff" * 64
    database.write_bytes(content)
    for name in ("records.sqlite-wal", "records.sqlite-shm"):
        (state / name).unlink(missing_ok=True)
    with running_station(write_station_file(*own_folder, station={"restarts_per_minute": 2})) as station:
        assert station.wait() == supervisor_module.GAVE_UP
        assert not any(result.verdict == "OK" for results in station.plc.results.values() for result in results)


def test_broker_that_is_away_stops_no_part(own_folder):
    with (
        refusing_port() as port,
        running_station(write_station_file(*own_folder, mqtt={"host": "127.0.0.1", "port": port})) as station,
    ):
        station.plc.wait_ready()
        wait_until(lambda: station.runs("mqtt"))
        process = station.pid("mqtt")
        for _ in range(3):
            station.wait_ok()
        assert station.runs("mqtt")
        assert station.pid("mqtt") == process


def test_second_station_in_the_same_folder_is_refused(own_folder):
    from cmdiad_line.supervisor.start import run_station
    from cmdiad_runtime.errors import OutputError

    file = write_station_file(*own_folder)
    with running_station(file) as station:
        station.plc.wait_ready()
        with pytest.raises(OutputError, match="in use"):
            run_station(station.station)
        assert station.plc.inspect().verdict == "OK"
    shutil.rmtree(station.station.state)
