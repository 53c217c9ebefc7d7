"""`cmdiad-build`: an engine on the device, without torch and onnx."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from cmdiad_runtime.bundle.built_engines import engines_of
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.site import site_place
from cmdiad_runtime.cli.build import cli
from doubles import install
from graphs import tiny_bundle
from helpers import assert_refused, command, flip_byte, python

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the tensorrt-rtx package"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tiny_bundle(tmp_path / "tiny.cmdiad")


@pytest.mark.parametrize(("target", "version"), [("tensorrt", "11.4.0.106"), ("rtx", "rtx-1.7.1.116")])
def test_it_builds_and_says_what_comes_next(
    bundle: Path, target: str, version: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(version, monkeypatch)
    ended = command(cli, bundle, "--target", target, "--engine", "fp32")
    assert ended.code == 0, ended.err
    assert ended.out == f"engine: {site_place(Bundle.open(bundle))}/{target}-fp32-sm86.engine\n"
    assert ended.err.startswith("building for compute capability 8.6 from ")
    assert f"next: cmdiad-run --self-test {bundle} --engine {target}\n" in ended.err
    assert "0.0 MB of scratch memory" in ended.err


def test_auto_prefers_tensorrt(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("rtx-1.7.1.116", monkeypatch)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert "rtx-fp32-sm86.engine" in command(cli, bundle).out
    install("10.3.0", monkeypatch)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert "tensorrt-fp32-sm86.engine" in command(cli, bundle).out


def test_another_precision_than_the_graphs_is_refused(bundle: Path) -> None:
    assert_refused(command(cli, bundle, "--engine", "fp16"), 5, bundle, "an fp32 graph", "--engine fp16")


def test_a_damaged_bundle_is_refused(bundle: Path) -> None:
    flip_byte(bundle / "graph.onnx")
    assert_refused(command(cli, bundle), 4, bundle / "graph.onnx")


def test_a_missing_library_names_the_command(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install("10.3.0", monkeypatch)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    assert_refused(command(cli, bundle, "--target", "tensorrt"), 5, "cmdiad[tensorrt]")


def test_tensorrt_without_a_device_is_an_error(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, _ = install("10.3.0", monkeypatch)
    monkeypatch.setattr(cuda, "cudaGetDevice", lambda: (2, None))
    assert_refused(command(cli, bundle, "--target", "tensorrt"), 5, "cudaGetDevice")


@pytest.mark.parametrize("arguments", [(), ("a", "b"), ("a", "--target", "onnx")])
def test_wrong_command_line(arguments: tuple[str, ...]) -> None:
    ended = command(cli, *arguments)
    assert ended.code == 2
    assert "Usage: tool" in ended.err


def test_export_build_is_the_same_command() -> None:
    code = """
import sys
sys.argv = ["cmdiad-export", "build", "--help"]
from cmdiad_export.cli import main
main()
"""
    assert python(code).startswith("Usage: cmdiad-export build [OPTIONS] BUNDLE")


def test_help_imports_no_numpy() -> None:
    code = """
import sys
from click.testing import CliRunner
from cmdiad_runtime.cli.build import cli
assert CliRunner().invoke(cli, ["--help"]).exit_code == 0
print([name for name in ("numpy", "tensorrt", "onnxruntime") if name in sys.modules])
"""
    assert python(code) == "[]\n"


@needs_rtx
@pytest.mark.rtx
@pytest.mark.seconds
def test_it_needs_neither_torch_nor_onnx(bundle: Path) -> None:
    """With TensorRT-RTX itself, and no device: ahead of time, Turing left out since the graph is fp32."""
    code = """
import sys
for name in ("torch", "onnx", "onnxscript", "timm", "onnxruntime", "sklearn", "safetensors", "cuda.bindings.runtime"):
    sys.modules[name] = None
sys.argv = ["cmdiad-build", sys.argv[1], "--target", "rtx"]
from cmdiad_runtime.cli.build import main
try: main()
except SystemExit as ended: assert ended.code == 0, ended.code
"""
    assert python(code, bundle) == f"engine: {site_place(Bundle.open(bundle))}/rtx-fp32-ahead.engine\n"
    (built,) = engines_of(Bundle.open(bundle), "tensorrt_rtx")
    built.fingerprint.check_file(built.path)
    assert built.fingerprint.compute_capabilities == (86, 89, 120)
    assert "7.5 left out" in built.fingerprint.note
