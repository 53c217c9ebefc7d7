"""Atomic writing: the whole file, or what was there before."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support import files, folder_owner
from cmdiad_runtime.support.files import atomic_directory, atomic_write, make_folder, sha256_of, write_json


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def no_space(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_atomic_write_replaces(tmp_path: Path) -> None:
    target = tmp_path / "result.png"
    target.write_text("old")
    with atomic_write(target) as temporary:
        temporary.write_text("new")
        assert temporary.parent == tmp_path and temporary.suffix == ".png"
        assert target.read_text() == "old"
    assert target.read_text() == "new"
    assert names(tmp_path) == ["result.png"]


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError, SystemExit])
def test_atomic_write_interrupted(tmp_path: Path, failure: type[BaseException]) -> None:
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(failure), atomic_write(target) as temporary:
        temporary.write_text("half")
        raise failure
    assert target.read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_atomic_write_follows_a_link(tmp_path: Path) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    with atomic_write(tmp_path / "link.json") as temporary:
        temporary.write_text("new")
    assert (tmp_path / "link.json").is_symlink()
    assert (tmp_path / "real.json").read_text() == "new"


def test_atomic_write_keeps_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    with atomic_write(tmp_path / "atomic") as temporary:
        temporary.write_text("")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_folder_missing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"a\.json: found no folder .*Create the folder"):
        write_json(tmp_path / "none" / "a.json", {})
    with pytest.raises(OutputError, match="Create the folder"), atomic_directory(tmp_path / "none" / "run"):
        pass


def test_folder_not_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere
    with pytest.raises(OutputError, match=r"a\.json: found no permission to write in"):
        write_json(tmp_path / "a.json", {})
    assert names(tmp_path) == []


@pytest.mark.parametrize("target", ["folder", "/dev/null"])
def test_folders_and_devices_are_not_replaced(tmp_path: Path, target: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="a folder or device"):
        write_json(tmp_path / target, {})


def test_disk_full_while_writing(tmp_path: Path) -> None:
    message = r"a\.bin: found no space left on device\. .*Free some space"
    with pytest.raises(OutputError, match=message), atomic_write(tmp_path / "a.bin") as temporary:
        temporary.write_text("half")
        no_space()
    assert names(tmp_path) == []


def test_disk_full_while_flushing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OutputError, match="no space left"):
        write_json(tmp_path / "a.json", {})
    with pytest.raises(OutputError, match="no space left"), atomic_directory(tmp_path / "run") as temporary:
        (temporary / "a").write_text("x")
    assert names(tmp_path) == []


def test_other_errors_of_the_block_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), atomic_write(tmp_path / "a.bin"):
        (tmp_path / "input").read_bytes()
    with pytest.raises(TimeoutError), atomic_directory(tmp_path / "run"):
        raise TimeoutError(errno.ETIMEDOUT, "timed out")
    assert names(tmp_path) == []


def test_write_json_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "Prüfling", "score": 0.25, "list": [1]})
    expected = '{\n  "name": "Prüfling",\n  "score": 0.25,\n  "list": [\n    1\n  ]\n}\n'
    assert (tmp_path / "a.json").read_bytes() == expected.encode()


def test_write_json_refuses_what_json_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", float("nan"))
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert names(tmp_path) == []


def test_sha256(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_BLOCK_BYTES", 2)
    (tmp_path / "a").write_bytes(b"abc")
    # FIPS 180-2, appendix B.1
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(FileNotFoundError):
        sha256_of(tmp_path / "none")


@pytest.mark.parametrize("existing", [False, True])
def test_atomic_directory(tmp_path: Path, existing: bool) -> None:
    target = tmp_path / "part.cmdiad"
    if existing:
        target.mkdir()
    with atomic_directory(target) as temporary:
        (temporary / "engines").mkdir()
        (temporary / "engines" / "a").write_text("x")
        assert temporary.parent == tmp_path
        assert target.exists() == existing
    assert names(tmp_path) == ["part.cmdiad"]
    assert (target / "engines" / "a").read_text() == "x"


@pytest.mark.parametrize("failure", [KeyboardInterrupt, RuntimeError])
def test_atomic_directory_interrupted(tmp_path: Path, failure: type[BaseException]) -> None:
    with pytest.raises(failure), atomic_directory(tmp_path / "run") as temporary:
        (temporary / "deep").mkdir()
        (temporary / "deep" / "a").write_text("half")
        raise failure
    assert names(tmp_path) == []


def test_atomic_directory_refuses_what_is_in_use(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "weights").write_text("precious")
    message = r"run: found a folder that is not empty\. .*Remove that first.*run-2 is free"
    with pytest.raises(OutputError, match=message), atomic_directory(tmp_path / "run"):
        pytest.fail("the block must not start")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="found a file"), atomic_directory(tmp_path / "file"):
        pytest.fail("the block must not start")
    assert (tmp_path / "run" / "weights").read_text() == "precious"


def test_atomic_directory_filled_by_another_meanwhile(tmp_path: Path) -> None:
    message = r"found a folder that is not empty\. .*run-2 is free"
    with pytest.raises(OutputError, match=message), atomic_directory(tmp_path / "run"):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "theirs").touch()
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == ["theirs"]


# --- what killed processes left, and who may read a replaced file


def test_folder_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    left = tmp_path / ".run.0123abcd.cmdiad"
    (left / "deep").mkdir(parents=True)
    (left / "deep" / "graph").write_text("half")
    for other in (".run.0123abcd", ".other.0123abcd.cmdiad", ".run.0123abcdef.cmdiad", "run.0123abcd.cmdiad"):
        (tmp_path / other).mkdir()
    with atomic_directory(tmp_path / "run.cmdiad"):
        assert not left.exists()
    assert len(names(tmp_path)) == 5


def test_folder_of_a_running_process_stays(tmp_path: Path) -> None:
    with atomic_directory(tmp_path / "run") as first:
        (first / "a").touch()
        with pytest.raises(OutputError, match="not empty"), atomic_directory(tmp_path / "run") as second:
            assert first.is_dir()
            (tmp_path / "run").mkdir()
            (tmp_path / "run" / "theirs").touch()
        assert not second.exists()
        assert (first / "a").exists()
        (tmp_path / "run" / "theirs").unlink()
    assert names(tmp_path / "run") == ["a"]
    assert names(tmp_path) == ["run"]


def test_new_folder_that_another_process_took_for_a_leftover(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between making a folder and owning it, a cleaning process may remove it."""
    original, removed = files.take_folder, []

    def take(folder: Path, **options: float) -> object:
        if not removed:
            removed.append(folder)
            folder.rmdir()
        return original(folder, **options)

    monkeypatch.setattr(files, "take_folder", take)
    with atomic_directory(tmp_path / "run") as temporary:
        (temporary / "a").touch()
    assert names(tmp_path / "run") == ["a"]
    assert removed


def test_leftover_files(tmp_path: Path) -> None:
    for name in (".a.0123abcd.json", ".a.0123abcd.png", ".a.json", ".b.0123abcd.json", "a.json"):
        (tmp_path / name).touch()
    (tmp_path / ".a.76543210.json").symlink_to("a.json")
    (tmp_path / ".a.aaaaaaaa.json").mkdir()
    files.remove_leftovers(tmp_path / "a.json")
    assert ".a.0123abcd.json" not in names(tmp_path)
    assert len(names(tmp_path)) == 6


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444])
def test_replaced_file_keeps_its_mode(tmp_path: Path, mode: int) -> None:
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "a.json").chmod(mode)
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").stat().st_mode & 0o7777 == mode


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")


@as_root
def test_administrator_leaves_the_owner(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "a.json").chmod(0o640)
    os.chown(tmp_path / "a.json", 1234, 2345)
    write_json(tmp_path / "a.json", {})
    status = (tmp_path / "a.json").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (1234, 2345, 0o640)


def refuse_chown(*_: object) -> None:
    raise PermissionError(errno.EPERM, "Operation not permitted")


@as_root
@pytest.mark.parametrize(("mode", "kept"), [(0o644, True), (0o640, False), (0o600, False)])
def test_another_account(tmp_path: Path, mode: int, kept: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account that cannot give files away replaces only what the owner can read afterwards."""
    (tmp_path / "a.json").write_text("old")
    (tmp_path / "a.json").chmod(mode)
    os.chown(tmp_path / "a.json", 1234, 2345)
    monkeypatch.setattr(os, "chown", refuse_chown)
    if kept:
        write_json(tmp_path / "a.json", {})
        assert (tmp_path / "a.json").stat().st_mode & 0o777 == mode
    else:
        with pytest.raises(OutputError, match="a file of another account"):
            write_json(tmp_path / "a.json", {})
        assert (tmp_path / "a.json").read_text() == "old"
    assert names(tmp_path) == ["a.json"]


def test_file_system_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files, "take_folder", refuse)
    monkeypatch.setattr(folder_owner, "take_folder", refuse)
    (tmp_path / ".run.0123abcd").mkdir()
    with atomic_directory(tmp_path / "run") as temporary:
        (temporary / "a").touch()
    assert names(tmp_path) == [".run.0123abcd", "run"]


def test_a_folder_is_made_with_its_parents_and_kept(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    make_folder(folder, expected="a folder", action="choose another --out")
    (folder / "kept").touch()
    make_folder(folder, expected="a folder", action="choose another --out")
    assert (folder / "kept").exists()


def test_a_file_in_the_way_of_a_folder_is_an_error_about_the_folder(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    with pytest.raises(OutputError) as error:
        make_folder(tmp_path / "a" / "b", expected="a folder", action="choose another --out")
    refused = error.value
    assert (refused.subject, refused.found, refused.action) == (
        str(tmp_path / "a" / "b"),
        "not a directory",
        "choose another --out",
    )
