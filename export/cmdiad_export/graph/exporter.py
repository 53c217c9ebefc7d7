"""The one graph: a detector as ONNX, bank included, strongly typed."""

from __future__ import annotations

import ast
import logging
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from onnx.external_data_helper import set_external_data
from onnxscript.optimizer import fold_constants
from torch import Tensor

from cmdiad_export.graph import in_full
from cmdiad_runtime.engines.graph_file import weights_path
from cmdiad_runtime.support.files import atomic_write
from cmdiad_train.detectors.bank.detector import Detector

OPSET = 18
SCOPES = "pkg.torch.onnx.name_scopes"
"""Where the exporter notes the modules that a node comes from, outermost first, and last the operation."""
OUTPUT_NAMES = ["score", "map"]
LARGE = 1 << 26
"""Bytes of weights and banks from which on they lie beside the graph."""
PAGE = 4096
"""What is mapped from a file starts at a multiple of it."""
FOLDED_NUMBERS = 1 << 21
"""What follows from weights alone is computed at export up to this size: any layer's weights, but no bank."""


@torch.no_grad()
def export_graph(
    detector: Detector,
    inputs: dict[str, Tensor],
    path: Path,
    *,
    opset: int = OPSET,
    single_precision_softmax: bool = False,
) -> None:
    """Write the detector as an ONNX graph.

    Inputs and outputs are named as in `Prepared.inputs` and `score` float32 `[1]`, `map` float32
    `[size, size]`. All shapes are static but the number of distinct rows of a cloud (`weights`' first axis).
    Nodes are named by the module that they come from, `features.0.extractor.model.conv1/node_conv2d`.

    Args:
        detector: in the precision that the graph shall have.
        inputs: network inputs of one sample, by name.
        path: the file to write.
        opset: of the graph's operators.
        single_precision_softmax: compute every softmax in fp32, also where what surrounds it is fp16.
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
            opset_version=opset,
            dynamo=True,
            dynamic_shapes=(shapes,),
            external_data=False,
            optimize=True,
            verbose=False,
        )
    assert program is not None
    fold_constants(program.model, input_size_limit=FOLDED_NUMBERS, output_size_limit=FOLDED_NUMBERS)
    model = program.model_proto
    _name_by_module(model)
    in_full.write_out(model)
    _halve_first_in_gelu(model)
    _strip(model)
    _loop_over_scans(model)
    if single_precision_softmax:
        _widen_softmax(model)
    onnx.checker.check_model(model, full_check=True)
    save_graph(model, path)


def save_graph(model: onnx.ModelProto, path: Path) -> None:
    """Write a model, with its weights beside it (`weights_path`) where it is large; the model stays as it was.

    ONNX Runtime reads a single file and then makes its tensors of it, so that for a moment it holds both; weights
    beside the graph it maps from disk.
    """
    weights = weights_path(path)
    large = [tensor for tensor in model.graph.initializer if len(tensor.raw_data) >= PAGE]
    contents = [tensor.raw_data for tensor in large]
    outside = sum(map(len, contents)) >= LARGE
    if outside:
        with atomic_write(weights) as temporary, temporary.open("wb") as file:
            for tensor, content in zip(large, contents, strict=True):
                file.write(bytes(-file.tell() % PAGE))
                set_external_data(tensor, weights.name, offset=file.tell(), length=len(content))
                tensor.ClearField("raw_data")
                file.write(content)
    with atomic_write(path) as temporary:
        temporary.write_bytes(model.SerializeToString(deterministic=True))
    if not outside:
        weights.unlink(missing_ok=True)
        return
    for tensor, content in zip(large, contents, strict=True):
        del tensor.external_data[:]
        tensor.ClearField("data_location")
        tensor.raw_data = content


def module_of(node: onnx.NodeProto) -> str:
    """The module that a node of an exported graph comes from, "" for the detector itself."""
    return node.name.rpartition("/")[0]


def _name_by_module(model: onnx.ModelProto) -> None:
    weights = {tensor.name for tensor in model.graph.initializer if tensor.name.endswith(".weight")}
    for node in model.graph.node:
        # A convolution that took up a BatchNorm carries that one's note, or none; its weight still tells.
        noted = next((ast.literal_eval(p.value)[-2] for p in node.metadata_props if p.key == SCOPES), "")
        module = next((name.removesuffix(".weight") for name in node.input if name in weights), noted)
        node.name = f"{module}/{node.name}" if module else node.name


def _halve_first_in_gelu(model: onnx.ModelProto) -> None:
    """Write x·(½·(1 + erf(x/√2))), as torch exports GELU, as (½·x)·(1 + erf(x/√2)), in place.

    ONNX Runtime takes only the latter for one operator, which is twice as fast. Halving is exact, so is the change.
    """
    makers = {name: node for node in model.graph.node for name in node.output}

    def made_by(name: str, operator: str) -> onnx.NodeProto | None:
        node = makers.get(name)
        return node if node is not None and node.op_type == operator else None

    for node in model.graph.node:
        if node.op_type != "Mul" or (halved := made_by(node.input[1], "Mul")) is None:
            continue
        half, raised = halved.input
        shifted = made_by(raised, "Add")
        if shifted is not None and made_by(shifted.input[0], "Erf") is not None:
            halved.input[:] = node.input[0], half
            node.input[:] = halved.output[0], raised


def _strip(model: onnx.ModelProto) -> None:
    """Remove what names this machine (source paths in node metadata)."""
    for graph in _graphs(model.graph):
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
        for value in [*graph.value_info, *graph.input, *graph.output]:
            del value.metadata_props[:]
        del graph.metadata_props[:]
    del model.metadata_props[:]


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and the bodies of its loops."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _graphs(attribute.g)


def _loop_over_scans(model: onnx.ModelProto) -> None:
    """Turn each Scan into a Loop that takes its own parts: TensorRT unrolls a Scan, and saves nothing by it.

    A part of a weight is sliced from it inside the loop. As torch writes it, the weight is cut and reshaped first,
    which onnxruntime does once, when it loads the graph, and keeps beside the weight itself.
    """
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    weights = set(shapes)
    shapes |= {
        value.name: [axis.dim_value for axis in value.type.tensor_type.shape.dim] for value in model.graph.value_info
    }
    makers = {name: node for node in model.graph.node for name in node.output}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Scan":
            nodes.append(node)
            continue
        scanned = next(attribute.i for attribute in node.attribute if attribute.name == "num_scan_inputs")
        carried, parts = node.input[:-scanned], node.input[-scanned:]
        rounds, start = f"{node.name}/rounds", f"{node.name}/start"
        model.graph.initializer.append(numpy_helper.from_array(np.array(shapes[parts[0]][0]), rounds))
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), start))
        sources = [(part, _sliced_weight(part, makers, weights), shapes[part]) for part in parts]
        inputs, body = [rounds, start, *carried], _loop_body(node, sources)
        nodes.append(helper.make_node("Loop", inputs, list(node.output), node.name, body=body))
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    _drop_unused_nodes(model.graph)


def _sliced_weight(part: str, makers: Mapping[str, onnx.NodeProto], weights: Collection[str]) -> str | None:
    """The weight that a scanned array is the reshaped front of, or None."""
    if part not in makers or makers[part].op_type != "Reshape":
        return None
    part = makers[part].input[0]
    if part in makers and makers[part].op_type == "Slice":
        part = makers[part].input[0]
    return part if part in weights else None


def _drop_unused_nodes(graph: onnx.GraphProto) -> None:
    """Remove nodes that nothing takes a result from, last first."""
    used = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if used.isdisjoint(node.output):
            continue
        kept.append(node)
        used |= {name for inner in _nodes(node) for name in inner.input}
    del graph.node[:]
    graph.node.extend(reversed(kept))


def _nodes(node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
    """A node and those in its bodies."""
    yield node
    for attribute in node.attribute:
        if attribute.type == onnx.AttributeProto.GRAPH:
            for inner in attribute.g.node:
                yield from _nodes(inner)


def _loop_body(scan: onnx.NodeProto, sources: Sequence[tuple[str, str | None, list[int]]]) -> onnx.GraphProto:
    """A Scan's body as that of a Loop over as many rounds.

    Args:
        scan: the node.
        sources: of each scanned array its name, the weight that it is the front of, and its shape.
    """
    body = next(attribute.g for attribute in scan.attribute if attribute.name == "body")
    carried, parts = body.input[: -len(sources)], body.input[-len(sources) :]
    index, go, going = (f"{scan.name}/{name}" for name in ("round", "go", "going"))
    taken: list[onnx.NodeProto] = []
    constants: list[onnx.TensorProto] = []
    for i, ((source, weight, shape), part) in enumerate(zip(sources, parts, strict=True)):
        name = f"{scan.name}/take_{i}"
        if weight is None:
            taken.append(helper.make_node("Gather", [source, index], [part.name], name, axis=0))
            continue
        names = [f"{name}/{what}" for what in ("length", "one", "axis", "from", "to", "at")]
        length, one, axis, first, last, at = names
        constants += [
            numpy_helper.from_array(np.array([shape[1]]), length),
            numpy_helper.from_array(np.array([1]), one),
            numpy_helper.from_array(np.array([0]), axis),
        ]
        taken += [
            helper.make_node("Reshape", [index, one], [at], f"{name}/reshape"),
            helper.make_node("Mul", [at, length], [first], f"{name}/first"),
            helper.make_node("Add", [first, length], [last], f"{name}/last"),
            helper.make_node("Slice", [weight, first, last, axis], [part.name], f"{name}/slice"),
        ]
    return helper.make_graph(
        [*taken, *body.node, helper.make_node("Identity", [go], [going], f"{scan.name}/on")],
        f"{scan.name}/body",
        [
            helper.make_tensor_value_info(index, onnx.TensorProto.INT64, []),
            helper.make_tensor_value_info(go, onnx.TensorProto.BOOL, []),
            *carried,
        ],
        [helper.make_tensor_value_info(going, onnx.TensorProto.BOOL, []), *body.output],
        initializer=[*body.initializer, *constants],
    )


def _widen_softmax(model: onnx.ModelProto) -> None:
    """Cast the operand of every fp16 softmax to fp32, and its result back."""
    types = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    nodes = []
    for node in model.graph.node:
        if node.op_type != "Softmax" or types.get(node.output[0]) != onnx.TensorProto.FLOAT16:
            nodes.append(node)
            continue
        given, found, wide = node.input[0], node.output[0], f"{node.output[0]}_fp32"
        single, half = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16
        node.input[0], node.output[0] = f"{given}_before_{found}", wide
        nodes.append(helper.make_node("Cast", [given], [node.input[0]], f"{node.name}/widen", to=single))
        nodes.append(node)
        nodes.append(helper.make_node("Cast", [wide], [found], f"{node.name}/narrow", to=half))
    del model.graph.node[:]
    model.graph.node.extend(nodes)


class _quiet_exporter:  # noqa: N801  (used as a verb)
    """The exporter logs at warning level what concerns only its authors."""

    def __enter__(self) -> None:
        self.loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
        self.levels = [logger.level for logger in self.loggers]
        for logger in self.loggers:
            logger.setLevel(logging.ERROR)

    def __exit__(self, *_: Any) -> None:
        for logger, level in zip(self.loggers, self.levels, strict=True):
            logger.setLevel(level)
