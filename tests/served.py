"""A plain graph as a model of a server, without a bundle around it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from cmdiad_fleet.serving.model_config import Placement, model_config
from cmdiad_runtime.engines.graph_file import graph_digest
from cmdiad_runtime.engines.served_model import ServedModel, served_model


def add_model(repository: Path, graph: Path, inputs: Mapping[str, np.ndarray]) -> ServedModel:
    """Add a graph to a model repository; the inputs warm the server up."""
    model = served_model(graph, graph.stem, graph_digest(graph))
    folder = repository / model.name
    for name in ("1", "warmup"):
        (folder / name).mkdir(parents=True)
    shutil.copy(graph, folder / "1" / "model.onnx")
    for name, array in inputs.items():
        (folder / "warmup" / name).write_bytes(array.tobytes())
    (folder / "config.pbtxt").write_text(model_config(model, graph.stem, Placement(), inputs), encoding="utf-8")
    return model
