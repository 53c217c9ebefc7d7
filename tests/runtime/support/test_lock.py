"""Locks between processes: one owner at a time, none left by a process that was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.lock import LOCK_NAME, lock_folder, lock_name

HOLD = (
    "import sys\n"
    "from cmdiad_runtime.support import lock\n"
    "with getattr(lock, sys.argv[1])(sys.argv[2]):\n"
    "    print('held', flush=True)\n"
    "    sys.stdin.read()\n"
)

Lock = Callable[..., Any]


@contextmanager
def another_process(lock: str, target: Path) -> Iterator[subprocess.Popen[str]]:
    """Hold a lock in another process, which ends when its input does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, lock, str(target)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None and process.stdout is not None
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait()


@pytest.mark.parametrize("lock", [lock_folder, lock_name])
def test_another_process_is_refused_until_the_owner_ends(tmp_path: Path, lock: Lock) -> None:
    with another_process(lock.__name__, tmp_path):
        with pytest.raises(OutputError, match="in use by another process") as refused, lock(tmp_path):
            pass
        assert refused.value.subject == str(tmp_path)
    with lock(tmp_path):
        pass


@pytest.mark.parametrize("lock", [lock_folder, lock_name])
def test_lock_dies_with_its_process(tmp_path: Path, lock: Lock) -> None:
    with another_process(lock.__name__, tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with lock(tmp_path):
            pass


@pytest.mark.parametrize("lock", [lock_folder, lock_name])
def test_two_owners_in_one_process_exclude_each_other(tmp_path: Path, lock: Lock) -> None:
    with lock(tmp_path), pytest.raises(OutputError, match="in use"), lock(tmp_path):
        pass


def test_waiting_ends_when_the_owner_releases(tmp_path: Path) -> None:
    with another_process("lock_name", tmp_path / "bundle") as process:
        assert process.stdin is not None
        process.stdin.close()  # the other process ends on its own
        with lock_name(tmp_path / "bundle", wait_s=60):
            pass


def test_lock_file_lies_in_the_folder_or_next_to_the_name(tmp_path: Path) -> None:
    with lock_folder(tmp_path), lock_name(tmp_path / "gear.cmdiad"):
        assert {path.name for path in tmp_path.iterdir()} == {LOCK_NAME, ".gear.cmdiad.lock"}


def test_lock_of_a_link_is_the_lock_of_its_target(tmp_path: Path) -> None:
    (tmp_path / "gear").mkdir()
    (tmp_path / "newest").symlink_to("gear")
    with lock_name(tmp_path / "gear"), pytest.raises(OutputError, match="in use"), lock_name(tmp_path / "newest"):
        pass


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
    with pytest.raises(OutputError, match="found no folder"), lock_name(tmp_path / "none" / "gear.cmdiad"):
        pass
    assert not any(tmp_path.iterdir())
