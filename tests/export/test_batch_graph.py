"""Graphs for several samples at once: the same results as for one, certified, stored once, refused if they mix."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

from cmdiad_export import certified
from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.cli import cli
from cmdiad_export.golden import golden_set
from cmdiad_export.graph import storage
from cmdiad_export.graph.batch import require_batch_fits
from cmdiad_export.graph.exporter import graph_of
from cmdiad_export.graph.ports import Ports
from cmdiad_export.graph.storage import save_graph
from cmdiad_export.options import ExportOptions
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.certificate import compare, tolerance_for
from cmdiad_runtime.bundle.engine_selection import batch_self_test_of, choose_engine, open_batch_engine
from cmdiad_runtime.bundle.golden import GoldenSample, read_golden
from cmdiad_runtime.cli.run import cli as run_cli
from cmdiad_runtime.engines import Precision, open_engine
from cmdiad_runtime.engines.batch import BatchEngine, mixed_orders
from cmdiad_runtime.errors import BundleError, CertificateError, EngineError
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.detectors.bank.detector import Detector
from cmdiad_train.recipe import RgbExtractor, SurfaceExtractor
from cmdiad_train.runs.run import load_run
from helpers import assert_refused, command, rewrite_manifest
from lanes import long

Cached = Callable[..., Path]
SIZE = 3
NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (0, 1), 14))
VARIANTS = [
    ("rgb", "none", "fp16", {}),
    long("rgb", "f2f", "fp16", {}),
    long("xyz", "f2f", "fp32", {"xyz": NORMALS}),
    long("both", "none", "fp16", {"view": "each", "xyz": NORMALS}),
]
"""fp16, a network after the extractor, lists of searched cells with a second extractor, two images with a map each."""


def written(run: Path, out: Path, precision: Precision = "fp32") -> Bundle:
    """The bundle of a run, with a graph for SIZE samples."""
    write_bundle(load_run(run), out, ExportOptions(precision, batch=SIZE), SILENT)
    return Bundle.open(out)


def take_graph_of(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the graph of a bundle stand for that for one sample, which an export writes first."""
    graph = (bundle / "graph.onnx").read_bytes()
    monkeypatch.setattr(certified, "export_graph", lambda detector, inputs, path: path.write_bytes(graph))


def check_each_place(bundle: Bundle) -> None:
    """Check that the results of every golden sample at every place are those of the graph for one sample.

    Convolutions of several samples may add up in another order, so the last digits may differ.
    """
    rounding = 1e-5 if bundle.precision == "fp32" else 2e-3
    golden = read_golden(bundle.golden)
    one, several = choose_engine(bundle).engine, open_batch_engine(bundle).engine
    assert isinstance(several, BatchEngine)
    expected = [one.run(sample.inputs) for sample in golden]
    for order in mixed_orders(len(golden), SIZE):
        outputs = several.run_each([golden[number].inputs for number in order])
        for number, output in zip(order, outputs, strict=True):
            assert output.keys() == expected[number].keys()
            for name, array in output.items():
                largest = np.abs(expected[number][name]).max()
                np.testing.assert_allclose(array, expected[number][name], rtol=0, atol=rounding * largest)
    one.close()
    several.close()


def assert_same_convolutions(bundle: Bundle) -> None:
    """Check that the graph for several samples has no more convolutions than that for one."""
    assert bundle.record.batch is not None
    paths = bundle.graph, bundle.path / bundle.record.batch.file
    one, several = (sum(node.op_type == "Conv" for node in ir.load(path).graph) for path in paths)
    assert one == several > 0


@pytest.fixture(scope="module")
def bundle(batched: Path) -> Bundle:
    """A bundle of one image with a graph for several samples, which no test changes."""
    return Bundle.open(batched)


@pytest.mark.parametrize(("modality", "hallucination", "precision", "changed"), VARIANTS)
def test_results_are_those_of_one_sample(
    trained: Cached,
    tmp_path: Path,
    modality: str,
    hallucination: str,
    precision: Precision,
    changed: dict[str, Any],
) -> None:
    check_each_place(written(trained(modality, hallucination, **changed), tmp_path / "b.cmdiad", precision))


def test_results_of_one_image_too(bundle: Bundle) -> None:
    check_each_place(bundle)


@pytest.mark.long
def test_reverse_distillation_runs_its_networks_once(fitted: Cached, tmp_path: Path) -> None:
    """Test `rd` of both sensors, which has two branches; the other variants call the same functions."""
    bundle = written(fitted("rd", "both"), tmp_path / "b.cmdiad")
    assert_same_convolutions(bundle)
    check_each_place(bundle)


def test_the_graph_of_the_line_stays_as_it_is(bundle: Bundle, exported: Cached) -> None:
    assert bundle.graph.read_bytes() == (exported("rgb") / "graph.onnx").read_bytes()


def test_the_extractor_runs_once(bundle: Bundle) -> None:
    assert_same_convolutions(bundle)


def test_the_manifest_has_the_evidence(bundle: Bundle) -> None:
    record = bundle.record.batch
    assert record is not None
    assert (record.size, record.file) == (SIZE, f"graph-batch{SIZE}.onnx")
    assert record.comparison.passed
    assert f"{SIZE} samples at once" in record.comparison.engine
    assert record.sha256 == bundle.record.files[record.file].sha256
    assert (
        Bundle.open(bundle.path).record.to_json()["batch"]
        == json.loads((bundle.path / "manifest.json").read_text(encoding="utf-8"))["batch"]
    )


def test_both_graphs_have_a_self_test(bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))
    ended = command(run_cli, bundle.path, "--self-test", "--output", tmp_path / "out")
    assert ended.code == 0, ended.err
    assert [line.split(":")[0] for line in ended.out.splitlines()] == ["self-test passed", "self-test passed"]
    assert {path.name for path in (tmp_path / "out").glob("*.json")} == {"self-test.json", "self-test-batch.json"}


def test_on_another_kind_of_machine_the_graph_needs_its_own_self_test(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmdiad_runtime.bundle import engine_selection
    from cmdiad_runtime.bundle.self_test import write_self_test

    monkeypatch.setenv("CMDIAD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(engine_selection.platform, "machine", lambda: "riscv64")
    write_self_test(bundle, engine_selection.self_test_of(bundle, "cpu"))
    with pytest.raises(EngineError, match=f"no passed self-test of cpu-batch{SIZE}"):
        open_batch_engine(bundle)
    write_self_test(bundle, batch_self_test_of(bundle, "cpu"))
    open_batch_engine(bundle).engine.close()


@pytest.mark.failure_mode("An export whose graph for several samples mixes their results")
def test_a_graph_that_mixes_samples_is_refused(
    trained: Cached, exported: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_graph_of(exported("rgb"), monkeypatch)
    right = Detector.forward_each

    def mixed(self: Detector, samples: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, Tensor]]:
        first, second, third = right(self, samples)
        return [first, third, second]

    monkeypatch.setattr(Detector, "forward_each", mixed)
    with pytest.raises(CertificateError):
        written(trained("rgb"), tmp_path / "b.cmdiad")
    assert not (tmp_path / "b.cmdiad").exists()


def test_a_result_that_depends_on_the_other_samples_is_beyond_tolerance(
    trained: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, right = load_run(trained("rgb")), Detector.forward_each

    def averaged(self: Detector, samples: Sequence[Sequence[Tensor]]) -> list[tuple[Tensor, Tensor]]:
        results = right(self, samples)
        mean = torch.stack([anomaly_map for _, anomaly_map in results]).mean(0)
        return [(score, 0.9 * anomaly_map + 0.1 * mean) for score, anomaly_map in results]

    monkeypatch.setattr(Detector, "forward_each", averaged)
    inputs = {name: torch.as_tensor(value) for name, value in run.golden[0].inputs_of(run.detector.input_names).items()}
    save_graph(graph_of(run.detector, inputs, batch=SIZE), tmp_path / "g.onnx")
    engine = BatchEngine(open_engine(tmp_path / "g.onnx"), SIZE)
    tolerance = tolerance_for("fp32", published_blur=False, verdict=run.calibration.verdict)
    comparison = compare(engine, "fp32", golden_set(run), run.calibration, tolerance)
    engine.close()
    assert comparison.map_max_share > 10 * tolerance.map
    assert not comparison.passed


def test_large_weights_are_stored_once(trained: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "LARGE", storage.PAGE)
    bundle = written(trained("rgb"), tmp_path / "b.cmdiad")
    assert bundle.record.batch is not None
    names = {path.name for path in bundle.path.iterdir()}
    assert names == {
        "graph.onnx",
        "graph.weights",
        f"graph-batch{SIZE}.onnx",
        "golden.npz",
        "README.txt",
        "manifest.json",
    }
    weights, several = (bundle.path / name for name in ("graph.weights", bundle.record.batch.file))
    assert several.stat().st_size < weights.stat().st_size / 2
    inside = [v.const_value for v in ir.load(several).graph.initializers.values() if v.const_value is not None]
    assert not [t.name for t in inside if t.nbytes >= storage.PAGE and not isinstance(t, ir.ExternalTensor)]
    check_each_place(bundle)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content["batch"].update(size=2),
        lambda content: content["batch"].update(file="graph.onnx"),
        lambda content: content["batch"].update(sha256="0" * 64),
        lambda content: content["batch"]["comparison"].update(passed=False),
        lambda content: content["batch"]["comparison"].update(score_max_share=0.5),
        lambda content: content["certificate"].update(samples=1),
    ],
)
def test_a_wrong_record_is_damage(bundle: Bundle, tmp_path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy.cmdiad"))
    rewrite_manifest(copy, change)
    with pytest.raises(BundleError):
        Bundle.open(copy)


def test_a_graph_with_other_ports_is_damage(bundle: Bundle, tmp_path: Path) -> None:
    """The graph for one sample in place of that for several."""
    copy = Path(shutil.copytree(bundle.path, tmp_path / "copy.cmdiad"))
    several = copy / f"graph-batch{SIZE}.onnx"
    shutil.copyfile(copy / "graph.onnx", several)
    digest = hashlib.sha256(several.read_bytes()).hexdigest()

    def replace(content: dict[str, Any]) -> None:
        content["batch"]["sha256"] = digest
        content["files"][several.name] = {"sha256": digest, "bytes": several.stat().st_size}

    rewrite_manifest(copy, replace)
    with pytest.raises(BundleError, match=f"graph for {SIZE} samples has other inputs"):
        Bundle.open(copy)


def test_a_bundle_without_the_graph_says_how_to_get_one(exported: Cached) -> None:
    with pytest.raises(BundleError, match="cmdiad-export --batch"):
        open_batch_engine(Bundle.open(exported("rgb")))


def test_engines_for_one_sample_are_refused(bundle: Bundle) -> None:
    with pytest.raises(EngineError, match="one sample at a time"):
        open_batch_engine(bundle, "tensorrt")


def test_quantised_graphs_and_plans_have_no_batch(trained: Cached, tmp_path: Path) -> None:
    run, out = trained("rgb"), tmp_path / "b.cmdiad"
    assert_refused(command(cli, run, "--out", out, "--batch", 4, "--precision", "int8"), 5, "--batch", "fp32 or fp16")
    assert command(cli, run, "--out", out, "--batch", 4, "--budget-ms", 5).code == 2
    assert command(cli, run, "--out", out, "--batch", 1).code == 2
    assert not out.exists()


def test_clouds_of_points_have_no_batch(
    trained: Cached, exported: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_graph_of(exported("xyz"), monkeypatch)
    with pytest.raises(EngineError, match="one sample at a time"):
        written(trained("xyz"), tmp_path / "b.cmdiad")


def test_more_samples_than_a_small_grid_allows_are_refused() -> None:
    """Each sample has an example list of another length; the shortest one has two cells."""
    detector: Any = SimpleNamespace(searched_grids={"rgb_searched": 7, "surface_searched": 3})
    require_batch_fits(detector, ["rgb", "surface"], 7)
    assert [len(Ports.of(detector, {}, place).inputs[f"surface/{place}_searched"]) for place in (0, 6)] == [8, 2]
    with pytest.raises(EngineError, match="8 samples.*3 cells per side.*at most 7"):
        require_batch_fits(detector, ["rgb", "surface"], 8)


def test_mixed_golden_samples_differ(bundle: Bundle) -> None:
    """The certificate would accept mixed samples if their maps were equal."""
    golden: list[GoldenSample] = read_golden(bundle.golden)
    limit = bundle.tolerance.map * bundle.certified_calibration.map_threshold
    pairs = [(a, b) for number, a in enumerate(golden) for b in golden[:number]]
    assert pairs
    assert all(np.abs(a.map - b.map).max() > limit for a, b in pairs)
