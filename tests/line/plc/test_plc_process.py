"""The process of the room `plc` over real TCP: inspections, restarts, silence, and the simulated PLC."""

from __future__ import annotations

import re
import socket
import threading
import time

import pytest
from click.testing import CliRunner

from cmdiad_line.cli.line import cli
from cmdiad_line.plc.program import PlcProgram
from cmdiad_line.plc.simulator import PlcConnectionError, run_program
from cmdiad_runtime.errors import CmdiadError
from patience import LIMIT_S, refusing_port, wait_until
from plc_process import PatientPlc, StandInSupervisor


def every_third(acquisition_id):
    return "NG" if acquisition_id % 3 == 0 else "OK"


@pytest.fixture
def station():
    supervisor = StandInSupervisor(every_third).start()
    yield supervisor
    supervisor.close()


@pytest.fixture
def plc(station):
    with PatientPlc(station.port) as client:
        client.wait(lambda outputs: "online" in outputs.bits)
        yield client


def test_every_part_gets_its_result(station, plc):
    taken = []
    program = PlcProgram(taken=taken.append, parts=60, takt_s=0.002, timeout_s=LIMIT_S)
    assert run_program(plc, program, limit_s=2 * LIMIT_S) == 0
    counts = program.counts
    assert counts["triggers"] == counts["identified"] == counts["results"] == 60
    assert counts["passed"] == 40
    assert not any(counts[name] for name in ("missed", "unanswered", "foreign", "swapped", "timed_out", "repeated"))
    for result in taken:
        assert result.passed == (every_third(result.shown.acquisition_id) == "OK")
        assert result.shown.part_id == result.part_id == f"part-{result.shown.acquisition_id}"
    wait_until(lambda: not station.unacknowledged)


def test_commands_reach_the_supervisor(station, plc):
    assert plc.command("activate_recipe", requested_recipe="nut-7")
    assert plc.command("stop")
    assert not plc.command("prepare_recipe"), "without an id"
    assert [(command.name, command.arguments) for command in station.commands] == [
        ("activate", {"recipe_id": "nut-7"}),
        ("stop", {}),
    ]


def test_results_survive_a_killed_process(station, plc):
    station.held.set()
    taken = []
    program = PlcProgram(taken=taken.append, parts=3, takt_s=0.0, timeout_s=LIMIT_S)
    while program.counts["identified"] < 3:
        program.scan(plc.read(), time.monotonic())
        plc.write(program.levels, part_id=program.part_id)
    station.held.clear()
    plc.wait(lambda outputs: outputs.waiting == 3)
    station.kill()
    with pytest.raises(PlcConnectionError):
        plc.wait(lambda outputs: False)
    station.start()
    with PatientPlc(station.port) as again:
        again.wait(lambda outputs: outputs.waiting == 3 and "repeated" in outputs.bits)
        program.reconnected()
        run_program(again, program, limit_s=2 * LIMIT_S)
    assert [result.shown.acquisition_id for result in taken] == [1, 2, 3]
    assert program.counts["results"] == 3 and program.counts["swapped"] == program.counts["foreign"] == 0
    wait_until(lambda: not station.unacknowledged)


def test_nothing_is_true_while_the_supervisor_is_silent(station, plc):
    station.held.set()
    plc.write({"trigger": True}, part_id="A")
    plc.wait(lambda outputs: "trigger_ack" in outputs.bits or outputs.missed_count)
    assert plc.read().missed_count == 1, "trigger_enable is false"
    plc.write({"trigger": False, "trigger_enable": True})
    plc.write({"trigger": True})
    plc.wait(lambda outputs: "trigger_ack" in outputs.bits)
    station.held.clear()
    plc.wait(lambda outputs: "job_pass" in outputs.bits)
    station.silent.set()
    wait_until(lambda: plc.read().bits == {"error"} or station.let_time_pass())
    station.silent.clear()
    plc.wait(lambda outputs: "job_pass" in outputs.bits)


def test_process_ends_when_asked(station, plc):
    assert station.end() == 0
    with pytest.raises(PlcConnectionError):
        plc.wait(lambda outputs: False)


def test_process_ends_in_order_on_sigterm(station, plc):
    """systemd may send the signal to every process; lines must become inactive then too."""
    assert station.terminate() == 0


def test_process_ends_with_the_supervisor(station):
    station.close()
    assert station._process.returncode is not None
    with pytest.raises(PlcConnectionError):
        PatientPlc(station.port).connect()


def test_no_reader_sees_half_a_result(station, plc):
    """A second client reads all the time: fields and bits always belong to one part."""
    stop = threading.Event()
    mixed, seen = [], set()
    last = 41

    def read():
        with PatientPlc(station.port, reads_only=True) as reader:
            while not stop.is_set():
                outputs = reader.read()
                if outputs.result is not None:
                    number = outputs.result.acquisition_id
                    seen.add(number)
                    whole = outputs.result.part_id == f"part-{number}"
                    if not whole or ("job_pass" in outputs.bits) != (every_third(number) == "OK"):
                        mixed.append(outputs)

    thread = threading.Thread(target=read)
    thread.start()
    program = PlcProgram(parts=40, takt_s=0.0, timeout_s=LIMIT_S)
    run_program(plc, program, limit_s=2 * LIMIT_S)
    plc.write({"trigger_enable": True, "trigger": True}, part_id=f"part-{last}")
    wait_until(lambda: last in seen or mixed)  # This result stays until it is acknowledged.
    stop.set()
    thread.join(LIMIT_S)
    assert program.counts["results"] == 40 and not mixed


@pytest.mark.parametrize("data", [b"\0" * 300, b"GET / HTTP/1.1\r\n\r\n", b"\xff" * 3, b"\0\1\0\0\0\6\1\x05\0\1\xff"])
def test_garbage_on_the_port_does_no_harm(station, plc, data):
    with socket.create_connection(("127.0.0.1", station.port), timeout=LIMIT_S) as wrong:
        wrong.sendall(data)
    outputs = plc.read()
    assert "online" in outputs.bits and outputs.missed_count == 0


def test_simulator_on_the_command_line(station):
    arguments = [
        f"127.0.0.1:{station.port}",
        "--parts",
        "6",
        "--takt",
        "0",
        "--timeout",
        str(LIMIT_S),
        "--recipe",
        "gear",
    ]
    answer = CliRunner().invoke(cli, ["plc-simulator", *arguments], standalone_mode=False)
    assert answer.return_value == 0, answer.output
    assert re.search(r"results +6 ", answer.output) and re.search(r"passed +4 ", answer.output)
    assert station.commands[0].arguments == {"recipe_id": "gear"}


def test_simulator_without_a_station():
    with refusing_port() as port:
        answer = CliRunner().invoke(cli, ["plc-simulator", f"127.0.0.1:{port}"], standalone_mode=False)
    assert isinstance(answer.exception, CmdiadError) and "does not answer" in str(answer.exception)
