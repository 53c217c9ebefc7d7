"""Lines of a command whose work does not depend on a reader."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from cmdiad_runtime.support.output import ResultLines, say

WORK = """
import sys
from cmdiad_runtime.support.output import ResultLines, say
lines = ResultLines()
if len(sys.argv) > 1:
    sys.stdout = open(sys.argv[1], "w")
for number in range(3):
    lines.write(f"line {number} \\u00fc")
    say(f"message {number}")
say(lines.broken)
"""


def work(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", WORK, *arguments],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin", **environment},
    )


def test_lines_reach_their_reader() -> None:
    ended = work(PYTHONIOENCODING="utf-8")
    assert ended.returncode == 0
    assert ended.stdout == "line 0 ü\nline 1 ü\nline 2 ü\n"
    assert ended.stderr == "message 0\nmessage 1\nmessage 2\n\n"


def test_narrow_encoding_gets_escapes() -> None:
    assert work(PYTHONIOENCODING="ascii").stdout.splitlines()[0] == "line 0 \\xfc"


def test_full_device_does_not_stop_the_work() -> None:
    ended = work("/dev/full")
    assert ended.returncode == 0
    assert ended.stderr == "message 0\nmessage 1\nmessage 2\nno space left on device\n"


@pytest.mark.parametrize("redirection", [">&-", "2>&-", ">&- 2>&-", "2>/dev/full", "> /dev/full"])
def test_closed_or_full_streams_do_not_stop_the_work(redirection: str) -> None:
    ended = subprocess.run(
        ["sh", "-c", f'exec "$@" {redirection}', "sh", sys.executable, "-c", WORK],
        check=False,
        capture_output=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin"},
    )
    assert ended.returncode == 0
    assert b"Exception" not in ended.stderr


def test_closed_stdout_is_noticed() -> None:
    ended = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-c", WORK],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin"},
    )
    assert ended.stderr.splitlines()[-1] == "closed"


def test_opened_file_never_becomes_a_closed_standard_stream(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from cmdiad_runtime.support.output import occupy_standard_streams\n"
        "occupy_standard_streams()\n"
        "with open(sys.argv[1], 'w') as file: file.write(str(file.fileno() > 2))\n"
    )
    subprocess.run(
        ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code, str(tmp_path / "file")],
        check=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin"},
    )
    assert (tmp_path / "file").read_text() == "True"


def test_pipe_that_is_closed_after_the_first_line() -> None:
    ended = subprocess.run(
        ["sh", "-c", '("$@"; echo "code $?" >&2) | head -n 1', "sh", sys.executable, "-c", WORK.replace("3", "2000")],
        check=False,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": ":".join(sys.path), "PATH": "/usr/bin"},
    )
    assert ended.stdout.startswith("line 0")
    assert ended.stderr.splitlines()[-2:] == ["broken pipe", "code 0"]


def test_say_ignores_a_closed_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed:
        def write(self, text: str) -> int:
            raise ValueError("I/O operation on closed file")

        def flush(self) -> None:
            raise ValueError("I/O operation on closed file")

    monkeypatch.setattr("sys.stderr", Closed())
    monkeypatch.setattr("sys.stdout", Closed())
    say("nobody reads this")
    lines = ResultLines()
    lines.write("nobody reads this")
    assert lines.broken == "i/o operation on closed file"
