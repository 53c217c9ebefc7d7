"""Files of a graph: one ONNX file, and for a large graph a weights file next to it, which is mapped, not read.

The bundles in a bundle for whichever sensors arrive may share one weights file, which lies in the folder around them.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from cmdiad_runtime.support.files import sha256_of
from cmdiad_runtime.support.pattern_folder import is_pattern_bundle

WEIGHTS = "graph.weights"
"""Name of the weights file of a bundle."""


def weights_path(graph: Path) -> Path:
    """Return the path of the weights of a large graph: `graph.weights` for `graph.onnx`.

    The file lies next to the graph, or is that of `shared_weights`.
    """
    beside = graph.with_suffix(".weights")
    shared = shared_weights(graph.parent) if beside.name == WEIGHTS else None
    return shared or beside


def shared_weights(folder: Path) -> Path | None:
    """Return the weights file that the bundle in a folder shares with the others of its pattern bundle, or None.

    A weights file in the folder of the bundle itself is never shared.
    """
    above = folder.absolute().parent
    if os.path.lexists(folder / WEIGHTS) or not is_pattern_bundle(above):
        return None
    return above / WEIGHTS if os.path.lexists(above / WEIGHTS) else None


def graph_bytes(graph: Path) -> int:
    """Return the size of a graph with its weights.

    Raises:
        OSError: The graph cannot be read.
    """
    weights = weights_path(graph)
    return graph.stat().st_size + (weights.stat().st_size if weights.exists() else 0)


def graph_digest(graph: Path) -> str:
    """Return the `joint_digest` of a graph on disk.

    Raises:
        OSError: A file cannot be read.
    """
    return joint_digest(sha256_of(graph), weights_digest(graph))


def weights_digest(graph: Path) -> str | None:
    """Return the SHA-256 of the weights file of a graph, or None without such a file.

    Raises:
        OSError: The file cannot be read.
    """
    weights = weights_path(graph)
    return sha256_of(weights) if weights.exists() else None


def joint_digest(graph_sha256: str, weights_sha256: str | None) -> str:
    """Return the hash that identifies a graph: the SHA-256 of its file, or with a weights file that of both hashes.

    Args:
        graph_sha256: Hash of the ONNX file, 64 lowercase hex digits.
        weights_sha256: Hash of the weights file, or None without one.
    """
    if weights_sha256 is None:
        return graph_sha256
    return hashlib.sha256(f"{graph_sha256} {weights_sha256}".encode()).hexdigest()
