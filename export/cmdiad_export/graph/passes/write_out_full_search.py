"""Write the search of queries in doubt as a loop of standard operators."""

from __future__ import annotations

import onnx_ir as ir
from onnx import parser  # reads the loop below from text, which onnx_ir cannot

from cmdiad_train.detectors.bank.search.proven import IN_FULL, IN_FULL_AT_ONCE, IN_FULL_CANDIDATES

DOMAIN, OPERATION = IN_FULL.split("::")

GRAPH = ir.AttributeType.GRAPH

_LOOP = f"""
<domain: "{DOMAIN}", opset_import: ["" : 18]>
{OPERATION} (leading, rest, row_leading, row_rest, half_squares, index, doubt) => (nearest)
{{
    one = Constant <value_ints: ints = [1]> ()
    first_axis = Constant <value_ints: ints = [0]> ()
    at_once = Constant <value_ints: ints = [{IN_FULL_AT_ONCE}]> ()
    fill = Constant <value_ints: ints = [{IN_FULL_AT_ONCE - 1}]> ()
    few = Constant <value_ints: ints = [{IN_FULL_CANDIDATES}]> ()
    third_axis = Constant <value_ints: ints = [2]> ()
    last = Constant <value_ints: ints = [-1]> ()
    a_length = Constant <value_ints: ints = [0, 0, 0, 1]> ()
    nothing = Constant <value_float: float = 0.0> ()
    start = Constant <value = bool {{1}}> ()

    queries_in_all = Shape (doubt)
    as_row = Unsqueeze (doubt, first_axis)
    most_first, order_row = TopK <axis: int = 1> (as_row, queries_in_all)
    order = Squeeze (order_row, first_axis)
    doubted = Greater (doubt, nothing)
    counted = Cast <to: int = 7> (doubted)
    count = ReduceSum <keepdims: int = 1> (counted, first_axis)
    filled = Add (count, fill)
    rounds_1 = Div (filled, at_once)
    rounds = Squeeze (rounds_1, first_axis)
    less = Neg (half_squares)
    bias = Unsqueeze (less, one)
    beside_length = Pad (leading, a_length, nothing)
    nearest = Loop (rounds, start, index) <body = body
        (int64 turn, bool go, int64[queries] nearest_so_far) => (bool going, int64[queries] corrected)
        {{
            turn_1 = Reshape (turn, one)
            from = Mul (turn_1, at_once)
            to = Add (from, at_once)
            part = Slice (order, from, to, first_axis)
            asked_leading = Gather (beside_length, part)
            asked_rest = Gather (rest, part)
            keys_of_leading = Gemm <transB: int = 1> (row_leading, asked_leading, bias)
            keys_of_rows = Gemm <transB: int = 1> (row_rest, asked_rest, keys_of_leading)
            keys = Transpose <perm: ints = [1, 0]> (keys_of_rows)
            largest, candidates = TopK <axis: int = 1> (keys, few)
            asked_leading_again = Unsqueeze (asked_leading, one)
            asked_rest_again = Unsqueeze (asked_rest, one)
            measured_leading = Gather (row_leading, candidates)
            measured_rest = Gather (row_rest, candidates)
            difference_leading = Sub (asked_leading_again, measured_leading)
            difference_rest = Sub (asked_rest_again, measured_rest)
            counted_leading = Slice (difference_leading, first_axis, last, third_axis)
            square_leading = Mul (counted_leading, counted_leading)
            square_rest = Mul (difference_rest, difference_rest)
            squared_leading = ReduceSum <keepdims: int = 0> (square_leading, third_axis)
            squared_rest = ReduceSum <keepdims: int = 0> (square_rest, third_axis)
            squared = Add (squared_leading, squared_rest)
            smallest, position = TopK <axis: int = 1, largest: int = 0> (squared, one)
            chosen = GatherElements <axis: int = 1> (candidates, position)
            chosen_row = Squeeze (chosen, one)
            corrected = ScatterElements <axis: int = 0> (nearest_so_far, part, chosen_row)
            going = Identity (go)
        }}>
}}
"""


class WriteOutFullSearch(ir.passes.InPlacePass):
    """Replace each `SearchInFull`, with which a proven search ends, by a loop over the queries in doubt.

    Queries are sorted by doubt, largest first, so those in doubt come first. The last round may contain queries without
    doubt; searching them in full changes nothing. The bank is the left factor of the products, because ONNX Runtime
    keeps a rearranged copy of a constant right factor.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        searches = [node for node in model.graph if (node.domain, node.op_type) == (DOMAIN, OPERATION)]
        for node in searches:
            nodes, nearest = _loop(node)
            ir.convenience.replace_nodes_and_values(model.graph, node, [node], nodes, node.outputs, [nearest])
        model.opset_imports.pop(DOMAIN, None)
        return ir.passes.PassResult(model, modified=bool(searches))


def _loop(node: ir.Node) -> tuple[list[ir.Node], ir.Value]:
    """Return the nodes of the loop for one search, and the value with the nearest rows."""
    function = ir.serde.deserialize_function(parser.parse_function(_LOOP))
    for inner in function.all_nodes():
        inner.name = f"{node.name}/{inner.outputs[0].name}"
        bodies = [attribute.as_graph() for attribute in inner.attributes.values() if attribute.type == GRAPH]
        for value in (*inner.outputs, *(value for body in bodies for value in body.inputs)):
            value.name = f"{node.name}/{value.name}"
    for value, operand in zip(function.inputs, node.inputs, strict=True):
        assert operand is not None
        ir.convenience.replace_all_uses_with(value, operand)
    nodes, (nearest,) = list(function), function.outputs
    function.outputs.clear()
    function.remove(nodes)
    return nodes, nearest
