"""A bundle contains what its manifest lists, and nothing else: the signature covers everything that came with it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cmdiad_runtime.bundle import integrity
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.integrity import DEPTH_LIMIT, ENTRIES_LIMIT, IGNORED
from cmdiad_runtime.bundle.manifest import write_manifest
from cmdiad_runtime.bundle.signature import new_key
from cmdiad_runtime.cli.run import cli as run_cli
from cmdiad_runtime.cli.sign import cli as sign_cli
from cmdiad_runtime.errors import BundleError
from graphs import tiny_bundle
from helpers import assert_refused, command, rewrite_manifest
from patience import LIMIT_S


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny.cmdiad")


def relist(bundle: Path) -> None:
    """List all files in the manifest, as the export does."""
    content = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))
    write_manifest(bundle, {k: v for k, v in content.items() if k not in ("files", "manifest_sha256")})


UNLISTED = [
    "notes.txt",
    "graph.weights",
    "engines/tensorrt-fp32-sm86.engine",
    "engines/tensorrt-fp32-sm86.json",
    "engines/cpu.self-test.json",
    "deep/er/file",
    ".hidden",
    "manifest.json.bak",
    ".manifest.0123abcd.txt",
    "engines/.manifest.0123abcd.json",
    "engines/manifest.json",
    "._manifest.json",
    ".cmdiad.lock",
]


@pytest.mark.parametrize("name", UNLISTED)
@pytest.mark.failure_mode("A file that the manifest does not list")
def test_unlisted_files_are_refused_by_name(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"")
    words: list[object] = (
        ["no graph.weights among"] if name == "graph.weights" else [bundle / name, "manifest does not list"]
    )
    if name == "engines/manifest.json":
        words = [bundle / name]
    assert_refused(command(run_cli, bundle), 4, *words)


def test_several_unlisted_files_are_counted(bundle: Path) -> None:
    for name in ("a", "b", "c"):
        (bundle / name).touch()
    with pytest.raises(BundleError, match=r"tiny.cmdiad/a: found a file that the manifest does not list and 2 more"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", ["mask.png", "engines/rtx-fp32.engine", "a/b/c.npz", ".DS_Store"])
def test_listed_files_need_no_registration(bundle: Path, name: str) -> None:
    (bundle / name).parent.mkdir(parents=True, exist_ok=True)
    (bundle / name).write_bytes(b"content")
    relist(bundle)
    assert name in Bundle.open(bundle).record.files
    (bundle / name).write_bytes(b"another")
    with pytest.raises(BundleError, match="hash"):
        Bundle.open(bundle)


@pytest.mark.parametrize("name", [*IGNORED, ".manifest.0123abcd.json", ".manifest.0123abcd.sig"])
def test_files_that_are_never_read(bundle: Path, name: str) -> None:
    """Those of file managers, and a manifest that is being written while the bundle is opened."""
    (bundle / name).write_text("}")
    (bundle / "empty").mkdir()
    Bundle.open(bundle)


@pytest.mark.parametrize("name", IGNORED)
def test_never_read_does_not_mean_any_kind(bundle: Path, name: str) -> None:
    os.mkfifo(bundle / name)
    with pytest.raises(BundleError, match="a pipe"):
        Bundle.open(bundle)


def _socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # The path of a socket has at most 107 bytes.
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


KINDS: dict[str, tuple[Callable[[Path], object], str]] = {
    "pipe": (os.mkfifo, "a pipe"),
    "socket": (_socket, "a socket"),
    "link to a file": (lambda path: path.symlink_to("manifest.json"), "a link"),
    "link to a folder": (lambda path: path.symlink_to(".."), "a link"),
    "loop": (lambda path: path.symlink_to(path.name), "a link"),
    "link to nothing": (lambda path: path.symlink_to("nothing"), "a link"),
    "link outside": (lambda path: path.symlink_to("/dev/zero"), "a link"),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["graph.onnx", "golden.npz", "extra", "engines/extra"])
@pytest.mark.failure_mode("A link, pipe, socket or device in a bundle")
def test_anything_but_files_and_folders_is_refused(bundle: Path, name: str, kind: str) -> None:
    (bundle / "engines").mkdir()
    (bundle / name).unlink(missing_ok=True)
    make, word = KINDS[kind]
    make(bundle / name)
    assert_refused(command(run_cli, bundle), 4, bundle / name, word, "only files and folders")


@pytest.mark.parametrize("kind", KINDS)
def test_manifest_of_another_kind(bundle: Path, kind: str) -> None:
    (bundle / "manifest.json").unlink()
    make, _ = KINDS[kind]
    if kind == "link to a file":
        shutil.copy(tiny_bundle(bundle.parent / "other.cmdiad") / "manifest.json", bundle / "other.json")
        (bundle / "manifest.json").symlink_to("other.json")
    else:
        make(bundle / "manifest.json")
    assert_refused(command(run_cli, bundle), 4, bundle / "manifest.json", "not a file")


def test_manifest_that_is_a_folder_or_without_end(bundle: Path) -> None:
    with (bundle / "manifest.json").open("r+b") as file:
        file.truncate(4 << 30)
    assert_refused(command(run_cli, bundle), 4, bundle / "manifest.json", "more than")
    (bundle / "manifest.json").unlink()
    (bundle / "manifest.json").mkdir()
    assert_refused(command(run_cli, bundle), 4, bundle / "manifest.json", "a folder")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make devices")
def test_devices(bundle: Path) -> None:
    try:
        os.mknod(bundle / "null", 0o666 | 0o020000, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("no devices in this container")
    with pytest.raises(BundleError, match="a device"):
        Bundle.open(bundle)


def test_signature_of_another_kind(bundle: Path, tmp_path: Path) -> None:
    public = new_key(tmp_path / "line.key")
    os.mkfifo(bundle / "manifest.sig")
    with pytest.raises(BundleError, match=r"manifest\.sig"):
        Bundle.open(bundle, require_signature=public)
    with pytest.raises(BundleError, match="a pipe"):
        Bundle.open(bundle)


def test_hard_links_are_files(bundle: Path, tmp_path: Path) -> None:
    """The content is hashed, so another name of the file does no harm; a new threshold stays in this bundle."""
    from cmdiad_runtime.cli.threshold import cli as threshold_cli

    os.link(bundle / "manifest.json", tmp_path / "copy.json")
    before = (tmp_path / "copy.json").read_bytes()
    assert command(threshold_cli, bundle, "--threshold", 9).code == 0
    assert (tmp_path / "copy.json").read_bytes() == before
    assert Bundle.open(bundle).calibration.score_threshold == 9


def test_bundle_behind_a_link(bundle: Path, tmp_path: Path) -> None:
    from cmdiad_runtime.cli.threshold import cli as threshold_cli

    (tmp_path / "current").symlink_to(bundle)
    assert command(threshold_cli, tmp_path / "current", "--threshold", 9).code == 0
    assert Bundle.open(bundle).calibration.score_threshold == 9


def test_many_and_deep_folders(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle / "/".join("a" * (DEPTH_LIMIT + 2))).mkdir(parents=True)
    with pytest.raises(BundleError, match="deeper"):
        Bundle.open(bundle)
    shutil.rmtree(bundle / "a")
    monkeypatch.setattr(integrity, "ENTRIES_LIMIT", 20)
    assert ENTRIES_LIMIT > 20
    for number in range(20):
        (bundle / str(number)).mkdir()
    with pytest.raises(BundleError, match="more than 20 files"):
        Bundle.open(bundle)


def test_names_that_are_no_text(bundle: Path) -> None:
    Path(os.fsdecode(os.fsencode(bundle) + b"/teil_\xfc")).touch()
    assert_refused(command(run_cli, bundle), 4, "manifest does not list")


def test_no_text_of_the_manifest_becomes_a_path(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes are compared with those of the files before anything is made of them."""
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))
    for value in ("../../../../tmp/x", "/etc", "0" * 64, "..", "A" * 64):
        rewrite_manifest(bundle, partial(_set_graph_hash, value))
        assert_refused(command(run_cli, bundle, "--self-test"), 4, bundle / "manifest.json")
    assert not (tmp_path / "cache").exists()


def _set_graph_hash(value: str, manifest: dict[str, Any]) -> None:
    manifest["graph"]["sha256"] = value


# --- what an attacker adds to a signed bundle


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    private = tmp_path / "line.key"
    return private, new_key(private)


@pytest.mark.failure_mode("A forged self-test or engine in a signed bundle")
def test_forged_self_test_in_a_signed_bundle(bundle: Path, keys: tuple[Path, Path], tmp_path: Path) -> None:
    """On another kind of machine the CPU needs a self-test here; one that came with the bundle is not taken."""
    from cmdiad_runtime.bundle.engine_selection import choose_engine
    from cmdiad_runtime.bundle.self_test import has_passed, run_self_test, write_self_test

    opened = Bundle.open(bundle)
    chosen = choose_engine(opened, "cpu", untested=True)
    record = write_self_test(opened, run_self_test(opened, chosen.engine, chosen.name, chosen.file_sha256))
    chosen.engine.close()
    passed = (chosen.name, chosen.engine.identity, chosen.file_sha256)
    assert has_passed(opened, *passed)
    (bundle / "engines").mkdir()
    names = ("cpu.self-test.json", record.name)
    for name in names:
        shutil.copy(record, bundle / "engines" / name)
    record.unlink()
    assert not has_passed(opened, *passed)
    assert command(sign_cli, bundle, "--key", keys[0]).code == 4
    relist(bundle)  # Even the owner of the key cannot pass a test for another machine.
    assert command(sign_cli, bundle, "--key", keys[0]).code == 0
    assert not has_passed(Bundle.open(bundle, require_signature=keys[1]), *passed)


def test_engine_and_label_added_to_a_signed_bundle(bundle: Path, keys: tuple[Path, Path]) -> None:
    assert command(sign_cli, bundle, "--key", keys[0]).code == 0
    Bundle.open(bundle, require_signature=keys[1])
    (bundle / "engines").mkdir()
    (bundle / "engines" / "rtx-fp32-sm86.engine").write_bytes(b"code")
    for options in ((), ("--require-signature", keys[1])):
        assert_refused(command(run_cli, bundle, *options), 4, "rtx-fp32-sm86.engine", "manifest does not list")


@pytest.mark.seconds
@pytest.mark.failure_mode("A manifest that is a pipe")
def test_no_pipe_holds_up_any_command(bundle: Path, tmp_path: Path) -> None:
    """Every command ends by itself, in a process of its own."""
    (bundle / "manifest.json").unlink()
    os.mkfifo(bundle / "manifest.json")
    change, sign = ("threshold", "--threshold", "2"), ("sign", "--key", "x")
    for module, *options in (("run",), ("threshold",), change, ("build",), sign):
        code = f"from cmdiad_runtime.cli.{module} import main; main()"
        ended = subprocess.run(
            [sys.executable, "-c", code, str(bundle), *options],
            check=False, capture_output=True, text=True, timeout=LIMIT_S, cwd=tmp_path,
        )  # fmt: skip
        assert ended.returncode == 4, ended.stderr
        assert "a pipe, not a file" in ended.stderr
