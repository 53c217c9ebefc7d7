"""int8 and fp8 graphs: explicit, symmetric Q/DQ around matrix products and convolutions, with static scales.

Why not onnxruntime's quantiser: its fp8 way (calibration by distribution) fails on clouds, whose arrays differ in
length, and clips at 4.5 standard deviations; it names no layer that export could keep in fp32.

A scale is the largest absolute value over the calibration samples, divided by the largest number of the type (what
TensorRT calls MinMax calibration): of the whole array for what is fed to a product, of each output channel for
int8 weights (fp8 weights have one scale; their exponent covers the channels).

What stays as it is: biases, the products of attention itself (both operands change), what sees coordinates in
metres, and the search. Its bank is fp16 with distances measured in fp32; an int8 copy for the candidates would come
on top of the rows that those distances need, and miss neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from cmdiad_export.graph.exporter import module_of
from cmdiad_export.precision.precision import Level, always_single, is_within
from cmdiad_runtime.errors import CertificateError
from cmdiad_train.detectors.bank.detector import Detector

Quantised = Literal["int8", "fp8"]
Arrays = Mapping[str, npt.NDArray[Any]]
Quantise = Callable[[onnx.ModelProto, "Sequence[Product]"], onnx.ModelProto]
"""Makes a copy of a graph with the chosen products quantised."""

LARGEST: dict[Quantised, float] = {"int8": 127.0, "fp8": 448.0}
OPSETS: dict[Quantised, int] = {"int8": 18, "fp8": 19}
"""Opset 19 was the first with fp8."""
NETWORKS = ("features", "hallucinated")
COORDINATES = 3
"""A matrix product over three channels sees coordinates in metres; what sees colours is a convolution."""


@dataclass(frozen=True)
class Product:
    """A convolution or matrix product with constant weights.

    Attributes:
        node: its name in the graph.
        module: that it comes from.
        kind: operator.
        given: name of the array that is fed to it.
        weight: name of its weights.
        axis: of the weights, along which the output channels lie.
        channels: that each sum of products runs over; of a convolution, at one place of its kernel.
    """

    node: str
    module: str
    kind: str
    given: str
    weight: str
    axis: int
    channels: int


def products(model: onnx.ModelProto) -> list[Product]:
    """What can be quantised, in the order of the graph: all products with constant weights but for coordinates'."""
    shapes = {tensor.name: list(tensor.dims) for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or not module_of(node).startswith(NETWORKS):
            continue
        given, weight = node.input[:2]
        if given in shapes or weight not in shapes or (node.op_type == "MatMul" and len(shapes[weight]) != 2):
            continue
        axis = _output_axis(node)
        channels = shapes[weight][1 - axis]
        if node.op_type != "Conv" and channels == COORDINATES:
            continue
        found.append(Product(node.name, module_of(node), node.op_type, given, weight, axis, channels))
    return found


def _output_axis(node: onnx.NodeProto) -> int:
    if node.op_type == "Conv":
        return 0
    transposed = any(a.name == "transB" and a.i for a in node.attribute)
    return 0 if transposed else 1


def largest_values(model: onnx.ModelProto, names: Collection[str], samples: Sequence[Arrays]) -> dict[str, float]:
    """The largest absolute value of each named array of the graph over the samples.

    Raises:
        CertificateError: an array holds NaN or infinity.
    """
    largest = dict.fromkeys(names, 0.0)
    if not largest:
        return largest
    session = session_showing(model, list(largest))
    for sample in samples:
        for name, values in zip(largest, session.run(list(largest), dict(sample)), strict=True):
            found = float(np.abs(values).max())
            if not np.isfinite(found):
                raise CertificateError(
                    f"{name}, inside the fp32 graph",
                    found="a value that is not finite",
                    expected="finite values in every calibration sample",
                    action="report this with the run's run.json",
                )
            largest[name] = max(largest[name], found)
    return largest


def session_showing(model: onnx.ModelProto, names: Collection[str]) -> Any:
    """A session of onnxruntime on the CPU that can also return the named arrays inside the graph."""
    import onnxruntime

    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    outputs = {value.name for value in model.graph.output}
    shown.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in outputs)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # As it is written, in fp32: no fused integer kernels, nor the removal of a Relu before fp8, which is wrong.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    return onnxruntime.InferenceSession(shown.SerializeToString(), options, providers=["CPUExecutionProvider"])


def quantised_levels(harm: Mapping[str, float]) -> list[Level]:
    """Levels that keep the 2, 4, 8 ... most harmful products, up to half of them: past that little is gained.

    Args:
        harm: of each product alone, by its node's name, from `harm_of_each`.
    """
    ranked, half = sorted(harm, key=lambda node: -harm[node]), len(harm) // 2
    counts = sorted({min(2**power, half) for power in range(1, half.bit_length() + 1)} - {0})
    return [Level(f"{count} products that do most harm alone", tuple(ranked[:count])) for count in counts]


def harm_of_each(
    model: onnx.ModelProto, quantised: Quantise, found: Sequence[Product], samples: Sequence[Arrays]
) -> dict[str, float]:
    """How far each product, were it alone quantised, moves the results, by its node's name.

    Largest over the samples of the change of a score, or of a map value, as a share of the fp32 graph's score or
    largest map value.
    """
    reference = [_results(model, sample) for sample in samples]
    harm = {}
    for product in found:
        alone = quantised(model, [product])
        results = (_results(alone, sample) for sample in samples)
        harm[product.node] = max(_harm(*pair) for pair in zip(results, reference, strict=True))
    return harm


def _results(model: onnx.ModelProto, sample: Arrays) -> list[npt.NDArray[Any]]:
    return session_showing(model, ()).run(["score", "map"], dict(sample))


def _harm(found: list[npt.NDArray[Any]], reference: list[npt.NDArray[Any]]) -> float:
    shares = [float(np.abs(f - r).max() / np.abs(r).max()) for f, r in zip(found, reference, strict=True)]
    return max(share if np.isfinite(share) else np.inf for share in shares)


def to_quantise(detector: Detector, found: Sequence[Product], level: Level) -> list[Product]:
    """The products that neither see metres nor are kept by a level."""
    kept = always_single(detector)
    return [p for p in found if p.node not in level.modules and not is_within(p.module, kept)]


def quantise(
    model: onnx.ModelProto, largest: Mapping[str, float], kind: Quantised, chosen: Sequence[Product]
) -> onnx.ModelProto:
    """A copy of an fp32 graph with Q/DQ at the inputs and weights of the chosen products.

    Args:
        model: of the opset in OPSETS.
        largest: of each product's given array, from `largest_values`.
        kind: type to quantise to.
        chosen: some of `products(model)`.
    """
    by_node = {product.node: product for product in chosen}
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer if t.name in {p.weight for p in chosen}}
    nodes, done = [], set()
    for node in graph.node:
        product = by_node.get(node.name)
        if product is not None:
            if product.given not in done:
                graph.initializer.extend(_scale(product.given, np.float32(largest[product.given]), kind))
                nodes += _pair(product.given, node.name)
            if product.weight not in done:
                graph.initializer.extend(_stored(product, weights[product.weight], kind))
                nodes.append(_dequantise(product.weight, f"{product.weight}_{kind}", node.name, product.axis))
            done |= {product.given, product.weight}
            node.input[0], node.input[1] = f"{product.given}_restored", f"{product.weight}_restored"
        nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)
    drop_unused(graph, set(weights))
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def _pair(given: str, node: str) -> list[onnx.NodeProto]:
    quantised = f"{given}_quantised"
    inputs = [given, f"{given}_scale", f"{given}_zero"]
    first = helper.make_node("QuantizeLinear", inputs, [quantised], f"{node}/quantise/{given}")
    return [first, _dequantise(given, quantised, node)]


def _dequantise(name: str, quantised: str, node: str, axis: int | None = None) -> onnx.NodeProto:
    """`axis` only matters where there is more than one scale."""
    inputs = [quantised, f"{name}_scale", f"{name}_zero"]
    made = helper.make_node("DequantizeLinear", inputs, [f"{name}_restored"], f"{node}/restore/{name}")
    if axis is not None:
        made.attribute.append(helper.make_attribute("axis", axis))
    return made


def _stored(product: Product, weight: npt.NDArray[np.float32], kind: Quantised) -> list[onnx.TensorProto]:
    """Scale, zero and quantised numbers of a product's weights."""
    others = tuple(axis for axis in range(weight.ndim) if axis != product.axis)
    largest = np.abs(weight).max(others if kind == "int8" else None)
    scale, zero = _scale(product.weight, largest, kind)
    shape = [1] * weight.ndim
    if kind == "int8":
        shape[product.axis] = -1
    scaled = weight / numpy_helper.to_array(scale).reshape(shape)
    return [scale, zero, _numbers(f"{product.weight}_{kind}", scaled, kind)]


def _scale(
    name: str, largest: npt.NDArray[np.float32] | np.float32, kind: Quantised
) -> tuple[onnx.TensorProto, onnx.TensorProto]:
    """Scale and zero point, which is 0 and says the type. What is always 0 gets the scale of 1."""
    scale = np.where(largest > 0, largest / np.float32(LARGEST[kind]), np.float32(1)).astype(np.float32)
    zero = _numbers(f"{name}_zero", np.zeros_like(scale), kind)
    return numpy_helper.from_array(scale, f"{name}_scale"), zero


def _numbers(name: str, scaled: npt.NDArray[np.float32], kind: Quantised) -> onnx.TensorProto:
    """Scaled values, rounded to the nearest numbers of the type (ties to even)."""
    clipped = np.clip(scaled, -LARGEST[kind], LARGEST[kind])
    if kind == "int8":
        return numpy_helper.from_array(np.rint(clipped).astype(np.int8), name)
    stored = torch.from_numpy(np.ascontiguousarray(clipped)).to(torch.float8_e4m3fn).view(torch.uint8).numpy()
    return helper.make_tensor(name, TensorProto.FLOAT8E4M3FN, list(scaled.shape), stored.tobytes(), raw=True)


def drop_unused(graph: onnx.GraphProto, names: set[str]) -> None:
    """Remove those of the named weights that no node takes."""
    used = {name for node in graph.node for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name not in names or tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)
