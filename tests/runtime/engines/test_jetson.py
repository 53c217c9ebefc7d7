"""A Jetson is recognised without loading anything, and sent to TensorRT where ONNX Runtime has no kernel for it."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cmdiad_runtime.bundle.engine_selection import choose_engine
from cmdiad_runtime.engines import _jetson, onnx_runtime, open_engine
from cmdiad_runtime.engines._jetson import jetson_model, refuse_on_jetson
from cmdiad_runtime.errors import EngineError

ORIN = b"NVIDIA Jetson AGX Orin Developer Kit\0"
DEVICES = ["cuda", "ort-tensorrt", "ort-rtx"]


def _machine(root: Path, **files: bytes) -> Path:
    """A root folder with these files; `__` in a name stands for a slash."""
    for name, content in files.items():
        path = root / name.replace("__", "/").replace("device_tree", "device-tree")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return root


class Wheel:
    """Stands in for the installed onnxruntime-gpu."""

    version = "1.31.1"

    def __init__(self, tag: str) -> None:
        self._tag = tag

    def read_text(self, name: str) -> str:
        assert name == "WHEEL"
        return f"Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: {self._tag}\n"


@pytest.mark.parametrize(
    ("files", "model"),
    [
        ({"proc__device_tree__model": ORIN}, "NVIDIA Jetson AGX Orin Developer Kit"),
        (
            {
                "proc__device_tree__model": b"NVIDIA IGX Orin Developer Kit\0",
                "proc__device_tree__compatible": b"nvidia,p3701-0008\0nvidia,tegra234\0",
            },
            "NVIDIA IGX Orin Developer Kit",
        ),
        ({"etc__nv_tegra_release": b"# R39 (release), REVISION: 2.0\n"}, "NVIDIA Jetson"),
        ({"proc__device_tree__model": b"Raspberry Pi 5 Model B Rev 1.0\0"}, None),
        ({}, None),
    ],
)
def test_model_of_a_machine(tmp_path: Path, files: dict[str, bytes], model: str | None) -> None:
    assert jetson_model(_machine(tmp_path, **files)) == model


def test_wheels_of_pypi_are_refused_with_the_way_to_tensorrt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_jetson, "distribution", lambda name: Wheel("cp312-cp312-manylinux_2_34_aarch64"))
    with pytest.raises(EngineError) as caught:
        refuse_on_jetson("CUDAExecutionProvider", _machine(tmp_path, proc__device_tree__model=ORIN))
    assert str(caught.value) == (
        "NVIDIA Jetson AGX Orin Developer Kit: found onnxruntime-gpu 1.31.1 of PyPI, and PyPI's wheels have no kernel "
        "for this GPU. Expected the TensorRT of JetPack instead of CUDAExecutionProvider. Run cmdiad-build BUNDLE "
        "--target tensorrt, then cmdiad-run BUNDLE --self-test --engine tensorrt."
    )


def test_wheels_for_jetpack_are_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_jetson, "distribution", lambda name: Wheel("cp310-cp310-linux_aarch64"))
    refuse_on_jetson("CUDAExecutionProvider", _machine(tmp_path, proc__device_tree__model=ORIN))


def test_other_machines_are_not_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_jetson, "distribution", lambda name: Wheel("cp312-cp312-manylinux_2_34_aarch64"))
    refuse_on_jetson("CUDAExecutionProvider", tmp_path)


@pytest.mark.parametrize("name", DEVICES)
def test_refused_before_the_library_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: Any) -> None:
    root = _machine(tmp_path, proc__device_tree__model=ORIN)
    monkeypatch.setattr(onnx_runtime, "refuse_on_jetson", partial(refuse_on_jetson, root=root))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # an import would be another error
    with pytest.raises(EngineError, match=r"Jetson AGX Orin .*: found no onnxruntime-gpu, and PyPI's .*tensorrt\."):
        open_engine(tmp_path / "graph.onnx", name)


def test_automatic_choice_takes_the_processor(
    own_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmdiad_runtime.bundle import engine_selection
    from cmdiad_runtime.bundle.bundle import Bundle

    root = _machine(tmp_path / "root", proc__device_tree__model=ORIN)
    monkeypatch.setattr(onnx_runtime, "refuse_on_jetson", partial(refuse_on_jetson, root=root))
    monkeypatch.setattr(engine_selection, "was_tested", lambda bundle, name: True)
    chosen = choose_engine(Bundle.open(own_bundle), "auto")
    assert chosen.name == "cpu"
    assert "PyPI's wheels have no kernel for this GPU" in chosen.passed_over["cuda"]
    chosen.engine.close()
