"""TensorRT-RTX 1.7 or later, for engines built here or ahead of time on a machine without a GPU (RTX cards)."""

from __future__ import annotations

from pathlib import Path

from cmdiad_runtime.engines._tensorrt import TensorRtEngine
from cmdiad_runtime.engines.fingerprint import EngineFingerprint


def open_tensorrt_rtx(plan: Path, fingerprint: EngineFingerprint, graph_sha256: str) -> TensorRtEngine:
    """Load an engine file; see `TensorRtEngine.open`."""
    return TensorRtEngine.open("tensorrt_rtx", plan, fingerprint, graph_sha256)
