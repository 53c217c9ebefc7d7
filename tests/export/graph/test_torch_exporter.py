"""Faster exports: the graph is that of the exporter without our changes, and rules are tried where they can match."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnx_ir as ir
import pytest
import torch
from onnxscript import rewriter
from onnxscript.rewriter import RewriteRule
from torch import nn
from torch.onnx._internal.exporter._registration import ONNXRegistry

from cmdiad_export.graph.exporter import export_graph
from cmdiad_export.graph.torch_exporter import _last_operator, speed_up_torch_exporter
from cmdiad_train.runs.run import load_run
from kept_exports import kept


def test_graphs_are_those_of_the_unchanged_exporter(
    trained: Callable[..., Path], exported: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, graph = load_run(trained("rgb", "f2f")), exported("rgb", "f2f") / "graph.onnx"
    inputs = {name: run.golden[0].inputs[name] for name in run.detector.input_names}
    speed_up_torch_exporter()
    fast: Any = RewriteRule.try_rewrite
    monkeypatch.setattr(RewriteRule, "try_rewrite", fast.__wrapped__)
    cached: Any = ONNXRegistry.from_torchlib
    monkeypatch.setattr(ONNXRegistry, "from_torchlib", staticmethod(cached.__wrapped__))
    shared: Any = torch.onnx.export
    monkeypatch.setattr(torch.onnx, "export", kept(shared.__wrapped__, tmp_path))
    export_graph(run.detector, inputs, tmp_path / "usual.onnx")
    assert graph.read_bytes() == (tmp_path / "usual.onnx").read_bytes()
    # The tests keep graphs of equal detectors.
    monkeypatch.setattr(torch.export, "export", None)
    export_graph(load_run(trained("rgb", "f2f")).detector, inputs, tmp_path / "again.onnx")
    assert graph.read_bytes() == (tmp_path / "again.onnx").read_bytes()


class Product(nn.Module):
    """A module whose method the next test replaces."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values * 2


def product_with(factor: int) -> Callable[..., torch.Tensor]:
    return lambda self, values: values * factor


REPLACED: dict[str, Callable[..., torch.Tensor]] = {
    "constant": lambda self, values: values * 3,
    "another constant": lambda self, values: values * 4,
    "captured value": product_with(3),
    "another captured value": product_with(4),
}


@pytest.mark.parametrize("name", REPLACED)
def test_a_kept_graph_is_of_the_same_methods(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two methods with the same instructions may differ in a constant or in a variable from around them."""
    exported: list[nn.Module] = []
    program = SimpleNamespace(model=ir.Model(ir.Graph([], [], nodes=[], opset_imports={"": 20}), ir_version=10))

    def export(model: nn.Module, *_: object) -> SimpleNamespace:
        exported.append(model)
        return program

    once = kept(export, tmp_path)
    for other in (*REPLACED.values(), REPLACED[name]):
        monkeypatch.setattr(Product, "forward", other)
        once(Product(), (torch.zeros(1),))
    assert len(exported) == len(REPLACED)


def test_a_rule_is_tried_on_its_last_operator_only(monkeypatch: pytest.MonkeyPatch) -> None:
    speed_up_torch_exporter()
    rule: Any = next(rule for rule in rewriter._DEFAULT_REWRITE_RULES if _last_operator(rule) is not None)
    tried: list[Any] = []
    monkeypatch.setattr(RewriteRule, "match", lambda rule, model, graph, node, **_: tried.append(node))
    domain, name = _last_operator(rule) or ("", "")
    right, wrong = SimpleNamespace(domain=domain, op_type=name), SimpleNamespace(domain=domain, op_type=f"{name}2")
    for node in (right, wrong):
        assert rule.try_rewrite(None, None, node) is None
    assert tried == [right]
