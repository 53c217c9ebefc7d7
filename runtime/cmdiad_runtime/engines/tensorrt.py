"""Engines of TensorRT 10.3 to 11, built on this kind of device (Jetson, data-centre and other GPUs)."""

from __future__ import annotations

from pathlib import Path

from cmdiad_runtime.engines._tensorrt import TensorRtEngine
from cmdiad_runtime.engines.fingerprint import EngineFingerprint


def open_tensorrt(file: Path, fingerprint: EngineFingerprint, graph_sha256: str) -> TensorRtEngine:
    """Load an engine file; see `TensorRtEngine.open`."""
    return TensorRtEngine.open("tensorrt", file, fingerprint, graph_sha256)
