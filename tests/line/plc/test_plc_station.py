"""A whole station with its real PLC process, seen from the plant: verdicts, a killed PLC process, the end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cmdiad_line.plc.program import PlcProgram
from cmdiad_line.plc.simulator import PlcConnectionError, run_program
from patience import LIMIT_S, free_port, wait_until
from plc_process import PatientPlc
from stations import write_station_file

RUN = "import sys; from cmdiad_line.cli.line import main; sys.argv[0] = 'cmdiad-line'; main()"


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture(scope="module")
def station(exported, data: Path, tmp_path_factory: pytest.TempPathFactory, port):
    folder = tmp_path_factory.mktemp("plc_station")
    file = write_station_file(folder, exported("rgb"), data / "gear" / "train", modbus={"port": port})
    process = subprocess.Popen([sys.executable, "-c", RUN, "run", str(file)])
    yield process
    process.kill()
    process.wait(timeout=LIMIT_S)


@pytest.fixture
def plc(station, port):
    client = PatientPlc(port)
    end = time.monotonic() + LIMIT_S
    while True:
        try:
            client.connect()
            break
        except PlcConnectionError:
            assert station.poll() is None and time.monotonic() < end, "the station does not start"
            time.sleep(0.05)
    client.wait(lambda outputs: "online" in outputs.bits)
    yield client
    client.close()


def process_of(station, room):
    """Return the id of a process of the station, for example that of the PLC."""
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            parent = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        except (OSError, ValueError, IndexError):
            continue
        if parent == station.pid and any(b"cmdiad_line.worker" in word for word in words) and room.encode() in words:
            return int(entry.name)
    raise AssertionError(f"the station has no process {room}")


def test_parts_are_inspected(plc):
    program = PlcProgram(parts=8, takt_s=0, timeout_s=LIMIT_S)
    assert run_program(plc, program, limit_s=2 * LIMIT_S) == 0
    counts = program.counts
    assert counts["identified"] == counts["results"] == 8
    assert counts["passed"] > 0
    assert not any(counts[name] for name in ("missed", "unanswered", "foreign", "swapped", "timed_out", "repeated"))


def test_killed_plc_process_mixes_up_nothing(station, plc):
    killed = []

    def taken(result):
        if not killed and program.counts["results"] >= 3 and not program.levels["trigger"]:
            killed.append(process_of(station, "plc"))
            os.kill(killed[0], signal.SIGKILL)

    program = PlcProgram(taken=taken, parts=8, takt_s=0.5, timeout_s=LIMIT_S, name="second")
    assert run_program(plc, program, limit_s=2 * LIMIT_S) >= 1
    counts = program.counts
    assert killed and process_of(station, "plc") != killed[0]
    assert counts["swapped"] == counts["foreign"] == 0
    assert counts["results"] + counts["missed"] + counts["timed_out"] == counts["triggers"] == 8
    assert counts["identified"] + counts["unanswered"] + counts["missed"] == 8
    assert counts["results"] >= counts["identified"], "a part with an id always gets its result"


def test_plc_process_killed_with_a_part_in_work(station, plc):
    """The part is held in the inspection meanwhile. No new PLC process shows OK before the result has come."""
    inspection = process_of(station, "inspection")
    os.kill(inspection, signal.SIGSTOP)
    try:
        plc.write({"trigger_enable": True})
        plc.write({"trigger": True})
        part = plc.wait(lambda outputs: "trigger_ack" in outputs.bits).trigger_id
        killed = process_of(station, "plc")
        os.kill(killed, signal.SIGKILL)
        wait_until(lambda: reconnected(plc))
        assert process_of(station, "plc") != killed
        outputs = plc.wait(lambda outputs: "online" in outputs.bits)
        assert (outputs.result, "job_pass" in outputs.bits) == (None, False)
    finally:
        os.kill(inspection, signal.SIGCONT)
    outputs = plc.wait(lambda outputs: outputs.result is not None)
    assert outputs.result.acquisition_id == part
    plc.write({"results_ack": True})
    plc.wait(lambda outputs: outputs.result is None)
    plc.write({"results_ack": False})


def reconnected(plc):
    """Return True if the PLC has a connection to a process that answers."""
    try:
        plc.connect()
        plc.read()
    except PlcConnectionError:
        return False
    return True


def test_stopped_station_answers_with_ng(plc):
    assert plc.command("stop")
    outputs = plc.wait(lambda outputs: "online" not in outputs.bits)
    assert not outputs.bits & {"trigger_ready", "job_pass"}
    plc.write({"trigger_enable": True})
    plc.write({"trigger": True})
    outputs = plc.wait(lambda outputs: "job_fail" in outputs.bits)
    assert outputs.result.reason == "stopped" and "missed_acquisition" in outputs.bits
    assert outputs.trigger_id == outputs.result.acquisition_id
    plc.write({"trigger": False, "results_ack": True})
    plc.wait(lambda outputs: outputs.result is None)
    plc.write({"results_ack": False})
    assert plc.command("go_online")
    plc.wait(lambda outputs: "online" in outputs.bits)


def test_no_output_after_the_end(station, plc):
    station.terminate()
    assert station.wait(timeout=LIMIT_S) == 0
    with pytest.raises(PlcConnectionError):
        plc.wait(lambda outputs: False)
