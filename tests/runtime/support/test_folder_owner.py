"""One process at a time owns a folder, and none leaves anything in it."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from cmdiad_runtime.support import folder_owner
from cmdiad_runtime.support.files import atomic_directory
from cmdiad_runtime.support.folder_owner import take_folder
from cmdiad_runtime.support.scratch import scratch_folder

OWNER = """
import sys, time
from pathlib import Path
from cmdiad_runtime.support.folder_owner import take_folder
release = take_folder(Path(sys.argv[1]))
print("taken" if release else "refused", flush=True)
time.sleep(600)
"""


@pytest.fixture(params=["posix", "windows", "nfs"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Systems that cannot lock a folder use a lock file next to it."""
    if request.param == "windows":
        monkeypatch.setattr(folder_owner, "fcntl", None)
    elif request.param == "nfs":
        monkeypatch.setattr(folder_owner.fcntl, "flock", _flock_of_files)
    return str(request.param)


def _flock_of_files(descriptor: int, operation: int, *, original: Any = fcntl.flock) -> None:
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EBADF, "Bad file descriptor")
    original(descriptor, operation)


@pytest.mark.usefixtures("system")
def test_second_owner_waits_in_vain(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    folder.mkdir()
    release = take_folder(folder)
    assert release is not None
    assert take_folder(folder, wait_s=0.05) is None
    assert list(folder.iterdir()) == []
    release()
    again = take_folder(folder, wait_s=0.05)
    assert again is not None
    again()


def test_owner_in_another_process(tmp_path: Path) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    assert owner.stdout.readline() == "taken\n"
    assert take_folder(tmp_path, wait_s=0.05) is None
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    release = take_folder(tmp_path)
    assert release is not None
    release()
    assert list(tmp_path.iterdir()) == []


def test_missing_folder(tmp_path: Path, system: str) -> None:
    with pytest.raises(OSError):
        take_folder(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("system")
def test_a_folder_that_is_gone_leaves_no_lock_file(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "run") as temporary:
        (temporary / "a").touch()
        assert take_folder(temporary) is None
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_scratch_folders_of_killed_processes_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    killed, others = tmp_path / "cmdiad-plan-0123abcd", tmp_path / "cmdiad-plan-notes"
    for folder in (killed, others):
        folder.mkdir()
        (folder / "graph.onnx").write_text("x")
    (tmp_path / "cmdiad-plan-76543210").symlink_to(others)
    with scratch_folder("plan") as first, scratch_folder("plan") as second:
        assert first.is_dir()
        assert second.is_dir()
        assert first.stat().st_mode & 0o777 == 0o700
        assert not killed.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cmdiad-plan-76543210", "cmdiad-plan-notes"]
    assert [path.name for path in others.iterdir()] == ["graph.onnx"]
