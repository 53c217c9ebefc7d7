"""A budget for every graph that the recipe can make, from TensorRT-RTX's build log: no GPU is needed.

Memory on the device is weights and scratch. Weights are those of the graph; what a build takes on top, and scratch,
are held to budgets for the tiny recipe that leave room for another version (seen with 1.7.1 on five of the graphs: 8
to 41 MB of scratch). A graph that outgrows its budget, or that the library refuses, shows here and not on the line.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import nn

from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.graph.exporter import export_graph
from cmdiad_export.options import ExportOptions
from cmdiad_export.search.budget import BankSize
from cmdiad_export.search.choice import choose_candidates
from cmdiad_runtime.bundle.built_engines import profiles_of
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.golden import read_golden
from cmdiad_runtime.engines import Precision
from cmdiad_runtime.engines.building.builder import BuildRequest, build_engine
from cmdiad_runtime.engines.fingerprint import EngineFingerprint
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.detectors.bank.search.exact import BankSearch, SearchSettings
from cmdiad_train.recipe import RgbExtractor, SurfaceExtractor
from cmdiad_train.runs.run import load_run
from lanes import long, some

Cached = Callable[..., Path]
MB = 1_000_000
NORMALS = SurfaceExtractor("normals", RgbExtractor("resnet10t", (0, 1), 14))
VIT = RgbExtractor("test_vit", ())
GRAPHS: dict[tuple[str, str], dict[str, Any]] = {
    ("rgb", "none"): {},
    ("xyz", "none"): {},
    ("both", "none"): {},
    ("rgb", "f2f"): {},
    ("xyz", "f2f"): {},
    ("rgb", "f2i"): {},
    ("xyz", "f2i"): {},
    ("rgb", "i2f"): {},
    ("xyz", "i2f"): {},
}
SCRATCH = {"none": 48 * MB, "f2f": 48 * MB, "f2i": 48 * MB, "i2f": 32 * MB}
"""Of the tiny recipe, 112 pixels, F2I and I2F 56: mostly the first feature maps."""
CODE = 24 * MB
"""Of an engine for three targets, besides its weights."""

pytestmark = [
    pytest.mark.rtx,
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the tensorrt-rtx package"),
]


def build(bundle: Path, engine: Path) -> EngineFingerprint:
    opened = Bundle.open(bundle)
    request = BuildRequest(
        graph=opened.graph,
        library="tensorrt_rtx",
        precision=opened.precision,
        compute_capabilities=(89, 120) if opened.precision == "fp8" else (86, 89, 120),
        profiles=profiles_of(read_golden(opened.golden), opened.preprocessing.grid),
    )
    return build_engine(request, engine)


def check(built: EngineFingerprint, graph: Path, scratch: int) -> None:
    assert built.scratch_bytes is not None
    assert built.weights_bytes is not None
    assert 0 < built.scratch_bytes <= scratch, built.scratch_bytes / MB
    assert built.weights_bytes <= 1.3 * graph.stat().st_size + MB, built.weights_bytes / MB
    assert built.size_bytes <= built.weights_bytes + CODE, built.size_bytes / MB


@pytest.mark.parametrize(
    ("modality", "hallucination", "precision"),
    some(
        [(*graph, "fp16") for graph in GRAPHS]
        + [("rgb", "f2f", "fp32"), ("rgb", "f2f", "int8"), ("both", "none", "int8"), ("xyz", "none", "fp8")],
        [("both", "none", "fp16"), ("rgb", "f2f", "fp32"), ("rgb", "f2f", "int8"), ("xyz", "none", "fp8")],
    ),
)
def test_every_graph_builds_within_its_budget(
    exported: Cached, tmp_path: Path, modality: str, hallucination: str, precision: str
) -> None:
    bundle = exported(modality, hallucination, precision)
    check(build(bundle, tmp_path / "e.engine"), bundle / "graph.onnx", SCRATCH[hallucination])


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp16", "int8", "fp8"])
def test_a_vit_builds_within_its_budget(exported: Cached, tmp_path: Path, precision: str) -> None:
    bundle = exported("rgb", "f2f", precision, rgb=VIT)
    check(build(bundle, tmp_path / "e.engine"), bundle / "graph.onnx", SCRATCH["f2f"])


@pytest.mark.long
def test_a_surface_image_builds_within_its_budget(exported: Cached, tmp_path: Path) -> None:
    """Behind its input the graph is that of an image, which is built in every precision."""
    bundle = exported("xyz", "f2f", "fp16", xyz=NORMALS)
    check(build(bundle, tmp_path / "e.engine"), bundle / "graph.onnx", SCRATCH["f2f"])


class _Alone(nn.Module):
    """A search with the ports of a detector."""

    verdict = "image"
    searched_grids: Mapping[str, int] = MappingProxyType({})

    def __init__(self, search: BankSearch) -> None:
        super().__init__()
        self.search = search

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.search(inputs[0])


def search_scratch(folder: Path, half: bool, plan: SearchSettings) -> int:
    """Bytes of scratch that the build log names for a search alone, 1024 queries of 20 000 rows."""
    noise = torch.randn(21_024, 64, generator=torch.Generator().manual_seed(0))
    search = BankSearch(noise[:20_000], plan)
    search = (search.to_half() if half else search).eval()
    graph = folder / f"{plan.width}-{plan.chunk}.onnx"
    export_graph(_Alone(search), {"queries": noise[20_000:]}, graph)  # type: ignore[arg-type]
    request = BuildRequest(graph, "tensorrt_rtx", "fp16" if half else "fp32", compute_capabilities=(86,))
    built = build_engine(request, graph.with_suffix(".engine"))
    assert built.scratch_bytes is not None
    return built.scratch_bytes


@pytest.mark.parametrize("half", [False, long(True)])
def test_a_loop_saves_the_scratch_that_it_promises(tmp_path: Path, half: bool) -> None:
    size = BankSize(queries=1024, rows=20_000, channels=64, item=2 if half else 4)
    for plan in (SearchSettings(), SearchSettings(chunk=2048)):
        scratch = search_scratch(tmp_path, half, plan)
        assert size.scratch(plan) / 2 <= scratch <= size.scratch(plan), (plan, scratch / MB)


@pytest.mark.parametrize("half", [long(False), True])
def test_a_fast_search_builds_and_keeps_its_estimate(tmp_path: Path, half: bool) -> None:
    size = BankSize(queries=1024, rows=20_000, channels=64, item=2 if half else 4)
    for plan in (SearchSettings(32, 16), SearchSettings(32, 16, 2048)):
        scratch = search_scratch(tmp_path, half, plan)
        assert size.scratch(plan) / 2 <= scratch <= size.scratch(plan), (plan, scratch / MB)


@pytest.mark.long
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_detector_with_a_fast_search_builds(trained: Cached, tmp_path: Path, precision: Precision) -> None:
    run = load_run(trained("rgb", "f2f"))
    search = choose_candidates(run, "fast", SILENT)
    assert search.fast
    out = tmp_path / "b.cmdiad"
    write_bundle(run, out, ExportOptions(precision), SILENT, search=search)
    check(build(out, tmp_path / "e.engine"), out / "graph.onnx", SCRATCH["f2f"])
