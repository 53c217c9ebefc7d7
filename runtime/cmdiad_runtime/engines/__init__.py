"""Engines that run a graph, each in a separate module behind the same three methods: open, run, close.

=================  ====================  =========================================================
name               module                what runs the graph
=================  ====================  =========================================================
``cpu``            ``onnx_runtime``      ONNX Runtime on the CPU
``cuda``           ``onnx_runtime``      ONNX Runtime, CUDA provider
``ort-tensorrt``   ``onnx_runtime``      ONNX Runtime, TensorRT provider
``ort-rtx``        ``onnx_runtime``      ONNX Runtime, TensorRT-RTX provider
``tensorrt``       ``tensorrt``          an engine that TensorRT built on this kind of device
``rtx``            ``tensorrt_rtx``      an engine that TensorRT-RTX built, possibly ahead of time
``triton``         ``triton``            a Triton server, which the line sends the prepared inputs to
=================  ====================  =========================================================

The name ``auto`` selects one of them: see `cmdiad_runtime.bundle.engine_selection`.
This module lists the names of engines, libraries and precisions for the whole project and imports no NumPy, so that
commands can offer the names without a delay.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, get_args

if TYPE_CHECKING:
    import numpy.typing as npt

Arrays: TypeAlias = "Mapping[str, npt.NDArray[Any]]"
"""Inputs or outputs of a graph by name."""

OnnxRuntimeName = Literal["cpu", "cuda", "ort-tensorrt", "ort-rtx"]
"""Engines that run the graph itself in ONNX Runtime."""
ONNX_RUNTIME_NAMES: tuple[OnnxRuntimeName, ...] = get_args(OnnxRuntimeName)
BuiltName = Literal["tensorrt", "rtx"]
"""Engines that run a file built from the graph."""
EngineName = Literal["auto", OnnxRuntimeName, BuiltName, "triton"]
ENGINE_NAMES: tuple[EngineName, ...] = get_args(EngineName)

EngineLibrary = Literal["tensorrt_rtx", "tensorrt"]
"""Libraries that build engines, by import name."""
LIBRARIES: dict[BuiltName, EngineLibrary] = {"tensorrt": "tensorrt", "rtx": "tensorrt_rtx"}
BUILT_NAMES: dict[EngineLibrary, BuiltName] = {library: name for name, library in LIBRARIES.items()}

Precision = Literal["fp32", "fp16", "int8", "int8-cpu", "fp8"]
"""Precisions of graphs."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
EnginePrecision = Literal["fp32", "fp16", "int8", "fp8"]
"""Precisions of graphs from which engines can be built: int8-cpu is for ONNX Runtime on a CPU only."""
ENGINE_PRECISIONS: tuple[EnginePrecision, ...] = get_args(EnginePrecision)


class Engine(Protocol):
    """A loaded graph. Use it from one thread at a time."""

    @property
    def description(self) -> str:
        """Return library, version, device and launch mode, for results and certificates."""

    @property
    def identity(self) -> str:
        """Return library, version and kind of device. A self-test is valid for engines of equal identity."""

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run the graph.

        Args:
            inputs: Input arrays by name, with the exact dtypes and shapes of the graph.

        Returns:
            Output arrays by name. They share no memory with the engine.

        Raises:
            NoAnswerError: A server did not answer for these inputs; a later run may succeed.
            EngineError: An input is missing, unknown, or has a wrong dtype or shape; or the engine failed or is closed.
        """

    def close(self) -> None:
        """Release device memory. Idempotent. A later `run` raises EngineError."""


def open_engine(graph: Path, name: OnnxRuntimeName = "cpu") -> Engine:
    """Load a graph into ONNX Runtime with exactly one provider.

    Args:
        graph: ONNX file.
        name: Engine to use.

    Raises:
        EngineError: The engine is not installed, or the device is missing. There is no silent fallback.
    """
    from cmdiad_runtime.engines.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine.open(graph, name)
