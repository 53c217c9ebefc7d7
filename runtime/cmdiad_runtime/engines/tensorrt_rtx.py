"""Engines of TensorRT-RTX 1.7 or later for RTX cards, built on the device or ahead of time without a GPU."""

from __future__ import annotations

from pathlib import Path

from cmdiad_runtime.engines._tensorrt import TensorRtEngine
from cmdiad_runtime.engines.fingerprint import EngineFingerprint


def open_tensorrt_rtx(file: Path, fingerprint: EngineFingerprint, graph_sha256: str) -> TensorRtEngine:
    """Load an engine file; see `TensorRtEngine.open`."""
    return TensorRtEngine.open("tensorrt_rtx", file, fingerprint, graph_sha256)
