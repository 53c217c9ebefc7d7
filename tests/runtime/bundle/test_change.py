"""Changes of a bundle: one at a time, whole or not at all, and readable by the same accounts as before."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cmdiad_runtime.bundle import change
from cmdiad_runtime.bundle.bundle import Bundle, with_calibration
from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.bundle.change import change_bundle, sign_bundle
from cmdiad_runtime.bundle.manifest import write_content
from cmdiad_runtime.bundle.signature import new_key
from cmdiad_runtime.cli.run import cli as run_cli
from cmdiad_runtime.cli.sign import cli as sign_cli
from cmdiad_runtime.cli.threshold import cli
from cmdiad_runtime.errors import BundleError, OutputError
from cmdiad_runtime.support import files
from cmdiad_runtime.support.folder_owner import take_folder
from graphs import tiny_bundle
from helpers import assert_refused, command, flip_byte
from patience import LIMIT_S, wait_until

SCRIPTS = Path(__file__).parents[3] / "scripts"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny.cmdiad")


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_changes_add_up(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each change starts from what the one before it wrote, also if both began at the same time."""
    monkeypatch.setattr(change, "WAIT_S", LIMIT_S)
    started = threading.Barrier(8)

    def raise_threshold(old: Bundle) -> Calibration:
        time.sleep(0.01)
        return replace(old.calibration, score_threshold=old.calibration.score_threshold + 1)

    def work() -> None:
        started.wait()
        change_bundle(bundle, raise_threshold)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Bundle.open(bundle).calibration.score_threshold == 5 + 8


@pytest.mark.failure_mode("Two changes of a threshold at the same time")
@pytest.mark.seconds
def test_commands_in_several_processes(bundle: Path) -> None:
    code = f"from cmdiad_runtime.bundle import change; change.WAIT_S = {LIMIT_S}\n"
    code += "from cmdiad_runtime.cli.threshold import main; main()"
    options = [("--threshold", "7"), ("--map-threshold", "8")]
    started = [subprocess.Popen([sys.executable, "-c", code, str(bundle), *each]) for each in options]
    assert [process.wait(timeout=LIMIT_S) for process in started] == [0, 0]
    calibration = Bundle.open(bundle).calibration
    assert (calibration.score_threshold, calibration.map_threshold) == (7, 8)


def _raised(old: Bundle) -> Calibration:
    return replace(old.calibration, score_threshold=old.calibration.score_threshold + 1)


def test_readers_always_find_a_whole_bundle(bundle: Path) -> None:
    stop = threading.Event()
    opened: list[float] = []
    problems: list[Exception] = []

    def read() -> None:
        while not stop.is_set():
            try:
                opened.append(Bundle.open(bundle).calibration.score_threshold)
            except Exception as error:
                problems.append(error)
                return

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(40):
        change_bundle(bundle, _raised)
    wait_until(lambda: opened or problems)  # The other thread may not have had a processor yet.
    stop.set()
    reader.join()
    assert problems == []


def test_a_second_change_waits_and_is_then_refused(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(change, "WAIT_S", 0.05)
    before = (bundle / "manifest.json").read_bytes()
    release = take_folder(bundle)
    assert release is not None
    assert_refused(command(cli, bundle, "--threshold", 9), 6, bundle, "another process is changing")
    Bundle.open(bundle)  # Readers do not wait.
    assert (bundle / "manifest.json").read_bytes() == before
    release()
    assert command(cli, bundle, "--threshold", 9).code == 0


def test_leftovers_of_killed_changes_are_removed(bundle: Path) -> None:
    listed = names(bundle)
    for name in (".manifest.0123abcd.json", ".manifest.76543210.sig"):
        (bundle / name).write_text("half")
    Bundle.open(bundle)
    assert command(cli, bundle, "--threshold", 9).code == 0
    assert names(bundle) == listed
    assert names(bundle.parent)[:1] == [bundle.name]  # No lock file next to the bundle.


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("place", ["fsync", "write", "rename"])
def test_failures_keep_the_old_manifest(bundle: Path, number: int, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before, listed = (bundle / "manifest.json").read_bytes(), names(bundle)

    def fail(*arguments: object, **_: object) -> None:
        raise OSError(number, os.strerror(number), str(arguments[0]) if place != "fsync" else None)

    targets = {"fsync": (files.os, "fsync"), "write": (Path, "write_text"), "rename": (Path, "replace")}
    monkeypatch.setattr(*targets[place], fail)
    assert_refused(command(cli, bundle, "--threshold", 9), 6, bundle / "manifest.json", os.strerror(number))
    monkeypatch.undo()
    assert (bundle / "manifest.json").read_bytes() == before
    assert names(bundle) == listed


def test_manifest_keeps_mode_and_owner(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.chmod(0o640)
    owner = (1234, 2345) if os.geteuid() == 0 else (os.getuid(), os.getgid())
    os.chown(path, *owner)
    assert command(cli, bundle, "--threshold", 9).code == 0
    status = path.stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (*owner, 0o640)


def test_read_only_bundle(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK and original(path, mode))
    assert_refused(command(cli, bundle, "--threshold", 9), 6, bundle, "read-only", "cmdiad-run --threshold")
    assert command(cli, bundle).code == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another account")
@pytest.mark.parametrize(("mode", "code", "words"), [(0o644, 6, "read-only for this"), (0o600, 4, "permission denied")])
@pytest.mark.seconds
def test_another_account(bundle: Path, mode: int, code: int, words: str) -> None:
    folder = Path(tempfile.mkdtemp())  # The folder of the tests is closed to other accounts.
    try:
        folder.chmod(0o755)
        shutil.copytree(bundle, folder / "a.cmdiad")
        (folder / "a.cmdiad" / "manifest.json").chmod(mode)
        ended = _as_nobody(folder / "a.cmdiad", *(["--threshold", "9"] if code == 6 else []))
    finally:
        shutil.rmtree(folder)
    assert ended.returncode == code, ended.stderr
    assert words in ended.stderr.lower()
    assert "damaged" not in ended.stderr


def _as_nobody(bundle: Path, *options: str) -> subprocess.CompletedProcess[str]:
    code = (
        "import os, sys; sys.path[:] = sys.argv.pop(1).split(':')\n"
        "from cmdiad_runtime.cli.threshold import main\n"
        "import cmdiad_runtime.bundle.threshold, cmdiad_runtime.bundle.change, scipy.special\n"
        "os.setgid(65534); os.setuid(65534); main()"
    )
    arguments = [sys.executable, "-c", code, ":".join(sys.path), str(bundle), *options]
    return subprocess.run(arguments, check=False, capture_output=True, text=True, cwd="/")


def test_missing_bundle(tmp_path: Path) -> None:
    assert_refused(command(cli, tmp_path / "none", "--threshold", 9), 4, tmp_path / "none", "manifest.json")
    (tmp_path / "file").write_text("x")
    assert_refused(command(cli, tmp_path / "file", "--threshold", 9), 4, tmp_path / "file")


# --- signatures


def test_a_changed_threshold_ends_the_signature(bundle: Path, tmp_path: Path) -> None:
    public = new_key(tmp_path / "line.key")
    assert command(sign_cli, bundle, "--key", tmp_path / "line.key").code == 0
    signed = (bundle / "manifest.json").read_bytes()
    ended = command(cli, bundle, "--threshold", 9)
    assert "does not match the changed manifest" in ended.err
    assert_refused(command(run_cli, bundle, "--require-signature", public), 4, "changed after signing")
    Bundle.open(bundle)
    assert command(cli, bundle, "--reset").code == 0
    assert (bundle / "manifest.json").read_bytes() == signed
    Bundle.open(bundle, require_signature=public)


def test_a_manifest_that_changes_while_it_is_signed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_key(tmp_path / "line.key")

    def sign(content: bytes, key: Path) -> bytes:
        old = Bundle.open(bundle)
        write_content(bundle, with_calibration(old, replace(old.calibration, score_threshold=1.0)))
        return b"0" * 64

    monkeypatch.setattr(change, "sign", sign)
    with pytest.raises(BundleError, match="changed while it was signed"):
        sign_bundle(bundle, tmp_path / "line.key")
    assert not (bundle / "manifest.sig").exists()


def test_signing_removes_leftovers_and_damaged_bundles_stay_unsigned(bundle: Path, tmp_path: Path) -> None:
    new_key(tmp_path / "line.key")
    (bundle / ".manifest.0123abcd.sig").touch()
    sign_bundle(bundle, tmp_path / "line.key")
    assert names(bundle) == ["golden.npz", "graph.onnx", "manifest.json", "manifest.sig"]
    flip_byte(bundle / "golden.npz")
    with pytest.raises(BundleError):
        sign_bundle(bundle, tmp_path / "line.key")


def test_folder_that_cannot_be_locked(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(change, "take_folder", refuse)
    with pytest.raises(OutputError, match="cannot be locked"):
        change_bundle(bundle, lambda old: old.calibration)


# --- killed at random moments: the long run is scripts/kill_bundles.py --trials 100


@pytest.mark.seconds
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("name", ["threshold", "write"])
@pytest.mark.failure_mode("A killed change of a threshold or export")
def test_killed_at_random_moments(name: str) -> None:
    arguments = [sys.executable, str(SCRIPTS / "kill_bundles.py"), "--command", name, "--trials", "14"]
    ended = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert signal.SIGKILL.name in ended.stdout


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.trains
def test_exports_killed_at_random_moments() -> None:
    arguments = [sys.executable, str(SCRIPTS / "kill_bundles.py"), "--command", "export", "--trials", "2"]
    ended = subprocess.run(arguments, check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
