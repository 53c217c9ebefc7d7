"""Engines run a graph. Each is a module of its own behind the same three methods: open, run, close.

=================  ====================  =========================================================
name               module                what runs the graph
=================  ====================  =========================================================
``cpu``            ``onnx_runtime``      ONNX Runtime on the CPU
``cuda``           ``onnx_runtime``      ONNX Runtime, CUDA provider
``ort-tensorrt``   ``onnx_runtime``      ONNX Runtime, TensorRT provider
``ort-rtx``        ``onnx_runtime``      ONNX Runtime, TensorRT-RTX provider
``tensorrt``       ``tensorrt``          an engine that TensorRT built on this kind of device
``rtx``            ``tensorrt_rtx``      an engine that TensorRT-RTX built, possibly ahead of time
``auto``           ``choose``            the fastest of these that fits and has passed its self-test
=================  ====================  =========================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]
OnnxRuntimeName = Literal["cpu", "cuda", "ort-tensorrt", "ort-rtx"]
BuiltName = Literal["tensorrt", "rtx"]
EngineName = Literal["auto", "cpu", "cuda", "ort-tensorrt", "ort-rtx", "tensorrt", "rtx"]


class Engine(Protocol):
    """What the inspector needs of an engine. Use it from one thread at a time."""

    @property
    def description(self) -> str:
        """Library, version, device and how it is launched, for results and certificates."""

    @property
    def identity(self) -> str:
        """Library, version and kind of device: a self-test holds for engines of equal identity."""

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """The graph's outputs by name, arrays of their own, for inputs by name.

        Raises:
            EngineError: an input is missing, unknown or of another type or shape; the engine failed or is closed.
        """

    def close(self) -> None:
        """Give device memory back; once is enough, twice is allowed. `run` raises EngineError after it."""


def open_engine(graph: Path, name: OnnxRuntimeName = "cpu") -> Engine:
    """Load a graph into ONNX Runtime, with exactly one provider.

    Raises:
        EngineError: the engine is not installed, or the device is not there (never a silent fallback).
    """
    from cmdiad_runtime.engines.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine.open(graph, name)
