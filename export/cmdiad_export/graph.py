"""The one graph: a detector as ONNX, bank included, strongly typed."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor

from cmdiad_train.detector import Detector

OPSET = 18
OUTPUT_NAMES = ["score", "map"]


@torch.no_grad()
def export_graph(detector: Detector, inputs: dict[str, Tensor], path: Path) -> None:
    """Write the detector as an ONNX graph.

    Inputs and outputs are named as in `Prepared.inputs` and `score` float32 `[1]`, `map` float32
    `[size, size]`. All shapes are static but the number of distinct rows of a cloud (`weights`' first axis).

    Args:
        detector: in the precision that the graph shall have.
        inputs: network inputs of one sample, by name.
        path: the file to write.
    """
    most = len(inputs["cells"]) + 1 if "cells" in inputs else 3  # unused then
    rows = torch.export.Dim("rows", min=2, max=most)
    shapes = tuple({0: rows} if name == "weights" else None for name in inputs)
    with warnings.catch_warnings(), _quiet_exporter():
        warnings.simplefilter("ignore")  # the exporter warns about its own deprecations
        program = torch.onnx.export(
            detector,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=OUTPUT_NAMES,
            opset_version=OPSET,
            dynamo=True,
            dynamic_shapes=(shapes,),
            external_data=False,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip(model)
    onnx.checker.check_model(model, full_check=True)
    onnx.save_model(model, str(path))


def _strip(model: onnx.ModelProto) -> None:
    """Remove what names this machine (source paths in node metadata)."""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in [*model.graph.value_info, *model.graph.input, *model.graph.output]:
        del value.metadata_props[:]
    del model.metadata_props[:]


class _quiet_exporter:  # noqa: N801  (used as a verb)
    """The exporter logs at warning level what concerns only its authors."""

    def __enter__(self) -> None:
        self.loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: Any) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
