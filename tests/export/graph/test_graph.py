"""The graph computes what the detector computes, alone in one file."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch

from cmdiad_export.graph import storage
from cmdiad_export.graph.exporter import OPSET, export_graph
from cmdiad_export.graph.passes.name_by_module import module_of
from cmdiad_export.graph.storage import save_graph
from cmdiad_export.precision.casting import to_precision
from cmdiad_runtime.engines import open_engine
from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.preprocess.prepare import Preprocessing, prepare
from cmdiad_runtime.readers import read_rgb, read_xyz
from cmdiad_runtime.sample import Sample
from cmdiad_train.detectors.family import as_tensors
from cmdiad_train.runs.run import Run, load_run
from helpers import SIZE, sample_files, tiny_recipe
from lanes import long

Cached = Callable[..., Path]
VARIANTS = [("rgb", "none"), ("rgb", "f2f"), ("xyz", "none"), ("xyz", "f2f")]
# An fp16 export certifies its fp32 form too, and the faithful graphs below are fp32.
EXPORTED = [*((*variant, "fp16") for variant in VARIANTS), ("rgb", "none", "fp32")]
FLOAT, HALF, UINT8 = onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.UINT8
TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}


def inputs_of(data: Path, preprocessing: Preprocessing) -> Iterator[dict[str, np.ndarray]]:
    """Network inputs of the test samples: none of them was in the golden set."""
    modality = preprocessing.modality
    for defect in ("good", "hole", "contamination"):
        for path in sample_files(data, "test", defect, modality):
            sample = Sample(path.name, **{modality: read_rgb(path) if modality == "rgb" else read_xyz(path)})  # type: ignore[arg-type]
            yield prepare(sample, preprocessing).inputs


def compare(run: Run, graph: Path, data: Path, tolerance: float, map_tolerance: float) -> list[dict[str, np.ndarray]]:
    engine, seen = open_engine(graph), list(inputs_of(data, run.preprocessing))
    for inputs in seen:
        with torch.no_grad():
            score, anomaly_map = run.detector(*as_tensors(inputs).values())
        outputs = engine.run(inputs)
        assert list(outputs) == (["map"] if run.recipe.verdict == "map" else ["score", "map"])
        assert {output.dtype for output in outputs.values()} == {np.dtype(np.float32)}
        assert outputs["map"].shape == (SIZE, SIZE)
        if run.recipe.verdict == "image":
            np.testing.assert_allclose(outputs["score"], score.numpy(), rtol=tolerance)
        largest = float(anomaly_map.max())
        np.testing.assert_allclose(outputs["map"], anomaly_map.numpy(), atol=map_tolerance * largest)
        assert np.abs(outputs["map"] - anomaly_map.numpy()).mean() < tolerance * largest
    engine.close()
    return seen


@pytest.mark.parametrize(("modality", "hallucination", "precision"), EXPORTED)
def test_graph_is_the_detector(
    data: Path, trained: Cached, exported: Cached, modality: str, hallucination: str, precision: str
) -> None:
    run = load_run(trained(modality, hallucination))
    graph = exported(modality, hallucination, precision) / "graph.onnx"
    seen = compare(run, graph, data, TOLERANCE[precision], 2 * TOLERANCE[precision])
    if modality == "xyz":  # the number of distinct rows of a cloud is the one dynamic size
        assert len({inputs["weights"].shape[0] for inputs in seen}) > 1


@pytest.mark.parametrize(("modality", "hallucination"), [long("rgb", "f2f"), ("xyz", "none")])
def test_faithful_graph_is_the_detector(
    data: Path, trained: Cached, tmp_path: Path, modality: str, hallucination: str
) -> None:
    run = load_run(trained(modality, hallucination, **faithful()))
    inputs = next(inputs_of(data, run.preprocessing))
    export_graph(run.detector, as_tensors(inputs), tmp_path / "graph.onnx")
    # Rounding may tip a pixel of the published 8-bit blur over to the next level, 1/255 of the unblurred maximum.
    compare(run, tmp_path / "graph.onnx", data, 1e-3, map_tolerance=1.5e-2)


def faithful() -> dict[str, object]:
    from dataclasses import replace

    recipe = tiny_recipe()
    return {
        "mode": "faithful",
        "verdict": "image",
        "fusion": "ocsvm",
        "xyz": replace(recipe.detector.xyz, normalisation="batch", grid=28),
        "distillation": replace(recipe.detector.distillation, output="gelu"),
    }


def test_nodes_are_named_by_their_modules(exported: Cached) -> None:
    model = ir.load(exported("rgb", "f2f", "fp16") / "graph.onnx")
    names = [node.name for node in model.graph]
    assert len(set(names)) == len(names)
    modules = {node.op_type: {module_of(n) for n in model.graph if n.op_type == node.op_type} for node in model.graph}
    assert "features.0.extractor.model.layer1.0.conv2" in modules["Conv"]
    assert {f"hallucinated.network.mlp.fc{i}" for i in (1, 2, 3)} == modules["Gemm"]
    assert modules["TopK"] == {"scorers.0.search", "scorers.1.search"}


def test_softmax_in_single_precision_inside_half(trained: Cached, tmp_path: Path) -> None:
    run = load_run(trained("xyz"))
    inputs = {name: run.golden[0].inputs[name] for name in run.detector.input_names}
    found = {}
    for single in (False, True):
        path = tmp_path / f"{single}.onnx"
        export_graph(to_precision(run.detector, "fp16"), inputs, path, single_precision_softmax=single)
        graph = onnx.shape_inference.infer_shapes(onnx.load(path)).graph
        types = {value.name: value.type.tensor_type.elem_type for value in graph.value_info}
        nodes = [node for node in graph.node if node.op_type == "Softmax"]
        assert len(nodes) == 2
        assert {types[name] for node in nodes for name in (*node.input, *node.output)} == {FLOAT if single else HALF}
        engine = open_engine(path)
        found[single] = engine.run({name: value.numpy() for name, value in inputs.items()})["map"].max()
    np.testing.assert_allclose(found[True], found[False], rtol=1e-2)


def test_every_gelu_is_one_operator_in_onnx_runtime(exported: Cached, tmp_path: Path) -> None:
    graph = exported("xyz") / "graph.onnx"
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3  # else it warns that such a file is for this machine only
    onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    written, taken = (
        [node.op_type for node in onnx.load(file).graph.node] for file in (graph, tmp_path / "optimised.onnx")
    )
    assert written.count("Erf") == taken.count("Gelu") > 0
    assert "Erf" not in taken


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_ports_of_the_rgb_graph(exported: Cached, precision: str) -> None:
    graph = onnx.load(exported("rgb", "none", precision) / "graph.onnx").graph
    (rgb,) = graph.input
    assert (rgb.name, rgb.type.tensor_type.elem_type) == ("rgb", UINT8)
    assert [d.dim_value for d in rgb.type.tensor_type.shape.dim] == [1, SIZE, SIZE, 3]
    assert [output.name for output in graph.output] == ["map"]


def test_ports_of_the_xyz_graph(exported: Cached) -> None:
    graph = onnx.load(exported("xyz", "f2f", "fp16") / "graph.onnx").graph
    shapes = {i.name: [d.dim_value or d.dim_param for d in i.type.tensor_type.shape.dim] for i in graph.input}
    rows = shapes["weights"][0]
    assert isinstance(rows, str)
    assert shapes == {"centers": [1, 64, 3], "groups": [1, 64, 16, 3], "weights": [rows, 64], "cells": [196]}


def test_graph_is_one_file_of_standard_operators(exported: Cached) -> None:
    for modality, hallucination in VARIANTS:
        model = onnx.load(exported(modality, hallucination, "fp16") / "graph.onnx", load_external_data=False)
        assert [o.version for o in model.opset_import if o.domain == ""] == [OPSET]
        assert {node.domain for node in model.graph.node} == {""}
        assert not model.functions
        assert not any(tensor.external_data for tensor in model.graph.initializer)


@pytest.mark.parametrize(("modality", "hallucination", "precision"), EXPORTED)
def test_banks_lie_in_the_graph_in_its_precision(
    trained: Cached, exported: Cached, modality: str, hallucination: str, precision: str
) -> None:
    kind = FLOAT if precision == "fp32" else HALF
    model = onnx.load(exported(modality, hallucination, precision) / "graph.onnx")
    run = load_run(trained(modality, hallucination))
    for search in run.detector.searches:
        shape = sorted(search.rows.shape)
        found = [t for t in model.graph.initializer if sorted(t.dims) == shape and t.data_type == kind]
        assert found, (shape, [(t.name, list(t.dims), t.data_type) for t in model.graph.initializer])


@pytest.mark.parametrize(("modality", "hallucination"), VARIANTS)
def test_half_graph_holds_half_weights_and_single_norms(exported: Cached, modality: str, hallucination: str) -> None:
    graph = onnx.load(exported(modality, hallucination, "fp16") / "graph.onnx").graph
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    floats = [t for t in graph.initializer if t.data_type in (FLOAT, HALF)]
    size = {kind: sum(int(np.prod(t.dims)) for t in floats if t.data_type == kind) for kind in (FLOAT, HALF)}
    assert size[HALF] > 4 * size[FLOAT]
    products = {n.op_type for n in graph.node if any(weight_type(initializers, name) == HALF for name in n.input)}
    assert products & {"Conv", "Gemm", "MatMul"}
    norms = [node for node in graph.node if node.op_type == "LayerNormalization"]
    assert bool(norms) == (modality == "xyz" or hallucination == "f2f")
    for norm in norms:
        assert {weight_type(initializers, name) for name in norm.input[1:]} == {FLOAT}


def weight_type(initializers: dict[str, onnx.TensorProto], name: str) -> int | None:
    return initializers[name].data_type if name in initializers else None


@pytest.mark.parametrize(("modality", "hallucination"), VARIANTS)
def test_bundle_names_no_path_of_this_machine(
    data: Path, trained: Cached, exported: Cached, modality: str, hallucination: str
) -> None:
    bundle = exported(modality, hallucination, "fp16")
    places = [Path(__file__).parents[3], sys.prefix, data, trained(modality, hallucination), bundle.parent, Path.home()]
    for name in ("graph.onnx", "manifest.json"):
        content = (bundle / name).read_bytes()
        for place in places:
            assert f"{place}/".encode() not in content, (name, place)
        assert b".py" not in content


def large_model() -> onnx.ModelProto:
    """One product with 64 KiB of weights, and a bias that is small."""
    weights = onnx.numpy_helper.from_array(np.arange(1 << 14, dtype=np.float32).reshape(128, 128), "weights")
    bias = onnx.numpy_helper.from_array(np.ones(128, np.float32), "bias")
    nodes = [onnx.helper.make_node("Gemm", ["x", "weights", "bias"], ["y"])]
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 128]) for name in "xy")
    graph = onnx.helper.make_graph(nodes, "graph", [x], [y], [bias, weights])
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10)


def test_large_weights_lie_beside_the_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, path = large_model(), tmp_path / "graph.onnx"
    ir_model = ir.from_proto(model)
    before = ir.to_proto(ir_model).SerializeToString(deterministic=True)
    monkeypatch.setattr(storage, "LARGE", 1 << 16)
    save_graph(ir_model, path)
    assert ir.to_proto(ir_model).SerializeToString(deterministic=True) == before
    assert (tmp_path / "graph.weights").stat().st_size == 1 << 16
    bias, weights = onnx.load(path, load_external_data=False).graph.initializer
    assert (len(bias.raw_data), len(weights.raw_data)) == (512, 0)
    assert onnx.load(path).graph.initializer[1].raw_data == model.graph.initializer[1].raw_data
    monkeypatch.setattr(storage, "LARGE", 1 << 17)
    save_graph(ir_model, path)
    assert [each.name for each in tmp_path.iterdir()] == ["graph.onnx"]  # what the graph no longer needs is gone
    assert path.read_bytes() == before


def test_weights_outside_a_bundle_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime reads weights below the graph's folder only."""
    monkeypatch.setattr(storage, "LARGE", 1)
    inside, secret = tmp_path / "inside", tmp_path / "secret.weights"
    inside.mkdir()
    save_graph(ir.from_proto(large_model()), inside / "graph.onnx")
    (inside / "graph.weights").rename(secret)
    for place in ("../secret.weights", str(secret)):
        model = onnx.load(inside / "graph.onnx", load_external_data=False)
        model.graph.initializer[1].external_data[0].value = place
        (inside / "graph.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(EngineError, match="External data path"):
            open_engine(inside / "graph.onnx")
