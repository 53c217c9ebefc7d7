"""A graph on disk: one ONNX file, and beside it the weights and banks of a large one, which are mapped, not read."""

from __future__ import annotations

import hashlib
from pathlib import Path

from cmdiad_runtime.support.files import sha256_of


def weights_path(graph: Path) -> Path:
    """Where the weights of a large graph lie: `graph.onnx` has `graph.weights`."""
    return graph.with_suffix(".weights")


def graph_bytes(graph: Path) -> int:
    """Size of a graph with its weights; OSError where it cannot be read."""
    weights = weights_path(graph)
    return graph.stat().st_size + (weights.stat().st_size if weights.exists() else 0)


def graph_digest(graph: Path) -> str:
    """`joint_digest` of a graph on disk; OSError where a file cannot be read."""
    return joint_digest(sha256_of(graph), weights_digest(graph))


def weights_digest(graph: Path) -> str | None:
    """SHA-256 of the weights beside a graph, None where there are none; OSError where they cannot be read."""
    weights = weights_path(graph)
    return sha256_of(weights) if weights.exists() else None


def joint_digest(graph_sha256: str, weights_sha256: str | None) -> str:
    """What tells a graph from all others: the SHA-256 of its file, or with weights beside it that of both hashes."""
    if weights_sha256 is None:
        return graph_sha256
    return hashlib.sha256(f"{graph_sha256} {weights_sha256}".encode()).hexdigest()
