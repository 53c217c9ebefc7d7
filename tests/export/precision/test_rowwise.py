"""int8 products with a scale per row, held against the same arithmetic in NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.cli import cli
from cmdiad_export.options import ExportOptions
from cmdiad_export.precision import rowwise
from cmdiad_export.precision.products import Product, values_inside
from cmdiad_export.precision.products import products as products_in
from cmdiad_export.precision.rowwise import QuantiseRows, quantise_rows, rowwise_levels, worthwhile
from cmdiad_runtime.bundle import certificate
from cmdiad_runtime.bundle.certificate import Tolerance
from cmdiad_runtime.engines import open_engine
from cmdiad_runtime.errors import CertificateError
from cmdiad_runtime.inspection.inspector import Inspector
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.runs.run import load_run
from helpers import RecordingReporter, assert_refused, command
from lanes import long

WIDTH, HIDDEN, OUT = 48, 32, 7


def products(model: ir.Model) -> list[Product]:
    return products_in(model, ("features",))


def two_layers() -> ir.Model:
    """`x` [n, WIDTH] through a Gemm with a bias and a MatMul; one output channel is always 0."""
    random = np.random.default_rng(0)
    second = random.normal(size=(HIDDEN, OUT)).astype(np.float32)
    second[:, 2] = 0
    weights = {
        "first": random.normal(size=(HIDDEN, WIDTH)).astype(np.float32),
        "bias": random.normal(size=HIDDEN).astype(np.float32),
        "second": second,
    }
    nodes = [
        helper.make_node("Gemm", ["x", "first", "bias"], ["h"], "features.first/g", transB=1),
        helper.make_node("Relu", ["h"], ["r"], "features.relu"),
        helper.make_node("MatMul", ["r", "second"], ["y"], "features.second/m"),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", w]) for name, w in (("x", WIDTH), ("y", OUT)))
    stored = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    graph = helper.make_graph(nodes, "two", [x], [y], stored)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def both_directions(first: str) -> ir.Model:
    """`x` [n, WIDTH] times one square weight and times its transpose; the node of the kind `first` comes first."""
    weight = np.random.default_rng(0).normal(size=(WIDTH, WIDTH)) * np.geomspace(0.01, 10, WIDTH)
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["multiplied"], "features.multiply/m"),
        helper.make_node("Gemm", ["x", "weight"], ["transposed"], "features.transpose/g", transB=1),
    ]
    names = ("x", "multiplied", "transposed")
    x, *outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", WIDTH]) for name in names)
    stored = [numpy_helper.from_array(weight.astype(np.float32), "weight")]
    graph = helper.make_graph(nodes if first == "MatMul" else nodes[::-1], "both", [x], outputs, stored)
    return ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9))


def emulated(x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The product of rows and columns rounded to 255 and 2 times 127 steps, in float64."""
    least = x.min(1, keepdims=True)
    step = np.maximum(x.max(1, keepdims=True) - least, 1e-30) / 255
    column = np.abs(weight).max(0)
    column = np.where(column > 0, column / 127, 1)
    return (np.rint((x - least) / step) * step + least) @ (np.rint(weight / column) * column)


def test_computes_what_its_scales_say(tmp_path: Path) -> None:
    model = two_layers()
    ir.save(quantise_rows(model, products(model)), tmp_path / "q.onnx")
    x = np.random.default_rng(1).normal(size=(9, WIDTH)).astype(np.float32)
    x[3] *= 1000  # an outlying row costs the others nothing
    x[4] = 0
    stored = {n: v.const_value.numpy().astype(np.float64) for n, v in model.graph.initializers.items()}
    hidden = np.maximum(emulated(x.astype(np.float64), stored["first"].T) + stored["bias"], 0)
    expected = emulated(hidden, stored["second"])
    found = open_engine(tmp_path / "q.onnx").run({"x": x})["y"]
    size = np.abs(expected).max(1, keepdims=True)
    # A number on the border between two steps may be rounded the other way after float32.
    assert (np.abs(found - expected) <= 1e-4 * size).mean() > 0.9
    exact = np.maximum(x.astype(np.float64) @ stored["first"].T + stored["bias"], 0) @ stored["second"]
    assert (np.abs(found - exact) <= 0.03 * size).all()
    assert np.abs(found - exact).max() > 0
    assert not found[:, 2].any()


def test_values_inside_a_graph_are_sums_that_are_not_cut_off() -> None:
    """Without the option of ONNX Runtime, a processor without VNNI cuts off sums of large weights of one sign."""
    model = two_layers()
    for name in ("first", "second"):
        value = model.graph.initializers[name]
        value.const_value = ir.Tensor(np.ones_like(value.const_value.numpy()), name=name)  # type: ignore[union-attr]
    x = np.random.default_rng(1).uniform(size=(9, WIDTH)).astype(np.float32)
    names = ["h", "y"]
    graphs = (model, quantise_rows(model, products(model)))
    (expected,), (found,) = (values_inside(graph, names, [{"x": x}]) for graph in graphs)
    for array, exact in zip(found, expected, strict=True):
        np.testing.assert_allclose(array, exact, rtol=0.02)


@pytest.mark.parametrize("first", ["MatMul", "Gemm"])
def test_a_weight_and_its_transpose_have_separate_columns(tmp_path: Path, first: str) -> None:
    model = both_directions(first)
    ir.save(quantise_rows(model, products(model)), tmp_path / "q.onnx")
    x = np.random.default_rng(1).normal(size=(9, WIDTH)).astype(np.float32)
    (weight,) = (v.const_value.numpy().astype(np.float64) for v in model.graph.initializers.values())
    outputs = open_engine(tmp_path / "q.onnx").run({"x": x})
    for name, matrix in (("multiplied", weight), ("transposed", weight.T)):
        np.testing.assert_allclose(outputs[name], emulated(x.astype(np.float64), matrix), rtol=1e-4, atol=1e-4)


def test_what_is_not_chosen_stays_as_it_was(tmp_path: Path) -> None:
    model = two_layers()
    first, second = products(model)
    quantised = quantise_rows(model, [second])
    kinds = [node.op_type for node in quantised.graph]
    assert kinds[:2] == ["Gemm", "Relu"] and kinds.count("MatMulInteger") == 1
    names = set(quantised.graph.initializers)
    assert first.weight in names and second.weight not in names
    copy = model.clone()
    assert not QuantiseRows([])(copy).modified
    assert ir.to_proto(copy).SerializeToString() == ir.to_proto(model).SerializeToString()


@pytest.mark.parametrize(("modality", "verdict"), [("rgb", "map"), long("xyz", "image")])
def test_bundle_in_int8_for_processors(
    trained: object, tmp_path: Path, modality: str, verdict: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network of clouds is that small in tests that int8 moves the largest map value, but not the image score."""
    monkeypatch.setattr(rowwise, "NARROW", 1)  # the networks of tests are narrow
    run = load_run(trained(modality, "f2f", verdict=verdict))  # type: ignore[operator]
    out = tmp_path / "b.cmdiad"
    manifest = write_bundle(run, out, ExportOptions("int8-cpu"), SILENT)
    reduced = manifest["certificate"]["comparisons"][1]
    assert reduced["precision"] == "int8-cpu" and 0 < reduced["score_max_share"] <= 0.005
    model = onnx.load(out / "graph.onnx")
    assert any(node.op_type == "MatMulInteger" for node in model.graph.node)
    banks = [t for t in model.graph.initializer if list(t.dims) == manifest["graph"]["banks"][0]]
    assert TensorProto.FLOAT16 in {bank.data_type for bank in banks}
    with Inspector.open(out) as inspector:
        assert inspector.bundle.precision == "int8-cpu"


def test_first_products_are_the_first_to_stay_in_fp32() -> None:
    """Products of one weight, as of chunks, stay together."""
    weights = ["a", "b", "c", "d", "e", "f", "g", "a", "b"]
    chosen = [Product(f"n{i}", "m", "MatMul", "x", weight, 1, 512) for i, weight in enumerate(weights)]
    levels = rowwise_levels(chosen)
    assert [sorted(level.modules) for level in levels[:4]] == [
        [],
        ["n0", "n7"],
        ["n0", "n1", "n7", "n8"],
        ["n0", "n1", "n2", "n3", "n7", "n8"],
    ]
    assert levels[4].name == "networks" and len(levels[4].modules) == len(chosen)


def test_narrow_products_gain_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = found = products(two_layers())
    assert (first.channels, second.channels) == (WIDTH, HIDDEN)
    assert worthwhile(found) == []
    for least, expected in ((HIDDEN, [first, second]), (HIDDEN + 1, [first]), (WIDTH + 1, [])):
        monkeypatch.setattr(rowwise, "NARROW", least)
        assert worthwhile(found) == expected


@pytest.mark.parametrize(("score", "whole"), [(0.005, False), long(1e-6, True)])
def test_networks_stay_in_fp32_where_nothing_less_is_within_tolerance(
    trained: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, score: float, whole: bool
) -> None:
    monkeypatch.setattr(rowwise, "NARROW", 1)
    monkeypatch.setitem(certificate.TOLERANCES, "int8-cpu", Tolerance(score, 1))
    run = load_run(trained("rgb", "f2f"))  # type: ignore[operator]
    reporter = RecordingReporter()
    try:
        manifest = write_bundle(run, tmp_path / "b.cmdiad", ExportOptions("int8-cpu"), reporter)
        steps = [step["step"] for step in manifest["graph"]["widened"]]
    except CertificateError:  # not even the fp16 bank is within
        steps = [line.split("keeping the ")[1].split(" in fp32")[0] for line in reporter.lines if "keeping the" in line]
    assert ("networks" in steps) == whole


def test_no_engine_for_a_gpu_is_made_of_it(trained: object) -> None:
    ended = command(cli, trained("rgb"), "--engine", "int8-cpu", "--target", "rtx")  # type: ignore[operator]
    assert_refused(ended, 5, "int8-cpu", "ONNX Runtime")
