"""The Python API, and what it does not import."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import cmdiad_runtime
from cmdiad_runtime import BundleError, EngineError, Inspector, OpenOptions, Sample, read_rgb, read_xyz
from cmdiad_runtime.bundle.golden import read_golden
from cmdiad_runtime.names import Verdict
from helpers import python, sample_files

Cached = Callable[..., Path]
DOCUMENTED = {
    "Bundle",
    "BundleError",
    "Calibration",
    "CertificateError",
    "CmdiadError",
    "EngineError",
    "InputError",
    "Inspection",
    "Inspector",
    "OpenOptions",
    "OutputError",
    "PatternInspector",
    "RunError",
    "Sample",
    "read_rgb",
    "read_xyz",
}


def test_public_door() -> None:
    assert set(cmdiad_runtime.__all__) == DOCUMENTED
    assert cmdiad_runtime.__all__ == sorted(cmdiad_runtime.__all__)
    for name in cmdiad_runtime.__all__:
        assert getattr(cmdiad_runtime, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'inspect_all'"):
        cmdiad_runtime.inspect_all  # noqa: B018


@pytest.mark.parametrize("modality", ["rgb", "xyz"])
def test_inspection_says_everything(data: Path, exported: Cached, modality: str) -> None:
    path = sample_files(data, "test", "good", modality)[0]
    sample = Sample("part 1", **{modality: read_rgb(path) if modality == "rgb" else read_xyz(path)})  # type: ignore[arg-type]
    with Inspector.open(exported(modality, "f2f", "fp16"), OpenOptions(modality=modality)) as inspector:  # type: ignore[arg-type]
        first, second = inspector.inspect(sample), inspector.inspect(sample)
        threshold = inspector.bundle.calibration.score_threshold
    assert first.name == "part 1"
    assert first.threshold == threshold
    assert first.verdict == ("NG" if first.score > threshold else "OK")
    assert first.map is not None
    assert (first.map.shape, first.map.dtype) == ((112, 112), np.float32)
    assert set(first.timings_ms) == {"preprocess", "engine", "map"}
    assert first.score == second.score
    np.testing.assert_array_equal(first.map, second.map)


def test_tampered_golden_samples_score_higher_than_good_ones(exported: Cached) -> None:
    with Inspector.open(exported("rgb")) as inspector:
        golden = read_golden(inspector.bundle.golden)
        scores = {sample.name: float(inspector.engine.run(sample.inputs)["map"].max()) for sample in golden}
        assert scores == pytest.approx({sample.name: sample.score for sample in golden}, rel=1e-3)
        assert inspector.bundle.calibration.score_threshold < max(scores.values())
    for number in range(3):
        assert scores[f"{number}-tampered"] > scores[f"{number}-good"]


def test_bundle_for_another_modality(exported: Cached) -> None:
    with pytest.raises(BundleError, match="found a bundle for --modality rgb. Expected one for --modality xyz"):
        Inspector.open(exported("rgb"), OpenOptions(modality="xyz"))


def test_unusable_sample_leaves_the_inspector_usable(data: Path, exported: Cached) -> None:
    good = read_rgb(sample_files(data, "test", "good", "rgb")[0])
    with Inspector.open(exported("rgb")) as inspector:
        dark = inspector.inspect(Sample("dark", rgb=np.zeros_like(good)))
        absent = inspector.inspect(Sample("cloud only", xyz=np.ones(good.shape, np.float32)))
        for refused, reason in ((dark, "no-contrast"), (absent, "missing-modality")):
            assert (refused.verdict, refused.inspected, refused.reason) == ("NG", False, reason)
            assert json.loads(json.dumps(refused.to_dict(), allow_nan=False))["score"] is None
            assert refused.overlay().shape == good.shape
            assert refused.heatmap().shape == good.shape[:2]
            assert np.isnan(refused.heatmap()).all()
        assert inspector.inspect(Sample("good", rgb=good)).score > 0


@pytest.mark.parametrize("modality", ["rgb", "xyz"])
def test_pictures_of_a_sample_that_is_too_large_stay_small(exported: Cached, modality: str) -> None:
    rgb = np.broadcast_to(np.uint8(9), (20_000, 20_000, 3))
    xyz = np.broadcast_to(np.float32(9), (20_000, 20_000, 3))
    with Inspector.open(exported("rgb")) as inspector:
        inspection = inspector.inspect(Sample("huge", rgb=rgb) if modality == "rgb" else Sample("huge", xyz=xyz))
    assert inspection.reason == ("too-large" if modality == "rgb" else "missing-modality")
    assert inspection.overlay().shape == (240, 320, 3)
    assert inspection.heatmap().shape == (0, 0)


@pytest.mark.parametrize("name", [7, None, b"part", Path("part.png")])
def test_name_that_is_no_text(name: object) -> None:
    with pytest.raises(TypeError, match=f"the name of a Sample is text, not {type(name).__name__}"):
        Sample(name)  # type: ignore[arg-type]


MAP = np.zeros((112, 112), np.float32)
BAD_MAPS: list[dict[str, np.ndarray]] = [
    {"map": np.where(np.arange(112) == 50, np.float32(value), MAP)} for value in (np.nan, np.inf, -np.inf, 1e30)
]
BAD_MAPS += [{"map": MAP - np.float32(1e30)}, {"map": MAP[:0]}, {"score": np.array([0], np.float32)}]
BAD_OUTPUTS: list[dict[str, np.ndarray]] = [
    {"score": np.array([np.nan], np.float32), "map": MAP},
    {"score": np.array([-np.inf], np.float32), "map": MAP},
    {"score": np.array([1e30], np.float32), "map": MAP},
    {"score": np.array([0, 0], np.float32), "map": MAP},
    {"score": np.array([0], np.float32), "map": np.full_like(MAP, np.nan)},
    {"score": np.array([0], np.float32), "map": MAP[0]},
    {"score": np.array([0], np.float32), "map": MAP[:50, :50]},
    {"score": np.array([0], np.float32), "map": MAP[None]},
    {"score": np.array([0], np.float32), "map": np.stack([MAP] * 3)},
    {"score": np.array([0], np.float32)},
    {"score": np.array([0], np.float32), **BAD_MAPS[0]},
    {"map": MAP},
    {},
]


@pytest.mark.parametrize(
    ("verdict", "outputs"), [*(("image", bad) for bad in BAD_OUTPUTS), *(("map", bad) for bad in BAD_MAPS)]
)
@pytest.mark.failure_mode("A score or map that is not a number, or of the wrong shape")
def test_outputs_that_are_no_result_are_never_ok(
    data: Path, exported: Cached, verdict: Verdict, outputs: dict[str, np.ndarray]
) -> None:
    class Broken:
        description = identity = "broken"

        def run(self, inputs: object) -> dict[str, np.ndarray]:
            return outputs

        def close(self) -> None:
            """Nothing to give back."""

    rgb = read_rgb(sample_files(data, "test", "good", "rgb")[0])
    with Inspector.open(exported("rgb")) as inspector:
        calibration = replace(inspector.bundle.calibration, verdict=verdict)
        broken = Inspector(replace(inspector.bundle, calibration=calibration), Broken())
        inspection = broken.inspect(Sample("part 7", rgb=rgb))
    assert (inspection.verdict, inspection.inspected, inspection.reason) == ("NG", False, "bad-output")


def test_absent_device_is_an_error_not_a_fallback(exported: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match=r"CUDAExecutionProvider. Run pip install \"cmdiad\[gpu\]\""):
        Inspector.open(exported("rgb"), OpenOptions(engine="cuda"))


def test_absent_onnxruntime_names_the_command_that_brings_it(exported: Cached, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(
        EngineError, match=r"package 'onnxruntime', which is not installed.*pip install \"cmdiad\[cpu\]\""
    ):
        Inspector.open(exported("rgb"))


def test_graph_that_the_engine_cannot_load(tmp_path: Path) -> None:
    from cmdiad_runtime.engines import open_engine

    graph = tmp_path / "graph.onnx"
    graph.write_bytes(b"not a graph")
    with pytest.raises(EngineError) as refused:
        open_engine(graph)
    assert refused.value.subject == str(graph)


def test_inputs_that_the_graph_does_not_take(exported: Cached) -> None:
    with (
        Inspector.open(exported("rgb")) as inspector,
        pytest.raises(EngineError, match="Expected a graph that runs in this engine"),
    ):
        inspector.engine.run({"rgb": np.zeros((1, 8, 8, 3), np.uint8)})


@pytest.mark.parametrize("modality", ["rgb", "xyz"])
def test_inspecting_imports_nothing_of_training(data: Path, exported: Cached, modality: str) -> None:
    code = """
import sys
from cmdiad import Inspector, OpenOptions, Sample, read_rgb, read_xyz
bundle, modality, path = sys.argv[1:]
sample = Sample("part", **{modality: (read_rgb if modality == "rgb" else read_xyz)(path)})
with Inspector.open(bundle, OpenOptions(modality=modality)) as inspector:
    print(inspector.inspect(sample).verdict)
heavy = ("torch", "torchvision", "timm", "onnx", "onnxscript", "sklearn", "safetensors")
heavy += ("scipy.ndimage", "scipy.sparse", "scipy.spatial") if modality == "rgb" else ()
print([m for m in (*heavy, "cmdiad_train", "cmdiad_export") if m in sys.modules])
"""
    path = sample_files(data, "test", "good", modality)[0]
    verdict, heavy = python(code, exported(modality, "f2f", "fp16"), modality, path).splitlines()
    assert verdict in ("OK", "NG")
    assert heavy == "[]"
