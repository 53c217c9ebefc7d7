"""Reorder the product in GELU so that ONNX Runtime fuses it."""

from __future__ import annotations

import onnx_ir as ir


class HalveFirstInGelu(ir.passes.InPlacePass):
    """Write x·(½·(1 + erf(x/√2))), as torch exports GELU, as (½·x)·(1 + erf(x/√2)).

    ONNX Runtime replaces only the second form by one operator, which is twice as fast. Halving is exact, so the results
    are the same.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        modified = False
        for node in model.graph:
            if node.op_type != "Mul" or (halved := _maker(node.inputs[1], "Mul")) is None:
                continue
            half, raised = halved.inputs
            shifted = _maker(raised, "Add")
            if shifted is not None and _maker(shifted.inputs[0], "Erf") is not None:
                halved.replace_input_with(0, node.inputs[0])
                halved.replace_input_with(1, half)
                node.replace_input_with(0, halved.outputs[0])
                node.replace_input_with(1, raised)
                modified = True
        return ir.passes.PassResult(model, modified)


def _maker(value: ir.Value | None, operator: str) -> ir.Node | None:
    """Return the node that computes a value if it is of this operator, else None."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == operator else None
