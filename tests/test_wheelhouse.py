"""Every dependency of the runtime has a binary wheel for every box, and a folder of them installs without network."""

from __future__ import annotations

import itertools
import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name, parse_wheel_filename

from helpers import flip_byte

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "scripts" / "wheelhouse"
MACHINES = ["x86_64", "aarch64"]
PYTHONS = ["3.10", "3.11", "3.12"]
ENGINES = {"onnxruntime", "onnxruntime-gpu", "tensorrt", "tensorrt-rtx"}
HEAVY = {"torch", "timm", "onnx", "scikit-learn", "torchvision"}


def _wheelhouse(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def _pip(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, arguments)]
    return subprocess.run(command, check=False, capture_output=True, text=True)


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The package index; skips where it cannot be reached."""
    ended = _pip("download", "--quiet", "--no-deps", "--dest", tmp_path_factory.mktemp("probe"), "click")
    if ended.returncode:
        pytest.skip(f"no package index in reach: {ended.stderr.strip()[-200:]}")


def _pins(machine: str, python: str, *options: str) -> list[str]:
    ended = _wheelhouse("--platform", f"linux-{machine}", "--python", python, "--dry-run", *options)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


def _files_pip_would_take(pins: list[str], machine: str, python: str, folder: Path) -> list[dict[str, Any]]:
    """pip's own opinion: for each pin the file it would install on that platform, with its metadata."""
    tags = [f"manylinux2014_{machine}", *(f"manylinux_2_{minor}_{machine}" for minor in range(17, 29))]
    platforms = [part for tag in tags for part in ("--platform", tag)]
    target = ["--target", folder / "t", "--implementation", "cp", "--python-version", python, *platforms]
    report = folder / "report.json"
    options = ["--quiet", "--dry-run", "--ignore-installed", "--no-deps", "--only-binary=:all:", "--report", report]
    ended = _pip("install", *options, *target, *pins)
    assert ended.returncode == 0, ended.stderr
    return json.loads(report.read_text())["install"]


def _target_environment(machine: str, python: str) -> dict[str, str]:
    return {"platform_machine": machine, "python_version": python, "python_full_version": f"{python}.0", "extra": ""}


@pytest.mark.slow
@pytest.mark.long  # test_list_names_every_wheel_with_its_hash finds a wheel of every dependency for this machine.
@pytest.mark.parametrize(("machine", "python"), list(itertools.product(MACHINES, PYTHONS)))
def test_every_dependency_has_a_wheel(index: None, machine: str, python: str, tmp_path: Path) -> None:
    """Resolved by uv, checked by pip (tags) and against the metadata of every wheel (completeness on the target)."""
    taken = _files_pip_would_take(
        _pins(machine, python, "--extra", "cpu", "--extra", "signature"), machine, python, tmp_path
    )
    versions = {canonicalize_name(f["metadata"]["name"]): f["metadata"]["version"] for f in taken}
    assert {
        "click",
        "filelock",
        "numpy",
        "pillow",
        "scipy",
        "tifffile",
        "onnxruntime",
        "cryptography",
    } <= versions.keys()
    assert not HEAVY & versions.keys()
    for file in taken:
        name, _, _, tags = parse_wheel_filename(file["download_info"]["url"].rsplit("/", 1)[-1])
        assert {tag.platform == "any" or tag.platform.endswith(machine) for tag in tags} == {True}, name
        assert SpecifierSet(file["metadata"].get("requires_python") or "").contains(f"{python}.5"), name
        for line in file["metadata"].get("requires_dist") or []:
            needed = Requirement(line)
            if needed.marker is None or needed.marker.evaluate(_target_environment(machine, python)):
                assert needed.specifier.contains(versions[canonicalize_name(needed.name)]), (name, line)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize(("jetpack", "python", "cuda"), [("jetpack6", "3.10", "12"), ("jetpack7", "3.12", "13")])
def test_jetson_brings_its_own_tensorrt(index: None, jetpack: str, python: str, cuda: str) -> None:
    versions = dict(pin.split("==") for pin in _pins("aarch64", python, "--extra", jetpack))
    assert versions["cuda-bindings"].startswith(f"{cuda}.")
    assert not versions.keys() & (ENGINES | HEAVY)


@pytest.mark.slow
@pytest.mark.long
def test_rtx_for_x86_64_only(index: None) -> None:
    names = {pin.split("==")[0] for pin in _pins("x86_64", "3.12", "--extra", "rtx")}
    assert {"tensorrt-rtx", "tensorrt-rtx-cu13-libs"} <= names
    ended = _wheelhouse("--platform", "linux-aarch64", "--python", "3.12", "--extra", "rtx", "--dry-run")
    assert ended.returncode == 5
    assert "cmdiad[rtx] for linux-aarch64, Python 3.12: found no wheelhouse: uv says" in ended.stderr


@pytest.fixture(scope="module")
def wheels(index: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheelhouse for this machine and this Python."""
    folder = tmp_path_factory.mktemp("wheels") / "wheelhouse"
    here = f"linux-{platform.machine()}"
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    ended = _wheelhouse("--platform", here, "--python", python, "--out", folder)
    assert ended.returncode == 0, ended.stderr
    assert f"pip install --no-index --find-links {folder}" in ended.stdout
    return folder


def _install_offline(wheels: Path, environment: Path) -> subprocess.CompletedProcess[str]:
    """Into a new virtual environment, with neither index nor configuration nor compiler in reach."""
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    outside = {"PATH": str(environment / "bin"), "HOME": str(environment), "PIP_CONFIG_FILE": os.devnull}
    options = ["--no-cache-dir", "--no-index", "--find-links", wheels, "--require-hashes"]
    command = [environment / "bin" / "pip", "install", *options, "-r", wheels / "requirements.txt"]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=outside)


@pytest.mark.slow
@pytest.mark.long
def test_offline_installation_runs_a_self_test(wheels: Path, exported: Callable[..., Path], tmp_path: Path) -> None:
    bundle = exported("rgb")
    installed = _install_offline(wheels, tmp_path / "venv")
    assert installed.returncode == 0, installed.stderr
    command = [tmp_path / "venv" / "bin" / "cmdiad-run", bundle]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path, env={"HOME": "/"})
    assert ended.returncode == 0, ended.stderr
    assert "self-test passed" in ended.stdout
    listed = _pip("--python", tmp_path / "venv" / "bin" / "python", "list", "--format", "json").stdout
    assert not HEAVY & {canonicalize_name(each["name"]) for each in json.loads(listed)}


@pytest.mark.slow
def test_list_names_every_wheel_with_its_hash(wheels: Path, tmp_path: Path) -> None:
    lines = (wheels / "requirements.txt").read_text().splitlines()
    assert len(lines) == len(list(wheels.glob("*.whl")))
    assert {path.suffix for path in wheels.iterdir()} == {".whl", ".txt"}
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+ --hash=sha256:[0-9a-f]{64}", line) for line in lines)


@pytest.mark.slow
@pytest.mark.long
def test_damaged_wheel_is_refused(wheels: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in wheels.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    flip_byte(next(copy.glob("click-*.whl")))
    refused = _install_offline(copy, tmp_path / "venv")
    assert refused.returncode != 0
    assert "DO NOT MATCH THE HASHES" in refused.stderr


def test_folder_that_exists(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    ended = _wheelhouse("--platform", "linux-aarch64", "--python", "3.10", "--out", tmp_path)
    assert ended.returncode == 6
    assert "a folder that is not empty" in ended.stderr


def test_unknown_extra() -> None:
    ended = _wheelhouse("--platform", "linux-aarch64", "--python", "3.10", "--extra", "nonsense", "--dry-run")
    assert ended.returncode == 5
    assert "nonsense" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--platform", "linux-riscv64", "--python", "3.10"],
        ["--platform", "linux-aarch64", "--python", "3.13"],
        ["--python", "3.10"],
    ],
)
def test_wrong_command_line(arguments: list[str]) -> None:
    assert _wheelhouse(*arguments).returncode == 2
