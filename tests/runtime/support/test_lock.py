"""Locks between processes: one owner at a time, none left by a process that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.lock import LOCK_NAME, lock_folder

HOLD = (
    "import sys\n"
    "from cmdiad_runtime.support import lock\n"
    "with lock.lock_folder(sys.argv[1]):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)


@contextmanager
def another_process(target: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold a lock in another process, which ends when its input does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


def test_another_process_is_refused_until_the_owner_ends(tmp_path: Path) -> None:
    with another_process(tmp_path):
        with pytest.raises(OutputError, match="in use by another process") as refused, lock_folder(tmp_path):
            pass
        assert refused.value.subject == str(tmp_path)
    with lock_folder(tmp_path):
        pass


def test_lock_dies_with_its_process(tmp_path: Path) -> None:
    with another_process(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with lock_folder(tmp_path):
            pass


def test_two_owners_in_one_process_exclude_each_other(tmp_path: Path) -> None:
    with lock_folder(tmp_path), pytest.raises(OutputError, match="in use"), lock_folder(tmp_path):
        pass


def test_waiting_ends_when_the_owner_releases(tmp_path: Path) -> None:
    with another_process(tmp_path) as process:
        assert process.stdin is not None
        process.stdin.close()  # the other process ends on its own
        with lock_folder(tmp_path, wait_s=60):
            pass


def test_lock_file_lies_in_the_folder(tmp_path: Path) -> None:
    with lock_folder(tmp_path):
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_NAME]


def test_lock_is_released_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), lock_folder(tmp_path):
        raise KeyboardInterrupt
    with lock_folder(tmp_path):
        pass


def test_lock_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / LOCK_NAME).symlink_to(victim)
    with pytest.raises(OutputError, match="no lock file"), lock_folder(tmp_path):
        pass
    assert victim.read_text() == "mine"


def test_missing_folder_is_an_output_error(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="found no folder"), lock_folder(tmp_path / "none"):
        pass
    assert not any(tmp_path.iterdir())
