"""Remove everything from a graph that names the exporting machine."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir.passes.common import ClearMetadataAndDocStringPass


class StripMetadata(ir.passes.InPlacePass):
    """Clear metadata and documentation of the model, its graphs, nodes and values: they contain source paths."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        ClearMetadataAndDocStringPass()(model)
        model.metadata_props.clear()
        for graph in model.graphs():
            for value in (*graph.inputs, *graph.outputs, *graph.initializers.values()):
                value.metadata_props.clear()
            for node in graph:
                for value in node.outputs:
                    value.metadata_props.clear()
        return ir.passes.PassResult(model, modified=True)
