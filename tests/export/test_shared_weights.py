"""Shared weights: each distinct array is stored once, results stay equal, and each bundle still works alone."""

from __future__ import annotations

import hashlib
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from cmdiad_export.pattern_bundle_writer import bind_patterns, bundle_name
from cmdiad_export.shared_weights import share_weights
from cmdiad_fleet.cli.fleet import cli as fleet
from cmdiad_fleet.serving.model_config import Placement
from cmdiad_fleet.serving.model_repository import write_model
from cmdiad_line.recipes.store import ImportOptions, RecipeStore
from cmdiad_runtime.bundle import change
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.copied import copy_files
from cmdiad_runtime.bundle.golden import read_golden
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.bundle.pattern_bundle import open_pattern_bundle
from cmdiad_runtime.engines import open_engine
from cmdiad_runtime.engines.building.builder import BuildRequest, build_engine
from cmdiad_runtime.engines.graph_file import graph_digest, shared_weights, weights_path
from cmdiad_runtime.errors import BundleError, EngineError
from cmdiad_runtime.names import SENSORS
from cmdiad_runtime.support.reporter import SILENT
from helpers import RecordingReporter, command

Cached = Callable[..., Path]
Arrays = dict[str, npt.NDArray[np.generic]]


@pytest.fixture
def own(exported_for_any: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(exported_for_any, tmp_path / "own.cmdiad"))


def arrays_of(graph: Path, weights: Path | None = None) -> Arrays:
    """Return all arrays of a graph by name, read with the package onnx alone."""
    model = onnx.load(graph, load_external_data=False)
    if weights is not None:
        onnx.external_data_helper.load_external_data_for_model(model, str(weights.parent))
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_graphs_have_the_arrays_and_results_of_the_exported_ones(own: Path, exported: Cached) -> None:
    for pattern in SENSORS:
        before, after = Bundle.open(exported(pattern)), Bundle.open(own / bundle_name("gear", pattern))
        expected, found = arrays_of(before.graph), arrays_of(after.graph, own / "graph.weights")
        assert expected.keys() == found.keys()
        for name, array in expected.items():
            assert array.dtype == found[name].dtype
            np.testing.assert_array_equal(array, found[name])
        engines = [open_engine(bundle.graph) for bundle in (before, after)]
        for sample in read_golden(before.golden):
            results = [engine.run(sample.inputs) for engine in engines]
            assert results[0].keys() == results[1].keys()
            for name in results[0]:
                np.testing.assert_array_equal(results[0][name], results[1][name])


def test_each_distinct_array_is_stored_once(own: Path) -> None:
    places: dict[tuple[int, int], set[str]] = {}
    uses = 0
    for pattern in SENSORS:
        model = onnx.load(own / bundle_name("gear", pattern) / "graph.onnx", load_external_data=False)
        for tensor in model.graph.initializer:
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                assert entries["location"] == "graph.weights"
                places.setdefault((int(entries["offset"]), int(entries["length"])), set()).add(pattern)
                uses += 1
            else:
                assert len(tensor.raw_data) < 4096
    content = (own / "graph.weights").read_bytes()
    digests = [hashlib.sha256(content[offset : offset + length]).digest() for offset, length in places]
    assert len(set(digests)) == len(places) < uses
    assert any(users == set(SENSORS) or len(users) == 2 for users in places.values())
    assert all(offset % 4096 == 0 for offset, _ in places)
    assert len(content) < sum(length for _, length in places) + 4096 * len(places)


def test_bundle_inside_needs_the_folder_around_it_or_the_weights(own: Path, tmp_path: Path) -> None:
    inside = own / "gear-rgb.cmdiad"
    alone = Path(shutil.copytree(inside, tmp_path / "alone.cmdiad"))
    with pytest.raises(BundleError, match=r"no such file.*the folder around it"):
        Bundle.open(alone)
    shutil.copyfile(own / "graph.weights", alone / "graph.weights")
    assert manifest_hash(Bundle.open(alone).manifest) == manifest_hash(Bundle.open(inside).manifest)


def test_copy_is_an_ordinary_bundle(own: Path, tmp_path: Path) -> None:
    inside = Bundle.open(own / "gear-both.cmdiad")
    copy_files(inside, tmp_path / "copy.cmdiad")
    copy = Bundle.open(tmp_path / "copy.cmdiad")
    assert copy.record == inside.record
    assert weights_path(copy.graph) == copy.path / "graph.weights"
    assert graph_digest(copy.graph) == inside.record.graph.sha256
    open_engine(copy.graph).close()


def test_weights_around_an_ordinary_bundle_are_not_used(exported: Cached, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(exported("rgb"), tmp_path / "plain.cmdiad"))
    (tmp_path / "graph.weights").write_bytes(b"foreign")
    assert shared_weights(bundle) is None
    Bundle.open(bundle)


def test_relative_paths(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own / "gear-xyz.cmdiad")
    engine = open_engine(Bundle.open(".").graph)
    engine.close()
    assert shared_weights(Path()) == own / "graph.weights"


def test_old_onnx_runtime_is_refused(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would ignore the option, and read a file of this name in the working folder, which nobody has verified."""
    monkeypatch.setattr("onnxruntime.__version__", "1.20.1")
    bundle = Bundle.open(own / "gear-rgb.cmdiad")
    with pytest.raises(EngineError, match=r"onnxruntime 1\.20\.1.*1\.21 or newer"):
        open_engine(bundle.graph)
    shutil.copyfile(own / "graph.weights", bundle.path / "graph.weights")
    open_engine(Bundle.open(bundle.path).graph).close()


def test_graph_of_several_samples_shares_too(exported: Cached, batched: Path, tmp_path: Path) -> None:
    folder, reporter = tmp_path / "gear.cmdiad", RecordingReporter()
    for pattern in SENSORS:
        bundle = batched if pattern == "rgb" else exported(pattern)
        shutil.copytree(bundle, folder / f"{pattern}.cmdiad")
    bind_patterns(folder, "gear", {pattern: f"{pattern}.cmdiad" for pattern in SENSORS})
    share_weights(folder, reporter)
    assert "Equal arrays are stored once" in reporter.lines[-1]
    batch_record = open_pattern_bundle(folder).bundles["rgb"].record.batch
    assert batch_record is not None
    model = onnx.load(folder / "rgb.cmdiad" / batch_record.file, load_external_data=False)
    assert all(len(tensor.raw_data) < 4096 for tensor in model.graph.initializer)


def test_bundles_without_equal_arrays_stay_as_they_are(
    own: Path, exported: Cached, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cmdiad_export.shared_weights.PAGE", 1 << 40)
    folder = tmp_path / "gear.cmdiad"
    for pattern in SENSORS:
        shutil.copytree(exported(pattern), folder / bundle_name("gear", pattern))
    bind_patterns(folder, "gear", {pattern: bundle_name("gear", pattern) for pattern in SENSORS})
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    share_weights(folder, SILENT)
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert b'"weights"' not in before[folder / "patterns.json"]


def test_station_keeps_a_whole_copy(own: Path, tmp_path: Path) -> None:
    store = RecipeStore(tmp_path)
    recipe = store.import_bundle(own / "gear-rgb.cmdiad", ImportOptions(recipe_id="gear"))
    shutil.rmtree(own)
    copy = store.verify("gear")
    assert (copy.path / "graph.weights").is_file()
    assert manifest_hash(copy.manifest) == recipe.bundle_digest


def test_published_bundle_is_pulled_whole(own: Path, tmp_path: Path) -> None:
    place = f"oci:{tmp_path / 'layout'}:7"
    sent = command(fleet, "publish", own / "gear-rgb.cmdiad", place)
    assert sent.code == 0, sent.err
    pulled = command(fleet, "pull", place, "--out", tmp_path / "pulled.cmdiad", "--allow-unsigned")
    assert pulled.code == 0, pulled.err
    copy = Bundle.open(tmp_path / "pulled.cmdiad")
    assert copy.record == Bundle.open(own / "gear-rgb.cmdiad").record
    assert (copy.path / "graph.weights").read_bytes() == (own / "graph.weights").read_bytes()


def test_model_of_a_server_has_the_weights(own: Path, tmp_path: Path) -> None:
    path = write_model(Bundle.open(own / "gear-rgb.cmdiad"), tmp_path / "models", Placement()).path
    model = path / "1" / "model.onnx"
    assert sorted(file.name for file in model.iterdir()) == ["graph.weights", "model.onnx"]
    assert (model / "graph.weights").read_bytes() == (own / "graph.weights").read_bytes()


@pytest.mark.rtx
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the tensorrt-rtx package")
def test_tensorrt_rtx_finds_the_weights_in_the_folder_above(own: Path, tmp_path: Path) -> None:
    graph = own / "gear-rgb.cmdiad" / "graph.onnx"
    request = BuildRequest(graph=graph, library="tensorrt_rtx", precision="fp32", compute_capabilities=[86])
    fingerprint = build_engine(request, tmp_path / "engine")
    assert fingerprint.graph_sha256 == Bundle.open(graph.parent).record.graph.sha256
    (own / "graph.weights").rename(own / "moved")
    with pytest.raises(EngineError):
        build_engine(request, tmp_path / "other")


def test_signature_covers_the_weights(own: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from cmdiad_runtime.bundle.signature import new_key

    public = new_key(tmp_path / "line.key")
    change.sign_pattern_bundle(own, tmp_path / "line.key")
    content = bytearray((own / "graph.weights").read_bytes())
    content[-1] ^= 1
    (own / "graph.weights").write_bytes(bytes(content))
    with pytest.raises(BundleError, match=r"graph\.weights: found contents whose hash"):
        Bundle.open(own / "gear-rgb.cmdiad", require_signature=public)
