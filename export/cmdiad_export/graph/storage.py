"""Write a graph to disk: one file, or for a large graph one file and its weights next to it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from cmdiad_runtime.engines.graph_file import weights_path
from cmdiad_runtime.support.files import atomic_write

LARGE = 1 << 26
"""Weights and banks of at least this many bytes in total are stored in a separate file."""
PAGE = 4096
"""Alignment in bytes of arrays in the separate file, so that each can be mapped; smaller arrays stay in the graph."""


def save_graph(model: ir.Model, path: Path) -> None:
    """Write a model, with the weights in `weights_path(path)` if they are large. The model stays as it was.

    ONNX Runtime maps separate weights from disk. A single file is read and then copied into tensors, so that for a
    moment both are in memory.

    Raises:
        OutputError: The file cannot be written.
    """
    weights = weights_path(path)
    stored = (value.const_value for value in model.graph.initializers.values())
    large = sum(tensor.nbytes for tensor in stored if tensor is not None and tensor.nbytes >= PAGE)
    with atomic_write(path) as temporary:
        ir.save(
            model,
            temporary,
            format="protobuf",
            external_data=weights.name if large >= LARGE else None,
            size_threshold_bytes=PAGE - 1,
            alignment=PAGE,
            align_threshold=0,
        )
    if large < LARGE:
        weights.unlink(missing_ok=True)
