"""Caches go to one stated place, or nowhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.cache import cache_folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, and no variable set."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.delenv("CMDIAD_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    return folder


def test_order_of_places(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cache_folder() == home / ".cache" / "cmdiad"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "cmdiad"
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "a" / "b"))
    assert cache_folder() == tmp_path / "a" / "b"
    assert (tmp_path / "a" / "b").is_dir()
    assert (tmp_path / "xdg" / "cmdiad").is_dir()


@pytest.mark.parametrize("value", ["", "relative/cache"])
def test_xdg_values_that_do_not_count(home: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert cache_folder() == home / ".cache" / "cmdiad"


def test_empty_variable_is_unset(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMDIAD_CACHE", "")
    assert cache_folder() == home / ".cache" / "cmdiad"


def test_nowhere_to_write_is_no_error(home: Path) -> None:
    (home / ".cache").write_text("a file where the folder should be")  # as root sees a read-only folder nowhere
    assert cache_folder() is None


def test_folder_without_permission(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".cache" / "cmdiad").mkdir(parents=True)
    monkeypatch.setattr("os.access", lambda *_: False)  # root may write anywhere, so the system is played
    assert cache_folder() is None


def test_user_without_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert cache_folder() is None


def test_named_folder_that_cannot_be_made(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "taken").write_text("")
    monkeypatch.setenv("CMDIAD_CACHE", str(home / "taken"))
    with pytest.raises(OutputError, match=r"CMDIAD_CACHE=.*taken: found a folder that cannot be created"):
        cache_folder()


def test_inspection_leaves_nothing_in_the_home_folder(
    home: Path, exported: Callable[..., Path], data: Path, tmp_path: Path
) -> None:
    """Neither ours nor our libraries': ONNX Runtime would keep an identifier there for what it reports to its maker."""
    image = next((data / "gear" / "test" / "good" / "rgb").iterdir())
    run = [sys.executable, "-c", "from cmdiad_runtime.cli.run import main; main()"]
    command = [*run, exported("rgb"), image, "--output", tmp_path / "out"]
    environment = {"HOME": str(home), "PYTHONPATH": ":".join(sys.path)}  # without CI, which silences it too
    ended = subprocess.run(command, check=False, capture_output=True, text=True, env=environment)
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "out" / "results.jsonl").exists()
    assert list(home.rglob("*")) == []
