"""ONNX Runtime on the CPU, or through its CUDA provider."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy.typing as npt

from cmdiad_runtime.engines import Arrays, EngineName
from cmdiad_runtime.errors import EngineError

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
INSTALL = {"cpu": 'pip install "cmdiad[cpu]"', "cuda": 'pip install "cmdiad[gpu]"'}


class OnnxRuntimeEngine:
    """A graph in an ONNX Runtime session with exactly one verified provider."""

    def __init__(self, session: Any, description: str, graph: Path) -> None:
        self._session = session
        self.description = description
        self._graph = graph

    @staticmethod
    def open(graph: Path, name: EngineName = "cpu") -> OnnxRuntimeEngine:
        """Load a graph.

        Raises:
            EngineError: onnxruntime is absent, cannot load the graph, or lacks the provider.
        """
        try:
            import onnxruntime as ort
        except ImportError as error:
            raise EngineError(
                "onnxruntime",
                found="no such package",
                expected="it for this engine",
                action=f"run {INSTALL[name]}",
            ) from error
        provider = PROVIDERS[name]
        if provider not in ort.get_available_providers():
            raise EngineError(
                "onnxruntime",
                found=f"providers {', '.join(ort.get_available_providers())}",
                expected=provider,
                action=f"run {INSTALL[name]} on a machine that has the device",
            )
        session = _open_session(ort, graph, provider)
        return OnnxRuntimeEngine(session, f"onnxruntime {ort.__version__}, {provider}", graph)

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """See Engine."""
        names = [output.name for output in self._session.get_outputs()]
        try:
            return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))
        except Exception as error:  # onnxruntime's exceptions share no public base
            raise EngineError(
                self._graph,
                found=str(error).splitlines()[0],
                expected="the graph to run",
                action="check that bundle and onnxruntime fit (export again with this version)",
            ) from error

    def close(self) -> None:
        """See Engine."""
        self._session = None


def _open_session(ort: Any, graph: Path, provider: str) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    if provider != PROVIDERS["cpu"]:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        session = ort.InferenceSession(str(graph), options, providers=[provider])
    except Exception as error:  # onnxruntime's exceptions share no public base
        raise EngineError(
            graph,
            found=str(error).splitlines()[0],
            expected=f"a graph that {provider} takes",
            action="check device and drivers, or export again",
        ) from error
    if session.get_providers()[0] != provider:
        raise EngineError(
            graph,
            found=f"a fallback to {session.get_providers()[0]}",
            expected=provider,
            action="check the drivers",
        )
    return session
