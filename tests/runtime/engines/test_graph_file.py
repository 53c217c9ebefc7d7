"""The files of a graph."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmdiad_runtime.engines.graph_file import graph_bytes, graph_digest, weights_path
from cmdiad_runtime.support.files import sha256_of


def test_a_graph_alone(tmp_path: Path) -> None:
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(b"graph")
    assert graph_digest(graph) == sha256_of(graph)
    assert graph_bytes(graph) == 5


def test_a_graph_with_weights_is_told_by_both(tmp_path: Path) -> None:
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(b"graph")
    digests = {graph_digest(graph)}
    for content in (b"", b"weights", b"other weights"):
        weights_path(graph).write_bytes(content)
        digests.add(graph_digest(graph))
        assert graph_bytes(graph) == 5 + len(content)
    graph.write_bytes(b"other")
    assert len({*digests, graph_digest(graph)}) == 5


def test_a_missing_graph(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        graph_digest(tmp_path / "graph.onnx")
