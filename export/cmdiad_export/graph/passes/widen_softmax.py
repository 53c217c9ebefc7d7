"""Compute softmax in fp32 inside an fp16 graph."""

from __future__ import annotations

import onnx_ir as ir


class WidenSoftmax(ir.passes.InPlacePass):
    """Cast the operand of every fp16 softmax to fp32 and the result back to fp16."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        graph, modified = model.graph, False
        for node in list(graph):
            narrow = node.outputs[0]
            if node.op_type != "Softmax" or narrow.dtype != ir.DataType.FLOAT16:
                continue
            _widen(graph, node, narrow)
            modified = True
        return ir.passes.PassResult(model, modified)


def _widen(graph: ir.Graph, node: ir.Node, narrow: ir.Value) -> None:
    operand, name = node.inputs[0], narrow.name
    before = ir.val(f"{name}_operand_fp32", ir.DataType.FLOAT, operand.shape if operand is not None else None)
    after = ir.val(name, narrow.dtype, narrow.shape)
    ir.convenience.replace_all_uses_with(narrow, after, replace_graph_outputs=True)
    narrow.name, narrow.dtype = f"{name}_fp32", ir.DataType.FLOAT
    widen = ir.node("Cast", [operand], {"to": ir.DataType.FLOAT}, outputs=[before], name=f"{node.name}/widen")
    node.replace_input_with(0, before)
    narrowing = ir.node("Cast", [narrow], {"to": ir.DataType.FLOAT16}, outputs=[after], name=f"{node.name}/narrow")
    graph.insert_before(node, widen)
    graph.insert_after(node, narrowing)
