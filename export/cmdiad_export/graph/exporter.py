"""Export a detector as one strongly typed ONNX graph that contains its banks."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx_ir as ir
import torch
from onnx_ir.passes.common import CheckerPass, RemoveUnusedNodesPass
from onnxscript.optimizer import fold_constants
from torch import Tensor

from cmdiad_export.graph.batch import Batch
from cmdiad_export.graph.passes import (
    FoldHalfSquares,
    HalveFirstInGelu,
    LoopOverScans,
    NameByModule,
    SearchEveryCell,
    StripMetadata,
    WidenSoftmax,
    WriteOutFullSearch,
)
from cmdiad_export.graph.ports import OUTPUT_NAMES, Ports
from cmdiad_export.graph.storage import save_graph
from cmdiad_export.graph.torch_exporter import speed_up_torch_exporter
from cmdiad_train.detectors.family import TrainedDetector

OPSET = 18
FOLDED_NUMBERS = 1 << 21
"""Results of weights alone are computed at export up to this number of values: any layer's weights, but no bank."""
REWRITES = (
    RemoveUnusedNodesPass(),
    NameByModule(),
    WriteOutFullSearch(),
    FoldHalfSquares(),
    HalveFirstInGelu(),
    StripMetadata(),
    LoopOverScans(),
)
"""Passes over every graph, in this order: metadata is needed for names and removed afterwards."""


def export_graph(
    detector: TrainedDetector,
    inputs: dict[str, Tensor],
    path: Path,
    *,
    single_precision_softmax: bool = False,
) -> None:
    """Write a detector as an ONNX graph; see `graph_of` for the arguments.

    Raises:
        OutputError: The file cannot be written.
    """
    save_graph(graph_of(detector, inputs, single_precision_softmax=single_precision_softmax), path)


@torch.no_grad()
def graph_of(
    detector: TrainedDetector,
    inputs: dict[str, Tensor],
    *,
    opset: int = OPSET,
    single_precision_softmax: bool = False,
    batch: int | None = None,
) -> ir.Model:
    """Return a detector as an ONNX graph.

    Inputs are named as in `Prepared.inputs`. Outputs are `map` float32 `[size, size]`, or `[maps, size, size]`, and if
    the image score decides `score` float32 `[1]`. All shapes are static except the number of distinct rows of a cloud
    (first axis of `weights`) and the number of searched cells of an image of the part alone (`IMAGE_searched`, which
    may be left out; see `cmdiad_runtime.engines.searched_cells`). Nodes are named by the module that they come from,
    such as `features.0.extractor.model.conv1/node_conv2d`.

    The graph for several samples has all inputs and outputs once for each sample, numbered from 0: `rgb/0`, `rgb/1`,
    `map/0` (`cmdiad_runtime.engines.batch`).

    Args:
        detector: Detector in the precision of the graph.
        inputs: Network inputs of one sample, by name.
        opset: Version of the graph's operators.
        single_precision_softmax: Compute every softmax in fp32, including those between fp16 operators.
        batch: Number of samples of a graph for several; None for the graph for one sample.
    """
    ports = [Ports.of(detector, inputs, place) for place in ([None] if batch is None else range(batch))]
    speed_up_torch_exporter()
    with warnings.catch_warnings(), _quiet_exporter():
        warnings.simplefilter("ignore")  # The exporter warns about its own deprecations.
        program = torch.onnx.export(
            detector if batch is None else Batch(detector, batch).eval(),
            tuple(tensor for port in ports for tensor in port.inputs.values()),
            input_names=[name for port in ports for name in port.inputs],
            output_names=[name for port in ports for name in port.outputs],
            opset_version=opset,
            dynamo=True,
            dynamic_shapes=(tuple(shape for port in ports for shape in port.dynamic_shapes),),
            external_data=False,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    model = program.model
    fold_constants(model, input_size_limit=FOLDED_NUMBERS, output_size_limit=FOLDED_NUMBERS)
    if detector.verdict == "map":
        del model.graph.outputs[OUTPUT_NAMES.index("score") :: len(OUTPUT_NAMES)]
    grids = {name: grid for port in ports for name, grid in port.grids.items()}
    softmax = [WidenSoftmax()] if single_precision_softmax else []
    ir.passes.Sequential(*REWRITES, *softmax, SearchEveryCell(grids), CheckerPass(full_check=True))(model)
    return model


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence messages of the exporter that concern only its authors."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
