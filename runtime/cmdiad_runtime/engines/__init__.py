"""Engines run a graph. Each is a module of its own behind the same three methods: open, run, close."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]
EngineName = Literal["cpu", "cuda"]


class Engine(Protocol):
    """What the inspector needs of an engine."""

    description: str
    """Library, version and device, for results and certificates."""

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """The graph's outputs by name for inputs by name; raises EngineError when the engine fails."""

    def close(self) -> None:
        """Give device memory back; `run` must not be called after."""


def open_engine(graph: Path, name: EngineName = "cpu") -> Engine:
    """Load a graph into an engine: "cpu" or "cuda" (both ONNX Runtime).

    Raises:
        EngineError: the engine is not installed, or the device is not there (never a silent fallback).
    """
    from cmdiad_runtime.engines.onnx_runtime import OnnxRuntimeEngine

    return OnnxRuntimeEngine.open(graph, name)
