"""A file of lines in which every line is whole."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.line_file import LineFile


def test_line_is_readable_by_others_at_once(tmp_path: Path) -> None:
    path = tmp_path / "lines"
    with LineFile(path) as lines:
        lines.append("one")
        assert path.read_bytes() == b"one\n"
        lines.append("zwei ü")
        assert path.read_text(encoding="utf-8") == "one\nzwei ü\n"
    with LineFile(path) as lines:
        lines.append("three")
        lines.close()  # closing twice is harmless
    assert path.read_text(encoding="utf-8") == "one\nzwei ü\nthree\n"


def failing(code: int, *, after: int) -> Callable[[int, bytes], int]:
    """`os.write` of a disk with room for some more bytes, then an error."""
    real, left = os.write, [after]

    def write(file: int, content: bytes) -> int:
        if not left[0]:
            raise OSError(code, os.strerror(code))
        written = real(file, content[: left[0]])
        left[0] -= written
        return written

    return write


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EDQUOT])
@pytest.mark.parametrize("after", [0, 1, 6])
def test_line_that_does_not_fit_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, after: int
) -> None:
    path = tmp_path / "lines"
    with LineFile(path) as lines:
        lines.append("first")
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", failing(code, after=after))
            with pytest.raises(OutputError, match="lines: found a file that cannot be written") as refused:
                lines.append("second")
            assert os.strerror(code).lower() in str(refused.value)
        assert path.read_bytes() == b"first\n"
        lines.append("third")
    assert path.read_bytes() == b"first\nthird\n"


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda file, content: real(file, content[:3]))
    with LineFile(tmp_path / "lines") as lines:
        lines.append("a long line")
    assert (tmp_path / "lines").read_bytes() == b"a long line\n"


def test_limit_of_the_file_size_set_by_the_system(tmp_path: Path) -> None:
    code = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from cmdiad_runtime.errors import OutputError\n"
        "from cmdiad_runtime.support.line_file import LineFile\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "with LineFile(Path(sys.argv[1])) as lines:\n"
        "    try:\n"
        "        while True: lines.append('x' * 29)\n"
        "    except OutputError as error: print(error)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "lines")], check=True, capture_output=True, text=True
    )
    assert "file too large" in ended.stdout
    assert (tmp_path / "lines").read_text() == 3 * ("x" * 29 + "\n")
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 100


def test_killed_process_keeps_every_line(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from cmdiad_runtime.support.line_file import LineFile\n"
        "lines = LineFile(Path(sys.argv[1]))\n"
        "for number in range(5): lines.append(str(number))\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "lines")], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert (tmp_path / "lines").read_text() == "0\n1\n2\n3\n4\n"


def test_flush_to_the_disk_once_per_second_and_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, flushed = [0.0], []
    monkeypatch.setattr("cmdiad_runtime.support.line_file.time.monotonic", lambda: now[0])
    with LineFile(tmp_path / "lines") as lines:
        monkeypatch.setattr(os, "fsync", lambda file: flushed.append(now[0]))
        for now[0] in (0.1, 0.9, 1.0, 1.1, 1.9, 2.5):
            lines.append("line")
    assert flushed == [1.0, 2.5, 2.5]


def test_disk_that_cannot_be_flushed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = LineFile(tmp_path / "lines")
    lines.append("line")

    def fail(file: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OutputError, match=r"input/output error"):
        lines.close()


def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="is a directory"):
        LineFile(tmp_path)
