"""Name each node by the module of the detector that it comes from."""

from __future__ import annotations

import ast

import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata key under which torch's exporter lists the modules of a node, outermost first, and last the operation."""


def module_of(node: ir.Node) -> str:
    """Return the module that a named node comes from, "" for the detector itself."""
    return (node.name or "").rpartition("/")[0]


class NameByModule(ir.passes.InPlacePass):
    """Put the module's name in front of each node's: `features.0.extractor.model.conv1/node_conv2d`."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Run the pass."""
        for node in model.graph:
            if module := _module_of_weight(node) or _noted_module(node):
                node.name = f"{module}/{node.name}"
        return ir.passes.PassResult(model, modified=True)


def _module_of_weight(node: ir.Node) -> str:
    """Return the module that owns the node's weight.

    A convolution that absorbed a BatchNorm carries the note of the BatchNorm or none; its weight still has the name of
    the convolution.
    """
    for value in node.inputs:
        if value is not None and value.is_initializer() and (value.name or "").endswith(".weight"):
            return (value.name or "").removesuffix(".weight")
    return ""


def _noted_module(node: ir.Node) -> str:
    scopes = node.metadata_props.get(SCOPES)
    return str(ast.literal_eval(scopes)[-2]) if scopes else ""
