"""The loop over queries in doubt, which a proven search ends with, in the operators that every engine has."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
from onnx import parser

from cmdiad_train.detectors.bank.search.proven import IN_FULL, IN_FULL_AT_ONCE, IN_FULL_CANDIDATES

DOMAIN, OPERATION = IN_FULL.split("::")

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
        (int64 turn, bool go, int64[queries] found) => (bool going, int64[queries] corrected)
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
            corrected = ScatterElements <axis: int = 0> (found, part, chosen_row)
            going = Identity (go)
        }}>
}}
"""


def write_out(model: onnx.ModelProto) -> None:
    """Replace each `SearchInFull` of a model by its loop, in place.

    Queries are taken by doubt, most first, so that those in doubt are the first ones. The last turn may take some
    beyond; they are searched in full as well, which changes nothing. The bank is the left factor of the products, since
    ONNX Runtime keeps a rearranged copy of a constant right one.
    """
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes += _loop(node) if (node.domain, node.op_type) == (DOMAIN, OPERATION) else [node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    kept = [each for each in model.opset_import if each.domain != DOMAIN]
    del model.opset_import[:]
    model.opset_import.extend(kept)


def _loop(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    function = parser.parse_function(_LOOP)
    names = dict(zip([*function.input, *function.output], [*node.input, *node.output], strict=True))
    nodes = list(function.node)
    for each in nodes:
        _rename(each, names, node.name)
    return nodes


def _rename(node: onnx.NodeProto, names: Mapping[str, str], prefix: str) -> None:
    """Give a node, and those of its body, names and values of their own; `names` are those that are given."""

    def named(value: str) -> str:
        return names.get(value, f"{prefix}/{value}") if value else ""

    node.name = f"{prefix}/{node.output[0]}"
    node.input[:], node.output[:] = map(named, node.input), map(named, node.output)
    for attribute in node.attribute:
        if attribute.type != onnx.AttributeProto.GRAPH:
            continue
        for value in (*attribute.g.input, *attribute.g.output):
            value.name = named(value.name)
        for inner in attribute.g.node:
            _rename(inner, names, prefix)
