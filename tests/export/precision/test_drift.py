"""Who is to blame."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor, nn

from cmdiad_export.precision.casting import to_precision
from cmdiad_export.precision.drift import Culprits, Drift, module_drift, product_drift, relative_error
from cmdiad_export.precision.products import products
from cmdiad_export.precision.quantise import OPSETS
from cmdiad_export.precision.reduction import QuantisedGraphs
from cmdiad_train.runs.run import load_run

Cached = Callable[..., Path]


def network(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers = [nn.Linear(16, 16) for _ in range(4)]
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh()))).eval()


def inputs() -> list[Tensor]:
    return [torch.linspace(-1, 1, 128).reshape(8, 16)]


def test_relative_error() -> None:
    expected = np.array([3.0, -4.0])
    assert relative_error(np.array([3.5, -4.0]), expected) == pytest.approx(0.5 / math.sqrt(12.5))
    assert relative_error(expected, expected) == 0
    assert relative_error(np.array([np.nan, 1]), expected) == math.inf
    assert relative_error(np.zeros(2), np.zeros(2)) == 0
    assert relative_error(np.ones(2), np.zeros(2)) == math.inf


def test_equal_networks_do_not_drift() -> None:
    assert {drift.error for drift in module_drift(network(), network(), inputs())} == {0}


@pytest.mark.parametrize("layer", ["0", "2", "6"])
def test_a_spoiled_layer_is_the_first_to_drift(layer: str) -> None:
    spoiled = network()
    with torch.no_grad():
        spoiled.get_submodule(layer).weight[3] *= 1.5
    drifts = module_drift(network(), spoiled, inputs())
    assert [drift.name for drift in drifts] == [str(i) for i in range(8)]
    culprits = Culprits.among(drifts)
    assert culprits.first.name == layer
    assert culprits.first.before == 0 < culprits.first.error
    assert culprits.worst.error == max(drift.error for drift in drifts)


def test_nan_is_blamed_on_where_it_appears() -> None:
    spoiled = network()
    with torch.no_grad():
        spoiled[4].bias[0] = torch.nan
    culprits = Culprits.among(module_drift(network(), spoiled, inputs()))
    assert culprits.first.name == culprits.worst.name == "4"
    assert "4 is the first to drift (not finite after 0 rms at its input)" in str(culprits)
    assert culprits.to_json()["first"] == {"name": "4", "error": None, "given": 0.0}


def test_small_errors_of_early_layers_are_passed_over() -> None:
    drifts = [Drift("early", 0.001, 0.0), Drift("middle", 0.5, 0.001), Drift("late", 1.0, 0.5)]
    assert Culprits.among(drifts) == Culprits(drifts[1], drifts[2])
    steady = [Drift("a", 0.5, 0.4), Drift("b", 0.6, 0.5)]
    assert Culprits.among(steady) == Culprits(steady[1], steady[1])


def test_scoring_magnifies_and_is_blamed_last() -> None:
    network, search = Drift("features.0", 0.02, 0.0), Drift("scorers.0.search", 9.0, 0.02)
    assert Culprits.among([network, search], ["features"]) == Culprits(network, network)
    exact = Drift("features.0", 0.001, 0.0)
    assert Culprits.among([exact, search], ["features"]) == Culprits(search, search)


@pytest.mark.parametrize(
    ("modality", "name"),
    [("rgb", "features.0.extractor.model.layer1.0.conv2"), ("xyz", "features.0.extractor.blocks.blocks.1.mlp.fc1")],
)
def test_a_spoiled_module_of_an_fp16_detector_is_named(trained: Cached, modality: str, name: str) -> None:
    detector = load_run(trained(modality)).detector
    run = load_run(trained(modality))
    reduced = to_precision(detector, "fp16")
    sample = next(iter(run.golden.values()))
    with torch.no_grad():
        reduced.get_submodule(name).weight.mul_(1.6)
    drifts = module_drift(detector, reduced, [sample[key] for key in detector.input_names])
    assert Culprits.among(drifts).first.name == name
    assert {"features.0", "scorers.0", "scorers.0.search"} <= {drift.name for drift in drifts}


def test_a_spoiled_product_of_a_graph_is_named(trained: Cached, tmp_path: Path) -> None:
    run = load_run(trained("rgb", "f2f"))
    sample = {name: next(iter(run.golden.values()))[name] for name in run.detector.input_names}
    arrays = {name: value.numpy() for name, value in sample.items()}
    graphs = QuantisedGraphs(run.detector, "int8", sample, [arrays], tmp_path / "graph.onnx")
    assert graphs.base.opset_imports[""] == OPSETS["int8"]
    found = products(graphs.base, ("features", "hallucinated"))
    spoiled = graphs.base.clone()
    weight = spoiled.graph.initializers["hallucinated.network.mlp.fc2.weight"]
    weight.const_value = ir.tensor(2 * weight.const_value.numpy(), name=weight.name)
    drifts = product_drift(graphs.base, spoiled, found, arrays)
    assert Culprits.among(drifts).first.name == "hallucinated.network.mlp.fc2"
    assert [drift.error for drift in drifts if drift.name.startswith("features")] == [0] * 8
    assert drifts[-1].name == "hallucinated.network.mlp.fc3"
