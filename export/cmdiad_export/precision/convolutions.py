"""int8 convolutions for processors: uint8 arrays with one step and one zero point each, int8 weights, static scales.

ONNX Runtime computes a convolution with integer instructions (QLinearConv) if its operand, its weights, its bias and
its result are quantised, and keeps uint8 arrays between convolutions, sums and concatenations. A Relu or Clip between a
convolution and the quantisation of its result is part of the quantisation: numbers below 0 are below the smallest step.

Arrays are unsigned, with the zero point of Jacob et al. 2018, section 2.1: x86-64 multiplies unsigned by signed
numbers, and signed by signed takes twice as long. Range and zero point of an array come from calibration samples.
Weights are symmetric with one scale per output channel. A bias has the scale of the sums that it is added to.

Inside the networks, every node reads the quantised array. Nodes outside, such as cosine distances, read fp32.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import CheckerPass

from cmdiad_export.graph.passes.name_by_module import module_of
from cmdiad_export.precision.levels import is_within
from cmdiad_export.precision.products import Product, Range
from cmdiad_export.precision.quantise import constant, drop_unused

KIND = "Conv"
STEPS = 255
LARGEST = 127
_RECTIFIERS = ("Relu", "Clip")
_TINY = 1e-30
"""Smallest range of an array: an array of zeros is divided by a step of this range."""


def arrays_of(model: ir.Model, chosen: Sequence[Product]) -> list[str]:
    """Return the names of the operands and the results of the chosen convolutions, each once."""
    return list(_arrays(_nodes(model, {product.node for product in chosen})))


def quantise_convolutions(
    model: ir.Model, ranges: Mapping[str, Range], chosen: Sequence[Product], networks: Collection[str]
) -> ir.Model:
    """Return a copy of an fp32 graph whose chosen convolutions multiply int8 numbers.

    Args:
        model: Graph of opset 18 or later, with BatchNorms folded into the convolutions.
        ranges: Range of each array in `arrays_of(model, chosen)`.
        chosen: Convolutions among `products(model, ...)`.
        networks: Submodules in which all nodes read quantised arrays.
    """
    copy = model.clone()
    ir.passes.Sequential(QuantiseConvolutions(ranges, chosen, networks), CheckerPass(full_check=True))(copy)
    return copy


class QuantiseConvolutions(ir.passes.InPlacePass):
    """Quantise operands, weights, biases and results of convolutions, and restore each in front of its users.

    Args:
        ranges: Range of each operand and result.
        chosen: Convolutions to quantise.
        networks: Submodules in which all nodes read quantised arrays.
    """

    def __init__(self, ranges: Mapping[str, Range], chosen: Sequence[Product], networks: Collection[str]) -> None:
        super().__init__()
        self._ranges, self._networks = ranges, networks
        self._chosen = {product.node: product for product in chosen}

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        graph, nodes = model.graph, _nodes(model, self._chosen)
        scales = {name: self._pass_through_uint8(graph, value) for name, value in _arrays(nodes).items()}
        for node in nodes:
            product = self._chosen[str(node.name)]
            _quantise_weights(graph, node, product, scales[product.operand])
        drop_unused(graph, {product.weight for product in self._chosen.values()})
        return ir.passes.PassResult(model, modified=bool(nodes))

    def _pass_through_uint8(self, graph: ir.Graph, value: ir.Value) -> np.float32:
        """Quantise an array and restore it for the nodes of the networks. Return the size of a step."""
        name = str(value.name)
        scale, zero = _steps(self._ranges[name])
        constants = [constant(f"{name}/scale", np.array(scale)), constant(f"{name}/zero", np.array(zero))]
        for stored in constants:
            graph.register_initializer(stored)
        quantised, restored = ir.val(f"{name}/uint8"), ir.val(f"{name}/restored")
        users = [use for use in value.uses() if is_within(module_of(use.node), self._networks)]
        producer = value.producer()
        steps = [
            ir.node("QuantizeLinear", [value, *constants], outputs=[quantised], name=f"{name}/quantise"),
            ir.node("DequantizeLinear", [quantised, *constants], outputs=[restored], name=f"{name}/restore"),
        ]
        for use in users:
            use.node.replace_input_with(use.idx, restored)
        if producer is None:
            graph.insert_before(graph[0], steps)
        else:
            graph.insert_after(producer, steps)
        return scale


def _nodes(model: ir.Model, names: Collection[str]) -> list[ir.Node]:
    return [node for node in model.graph if node.name in names]


def _arrays(nodes: Sequence[ir.Node]) -> dict[str, ir.Value]:
    """Return operands and results of convolutions by name."""
    values = [value for node in nodes for value in (node.inputs[0], _result(node))]
    return {str(value.name): value for value in values if value is not None}


def _result(node: ir.Node) -> ir.Value:
    """Return the result of a convolution, behind its Relu or Clip if nothing else reads it."""
    (result,) = node.outputs
    consumers = list(result.consumers())
    if len(consumers) == 1 and consumers[0].op_type in _RECTIFIERS and not result.is_graph_output():
        return consumers[0].outputs[0]
    return result


def _steps(limits: Range) -> tuple[np.float32, np.uint8]:
    """Return the size of a step and the number that stands for 0, so that 0 is exact."""
    least, largest = limits
    scale = max(largest - least, _TINY) / STEPS
    return np.float32(scale), np.uint8(np.rint(-least / scale))


def _quantise_weights(graph: ir.Graph, node: ir.Node, product: Product, operand_scale: np.float32) -> None:
    """Store weights as int8 and the bias as int32, and restore both in front of their convolution."""
    scale, numbers = _int8(graph.initializers[product.weight])
    _restore_constant(graph, node, 1, product.weight, [numbers, scale])
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        assert bias.const_value is not None
        limit, sum_scale = np.iinfo(np.int32).max, operand_scale * scale
        sums = np.rint(bias.const_value.numpy().astype(np.float64) / sum_scale)
        sums = np.clip(sums, -limit, limit).astype(np.int32)
        _restore_constant(graph, node, 2, f"{node.name}/bias", [sums, sum_scale])


def _int8(weight: ir.Value) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int8]]:
    """Return the scale of each output channel and the quantised numbers of kernels `[channels, ...]`."""
    assert weight.const_value is not None
    kernels = weight.const_value.numpy()
    largest = np.abs(kernels).reshape(len(kernels), -1).max(1)
    scale = np.where(largest > 0, largest / LARGEST, 1).astype(np.float32)
    return scale, np.rint(kernels / scale.reshape(-1, *[1] * (kernels.ndim - 1))).astype(np.int8)


def _restore_constant(
    graph: ir.Graph, node: ir.Node, index: int, name: str, stored: Sequence[npt.NDArray[np.generic]]
) -> None:
    """Replace an input of a node by numbers with one scale per channel. Nodes with the same weights share them."""
    numbers, scale = stored
    values = []
    for kind, array in (("numbers", numbers), ("scale", scale), ("zero", np.zeros(len(scale), numbers.dtype))):
        if f"{name}/{kind}" not in graph.initializers:
            graph.register_initializer(constant(f"{name}/{kind}", array))
        values.append(graph.initializers[f"{name}/{kind}"])
    restored = ir.val(f"{node.name}/restored_{index}")
    step = ir.node("DequantizeLinear", values, {"axis": 0}, outputs=[restored], name=f"{node.name}/restore_{index}")
    graph.insert_before(node, step)
    node.replace_input_with(index, restored)
