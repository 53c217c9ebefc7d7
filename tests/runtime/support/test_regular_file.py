"""Files of strangers: regular ones are read, everything else is refused at once."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest

from cmdiad_runtime.support import regular_file
from cmdiad_runtime.support.files import sha256_of
from cmdiad_runtime.support.regular_file import kind_of, open_regular, read_regular


@pytest.fixture(params=[True, False], ids=["posix", "windows"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the flags that only POSIX has; pipes without them cannot be played."""
    if not request.param:
        monkeypatch.setattr(regular_file, "_NO_FOLLOW", 0)


def make(path: Path, kind: str) -> Path:
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "link":
        path.with_name("target").write_text("target")
        path.symlink_to("target")
    elif kind == "loop":
        path.symlink_to(path.name)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            os.chdir(path.parent)  # The path of a socket has at most 107 bytes.
            server.bind(path.name)
    return path


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "loop", "socket"])
def test_no_regular_file(tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="not a file"):
        open_regular(make(tmp_path / "x", kind))


@pytest.mark.usefixtures("system")
def test_device_and_missing_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a device, not a file"):
        open_regular("/dev/zero")
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "none")


@pytest.mark.usefixtures("system")
def test_link_that_may_be_followed(tmp_path: Path) -> None:
    assert read_regular(make(tmp_path / "x", "link"), 100, follow=True) == b"target"
    with pytest.raises(OSError, match="a pipe, not a file"):
        read_regular(make(tmp_path / "y", "pipe"), 100, follow=True)


def test_no_more_than_the_limit_is_read(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        file.truncate(1 << 40)
    assert len(read_regular(tmp_path / "large", 10)) == 11


def test_descriptors_are_closed(tmp_path: Path) -> None:
    pipe = make(tmp_path / "x", "pipe")
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(20):
        with pytest.raises(OSError, match="a pipe"):
            open_regular(pipe)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_hash_of_a_pipe_does_not_wait(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="a pipe"):
        sha256_of(make(tmp_path / "x", "pipe"))


def test_kinds() -> None:
    assert kind_of(stat.S_IFBLK | 0o600) == "a device"
    assert kind_of(stat.S_IFREG | 0o600) == "a file"
