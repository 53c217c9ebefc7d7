"""Turn each Scan into a Loop, which TensorRT does not unroll."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass


class LoopOverScans(ir.passes.InPlacePass):
    """Turn each Scan into a Loop that takes its slices itself: TensorRT unrolls a Scan, which saves no memory.

    A slice of a weight is cut inside the loop. As torch writes the graph, the weight is cut and reshaped before the
    Scan; ONNX Runtime does that once when it loads the graph, and then keeps the reshaped weight in addition.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        scans = [node for node in model.graph if node.op_type == "Scan"]
        for scan in scans:
            _replace(model.graph, scan)
        if scans:
            RemoveUnusedNodesPass()(model)
        return ir.passes.PassResult(model, modified=bool(scans))


def _replace(graph: ir.Graph, scan: ir.Node) -> None:
    scanned = scan.attributes["num_scan_inputs"].as_int()
    carried, parts = scan.inputs[:-scanned], scan.inputs[-scanned:]
    rounds = _constant(graph, f"{scan.name}/rounds", np.array(_axis(parts[0], 0)))
    start = _constant(graph, f"{scan.name}/start", np.array(True))
    body = scan.attributes["body"].as_graph()
    _make_loop_body(body, f"{scan.name}", parts)
    outputs = [ir.val(None) for _ in scan.outputs]
    attributes = [ir.AttrGraph("body", body)]
    loop = ir.Node("", "Loop", [rounds, start, *carried], attributes, outputs=outputs, name=scan.name)
    ir.convenience.replace_nodes_and_values(graph, scan, [scan], [loop], scan.outputs, loop.outputs)


def _make_loop_body(body: ir.Graph, name: str, parts: Sequence[ir.Value | None]) -> None:
    """Turn the body of a Scan into that of a Loop over the same number of rounds, in place."""
    slices = list(body.inputs)[-len(parts) :]
    index = ir.val(f"{name}/round", ir.DataType.INT64, [])
    go = ir.val(f"{name}/go", ir.DataType.BOOL, [])
    going = ir.val(f"{name}/going", ir.DataType.BOOL, [])
    taken: list[ir.Node] = []
    for number, (part, sliced) in enumerate(zip(parts, slices, strict=True)):
        body.inputs.remove(sliced)
        result = ir.val(sliced.name, sliced.dtype, sliced.shape)
        ir.convenience.replace_all_uses_with(sliced, result, replace_graph_outputs=True)
        taken += _take(body, f"{name}/take_{number}", part, index, result)
    for node in reversed(taken):
        body.insert_before(body[0], node) if len(body) else body.append(node)
    body.append(ir.node("Identity", [go], outputs=[going], name=f"{name}/on"))
    body.inputs[:0] = [index, go]
    body.outputs.insert(0, going)
    body.name = f"{name}/body"


def _take(body: ir.Graph, name: str, part: ir.Value | None, index: ir.Value, result: ir.Value) -> list[ir.Node]:
    """Return the nodes that take the slice of one round from a scanned array or from the weight behind the array."""
    weight = _sliced_weight(part)
    if weight is None:
        return [ir.node("Gather", [part, index], {"axis": 0}, outputs=[result], name=name)]
    length = _constant(body, f"{name}/length", np.array([_axis(part, 1)]))
    one, axis = _constant(body, f"{name}/one", np.array([1])), _constant(body, f"{name}/axis", np.array([0]))
    at, first, last = (ir.val(f"{name}/{place}", ir.DataType.INT64, [1]) for place in ("at", "from", "to"))
    return [
        ir.node("Reshape", [index, one], outputs=[at], name=f"{name}/reshape"),
        ir.node("Mul", [at, length], outputs=[first], name=f"{name}/first"),
        ir.node("Add", [first, length], outputs=[last], name=f"{name}/last"),
        ir.node("Slice", [weight, first, last, axis], outputs=[result], name=f"{name}/slice"),
    ]


def _sliced_weight(part: ir.Value | None) -> ir.Value | None:
    """Return the weight whose leading rows, reshaped, are the scanned array, or None."""
    reshape = part.producer() if part is not None else None
    if reshape is None or reshape.op_type != "Reshape":
        return None
    source = reshape.inputs[0]
    cut = source.producer() if source is not None else None
    if cut is not None and cut.op_type == "Slice":
        source = cut.inputs[0]
    return source if source is not None and source.is_initializer() else None


def _axis(value: ir.Value | None, axis: int) -> int:
    assert value is not None
    assert value.shape is not None
    return int(value.shape[axis])  # type: ignore[arg-type]


def _constant(graph: ir.Graph, name: str, array: npt.NDArray[np.generic]) -> ir.Value:
    """Add a constant to a graph."""
    value = ir.val(name, const_value=ir.tensor(array, name=name))
    graph.register_initializer(value)
    return value
