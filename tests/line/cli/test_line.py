"""Help and subcommands of `cmdiad-line`, and the check of a station file."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from cmdiad_line.cli.demo import _samples_of, _station_file
from cmdiad_line.cli.line import SUBCOMMANDS, cli
from cmdiad_line.cli.state_lines import StateLines
from cmdiad_line.station_file.mistakes import StationFileError
from cmdiad_line.station_file.read import read_station
from patience import LIMIT_S, free_port
from station_messages import station_state
from stations import write_station_file

RUN = "import sys; from cmdiad_line.cli.line import main; sys.argv[0] = 'cmdiad-line'; main()"
HEAVY = ("asyncua", "fastapi", "uvicorn", "pymodbus", "paho", "onnxruntime", "numpy", "jinja2", "argon2", "sqlite3")


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from click.testing import CliRunner\n"
        "from cmdiad_line.cli.line import cli\n"
        "assert CliRunner().invoke(cli, ['--help']).exit_code == 0\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", SUBCOMMANDS)
def test_subcommand_explains_itself(name):
    listed = CliRunner().invoke(cli, ["--help"]).output
    assert name in listed
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


def test_unknown_subcommand_is_refused():
    assert CliRunner().invoke(cli, ["dance"]).exit_code == 2


def test_check_of_a_good_file(exported, data, tmp_path):
    file = write_station_file(tmp_path, exported("rgb"), data / "gear" / "train")
    result = CliRunner().invoke(cli, ["check", str(file)], standalone_mode=False)
    assert result.return_value == 0
    assert "no mistakes" in result.output
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(("keys", "noted"), [({}, False), ({"noisy": False}, True)])
def test_check_notes_a_source_that_may_repeat_a_picture(exported, tmp_path, keys, noted):
    (tmp_path / "in").mkdir()
    source = {"kind": "folder", "path": str(tmp_path / "in"), **keys}
    (tmp_path / "station.toml").write_text(
        f'[station]\nname = "s"\nstate = "state"\n[recipe]\nbundle = {json.dumps(str(exported("rgb")))}\n[[source]]\n'
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in source.items())
    )
    result = CliRunner().invoke(cli, ["check", str(tmp_path / "station.toml")], standalone_mode=False)
    assert result.return_value == 0
    assert ("note: folder: with noisy = false" in result.output) == noted


def test_check_explains_every_mistake(tmp_path):
    file = write_station_file(tmp_path, tmp_path / "none", tmp_path, station={"deadline_ms": -1}, web={"prt": 1})
    result = CliRunner().invoke(cli, ["check", str(file)], standalone_mode=False)
    assert result.return_value == StationFileError.exit_code
    lines = result.output.splitlines()
    assert [line.split(":")[1].strip() for line in lines] == ["station.deadline_ms", "recipe.bundle", "web.prt"]
    assert all("Expected" in line for line in lines)


def test_demo_writes_a_station_file_that_is_right(exported, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for samples in (data / "gear" / "test", None):
        (tmp_path / "demo.toml").write_text(
            _station_file(tmp_path, exported("rgb"), samples, 0, 5020), encoding="utf-8"
        )
        station = read_station(tmp_path / "demo.toml")
        assert station.sources[0].delivers == "rgb"
        assert station.web is not None
        assert station.web.address == "127.0.0.1"
    assert "--data" in capsys.readouterr().err


def test_demo_finds_the_samples_of_its_bundle(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    manifest = {"provenance": {"data": {"category": "gear"}}}
    assert _samples_of(manifest) is None
    (tmp_path / "data" / "gear" / "test").mkdir(parents=True)
    assert _samples_of(manifest) == Path("data/gear/test")
    assert _samples_of({"provenance": {"data": "elsewhere"}}) is None


def test_run_says_addresses_and_when_the_station_is_ready(exported, data, tmp_path):
    file = write_station_file(
        tmp_path,
        exported("rgb"),
        data / "gear" / "train",
        modbus={"port": (port := free_port())},
        web={"port": 0},
    )
    process = subprocess.Popen([sys.executable, "-c", RUN, "run", str(file)], stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in process.stderr:
            lines.append(line.rstrip("\n"))
            if {"page", "Modbus TCP", "station test ready"} <= {text.split(":")[0] for text in lines}:
                break
        page = json.loads((tmp_path / "state" / "run" / "web.json").read_text())["url"]
        assert {f"page: {page}", f"Modbus TCP: 127.0.0.1:{port}", "station test ready: recipe gear"} <= set(lines)
        assert lines.index(f"page: {page}") < lines.index("station test ready: recipe gear")
        process.send_signal(signal.SIGTERM)
        assert process.stderr.read().splitlines()[-1] == "station test stopped"
        assert process.wait(timeout=LIMIT_S) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def test_lines_of_a_station_say_each_change_once(exported, data, tmp_path):
    lines = StateLines(read_station(write_station_file(tmp_path, exported("rgb"), data / "gear" / "train")))
    running = {"plc": "running"}
    try:
        shown = [
            list(lines._lines(state_with(phase, reason, processes)))
            for phase, reason, processes in (
                ("starting", "not-ready", {}),
                ("not-ready", "camera-gone", running),
                ("ready", "", running),
                ("ready", "", running),
                ("starting", "not-ready", running),
                ("starting", "camera-gone", running),
                ("failed", "not-ready", running),
                ("ready", "", running),
            )
        ]
    finally:
        lines.close()
    ready, said = "station test ready: recipe gear", "station test not ready ({0}): Because of {0}."
    assert shown == [
        [],
        ["Modbus TCP: 127.0.0.1:(any free port)", said.format("camera-gone")],
        [ready],
        [],
        [said.format("not-ready")],
        [],
        [],
        [ready],
    ]


def test_a_full_pipe_does_not_delay_the_station(exported, data, tmp_path, monkeypatch):
    """A blocked stderr blocks the thread of the lines only."""
    free = threading.Event()
    monkeypatch.setattr("cmdiad_line.cli.state_lines.say", lambda line: free.wait(LIMIT_S))
    monkeypatch.setattr("cmdiad_line.cli.state_lines._LAST_S", 0.01)
    lines = StateLines(read_station(write_station_file(tmp_path, exported("rgb"), data / "gear" / "train")))
    for reason in ("camera-gone", "stopped", "not-ready"):
        lines.show(state_with("not-ready", reason, {}))
    lines.close()
    assert lines._thread.is_alive()
    free.set()
    lines._thread.join(LIMIT_S)
    assert not lines._thread.is_alive()


def state_with(phase, reason, processes):
    """Return a state of a station; its message repeats the reason."""
    message = f"Because of {reason}." if reason else ""
    return station_state(phase, reason=reason, message=message, processes=processes)
