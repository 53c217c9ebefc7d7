"""The products of a graph that can be quantised, and sessions that show arrays inside a graph."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from cmdiad_export.graph.passes.name_by_module import module_of
from cmdiad_export.graph.storage import save_graph
from cmdiad_export.precision.levels import Level, is_within
from cmdiad_runtime.errors import CertificateError
from cmdiad_train.detectors.family import TrainedDetector

Arrays = Mapping[str, npt.NDArray[Any]]

COORDINATES = 3
"""A matrix product over three channels sees coordinates in metres; products over colours are convolutions."""


@dataclass(frozen=True)
class Product:
    """A convolution or matrix product with constant weights.

    Attributes:
        node: Name of the node in the graph.
        module: Name of the module that the node comes from.
        kind: Operator.
        operand: Name of the array that is multiplied with the weights.
        weight: Name of the weights.
        axis: Axis of the weights along which the output channels lie.
        channels: Number of terms in each sum of products; for a convolution, at one place of the kernel.
    """

    node: str
    module: str
    kind: str
    operand: str
    weight: str
    axis: int
    channels: int

    @property
    def columns(self) -> str:
        """Name of the weights with the direction of their output channels.

        A graph may multiply by one weight (MatMul) and by its transpose (Gemm); each has its own scales.
        """
        return f"{self.weight}/{self.axis}"


def network_roots(detector: TrainedDetector) -> tuple[str, ...]:
    """Return the top-level submodules that contain a detector's networks."""
    return tuple(dict.fromkeys(name.partition(".")[0] for name in detector.precision_parts().networks))


def products(model: ir.Model, roots: Collection[str]) -> list[Product]:
    """Return all products that can be quantised, in the order of the graph.

    Args:
        model: Graph with nodes named by module.
        roots: Submodules in which to look; see `network_roots`.
    """
    candidates = (_product(node) for node in model.graph if is_within(module_of(node), roots))
    return [product for product in candidates if product is not None]


def _product(node: ir.Node) -> Product | None:
    """Return a node as a product, or None if it is none, has no constant weights, or sees coordinates."""
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return None
    operand, weight = node.inputs[:2]
    assert operand is not None
    assert weight is not None
    if operand.is_initializer() or not weight.is_initializer():
        return None
    assert weight.shape is not None
    if node.op_type == "MatMul" and len(weight.shape) != 2:
        return None
    axis = _output_axis(node)
    channels = int(weight.shape[1 - axis])  # type: ignore[arg-type]
    if node.op_type != "Conv" and channels == COORDINATES:
        return None
    return Product(str(node.name), module_of(node), node.op_type, str(operand.name), str(weight.name), axis, channels)


def _output_axis(node: ir.Node) -> int:
    if node.op_type == "Conv":
        return 0
    transposed = node.attributes.get("transB")
    return 0 if transposed is not None and transposed.as_int() else 1


def to_quantise(detector: TrainedDetector, candidates: Sequence[Product], level: Level) -> list[Product]:
    """Return the products that neither always stay fp32 nor are kept in fp32 by a level."""
    kept = detector.precision_parts().always_single
    return [p for p in candidates if p.node not in level.modules and not is_within(p.module, kept)]


Range = tuple[float, float]
"""Smallest and largest value of an array over the calibration samples; 0 is always within."""


def value_ranges(model: ir.Model, names: Collection[str], samples: Sequence[Arrays]) -> dict[str, Range]:
    """Return the range of each named array of the graph over the samples.

    Raises:
        CertificateError: An array contains NaN or infinity.
    """
    ranges: dict[str, Range] = dict.fromkeys(names, (0.0, 0.0))
    if not ranges:
        return ranges
    for results in values_inside(model, list(ranges), samples):
        for name, values in zip(ranges, results, strict=True):
            least, largest = float(values.min()), float(values.max())
            if not np.isfinite((least, largest)).all():
                raise CertificateError(
                    f"{name}, inside the fp32 graph",
                    found="a value that is not finite",
                    expected="finite values in every calibration sample",
                    action="report this with the run's run.json",
                )
            ranges[name] = (min(ranges[name][0], least), max(ranges[name][1], largest))
    return ranges


def values_inside(model: ir.Model, names: Sequence[str], samples: Sequence[Arrays]) -> Iterator[list[npt.NDArray[Any]]]:
    """Yield for each sample the named arrays, which may lie inside the graph; ONNX Runtime computes them on the CPU."""
    import onnxruntime

    shown = model.clone()
    outputs = {value.name for value in shown.graph.outputs}
    values = {value.name: value for value in shown.graph.inputs}
    values |= {value.name: value for node in shown.graph for value in node.outputs}
    shown.graph.outputs.extend(values[name] for name in names if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # Compute the graph as written, in fp32: without fused integer kernels, and without the removal of a Relu before
    # fp8, which changes results.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    if any(node.op_type == "MatMulInteger" for node in shown.graph):
        # Without VNNI, only this option adds the products exactly (see `OwnWeights`), and BASIC leaves it out.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        options.add_session_config_entry("session.x64quantprecision", "1")
    with TemporaryDirectory(prefix="cmdiad-graph-", ignore_cleanup_errors=True) as folder:
        file = Path(folder) / "graph.onnx"
        save_graph(shown, file)  # From bytes, ONNX Runtime would hold the weights twice more.
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        try:
            for sample in samples:
                yield session.run(names, dict(sample))
        finally:
            del session  # Windows deletes no file that a session has mapped.
