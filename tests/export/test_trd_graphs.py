"""The graph of every variant of reverse distillation: operators, precision of the parts, certificate, engine."""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from cmdiad_export.bundle_writer import write_bundle
from cmdiad_export.graph.passes.name_by_module import module_of
from cmdiad_export.options import ExportOptions
from cmdiad_export.precision.levels import is_within
from cmdiad_runtime.bundle.built_engines import profiles_of
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.golden import read_golden
from cmdiad_runtime.engines import Precision
from cmdiad_runtime.engines.building.builder import BuildRequest, build_engine
from cmdiad_runtime.support.reporter import SILENT
from cmdiad_train.extractors.torchvision_shim import make_torchvision_importable
from cmdiad_train.fit.fit import fit
from cmdiad_train.recipe import RgbExtractor
from cmdiad_train.runs.run import load_run
from helpers import tiny_trd_recipe
from lanes import long, some

Bundled = Callable[[str, str, Precision], Bundle]
TABLE = Path(__file__).parents[2] / "docs" / "reverse-distillation.md"


@pytest.fixture(scope="module")
def documented() -> set[str]:
    """Operators that the documentation lists; every engine has them."""
    section = TABLE.read_text(encoding="utf-8").partition("| graph | operators |")[2].partition("\n## ")[0]
    names = set(re.findall(r"[A-Z]\w+", section))
    assert {"Conv", "ReduceMax", "Split", "BatchNormalization"} <= names
    return names


@pytest.fixture(scope="session")
def bundled(fitted: Callable[..., Path], bundle_of: Callable[..., Path]) -> Bundled:
    """`bundled(variant, modality, precision)`: the bundle of a tiny run. All tests share it, and no test changes it."""
    return lambda variant, modality, precision: Bundle.open(bundle_of(fitted(variant, modality), precision))


@pytest.mark.parametrize(
    ("variant", "modality", "precision"),
    some(
        [
            ("mtfi-trd", "xyz", "fp32"),
            ("mtfi-trd", "xyz", "fp16"),
            ("rd", "rgb", "fp16"),
            ("trd", "both", "fp16"),
        ],
        [("mtfi-trd", "xyz", "fp32"), ("mtfi-trd", "xyz", "fp16")],
    ),
)
def test_graphs_consist_of_operators_that_every_engine_has(
    bundled: Bundled, documented: set[str], variant: str, modality: str, precision: Precision
) -> None:
    """An mtfi-rd differs from an rd in its training alone."""
    model = ir.load(bundled(variant, modality, precision).graph)
    kinds = Counter(node.op_type for node in model.graph)
    assert set(kinds) <= documented - {"BatchNormalization", "QuantizeLinear", "DequantizeLinear"}
    tuned = variant in ("trd", "mtfi-trd")
    assert kinds["ConvTranspose"] == (12 if tuned else 6) * (2 if modality == "both" else 1)
    assert not any(value.dtype == ir.DataType.DOUBLE for value in model.graph.initializers.values())


@pytest.fixture(scope="session")
def pre_activation(data: Path, own_copy: Callable[..., Path]) -> Path:
    """A run of plain reverse distillation whose teacher is a small `resnetv2_50`: BatchNorm before convolutions."""
    make_torchvision_importable()
    from timm.models import register_model, resnetv2

    @register_model
    def tiny_resnetv2(**options: Any) -> Any:
        return resnetv2.resnetv2_50(layers=(1, 1, 1, 1), channels=(32, 48, 64, 96), **options)

    recipe = tiny_trd_recipe("rd", "rgb", teacher=RgbExtractor("tiny_resnetv2", (0, 1, 2), None))
    return own_copy("rd-rgb-pre-activation", lambda run: fit(data, None, recipe, run))


@pytest.mark.parametrize("precision", ["fp16", long("int8"), long("int8-cpu")])
def test_a_pre_activation_teacher_keeps_batch_norms_before_its_convolutions(
    pre_activation: Path, bundle_of: Callable[..., Path], documented: set[str], precision: Precision
) -> None:
    bundle = Bundle.open(bundle_of(pre_activation, precision))
    kinds = Counter(node.op_type for node in ir.load(bundle.graph).graph)
    assert set(kinds) <= documented
    assert kinds["BatchNormalization"] > 0
    compared = bundle.manifest["certificate"]["comparisons"]
    assert [comparison["precision"] for comparison in compared] == list(dict.fromkeys(["fp32", precision]))
    assert all(comparison["passed"] for comparison in compared)


def test_level_weights_are_constants(bundled: Bundled) -> None:
    model = ir.load(bundled("mtfi-trd", "xyz", "fp16").graph)
    assert not any(node.op_type in ("Softmax", "Exp") for node in model.graph)


@pytest.mark.parametrize(("variant", "modality"), [("mtfi-trd", "xyz"), long("trd", "both")])
def test_sums_of_cosines_stay_fp32(fitted: Callable[..., Path], bundled: Bundled, variant: str, modality: str) -> None:
    model = ir.load(bundled(variant, modality, "fp16").graph)
    sums = [node for node in model.graph if node.op_type in ("ReduceSum", "Sqrt")]
    # Of each branch and level the product, two squares and two roots; the sums over levels, and over branches.
    branches = 2 if modality == "both" else 1
    assert len(sums) == branches * (3 * 5 + 1) + 1
    for node in sums:
        assert {value.dtype for value in (node.inputs[0], *node.outputs) if value} == {ir.DataType.FLOAT}
    networks = load_run(fitted(variant, modality)).detector.precision_parts().networks
    kernels = [node.inputs[1] for node in model.graph if node.op_type in ("Conv", "ConvTranspose")]
    assert {value.dtype for value in kernels if value} == {ir.DataType.FLOAT16}
    assert all(is_within(module_of(node), networks) for node in model.graph if "Conv" in node.op_type)


@pytest.mark.parametrize(
    ("variant", "modality", "precision"),
    [
        ("mtfi-trd", "xyz", "fp16"),
        *(long("trd", "both", precision) for precision in ("fp16", "int8", "int8-cpu")),
        *(long("mtfi-trd", "xyz", precision) for precision in ("int8", "int8-cpu")),
        *(long("rd", "rgb", precision) for precision in ("int8", "int8-cpu")),
        long("rd", "both", "fp16"),
    ],
)
def test_a_reduced_graph_passes_its_certificate(
    bundled: Bundled, variant: str, modality: str, precision: Precision
) -> None:
    manifest = bundled(variant, modality, precision).manifest
    _, reduced = manifest["certificate"]["comparisons"]
    assert reduced["precision"] == precision
    assert reduced["passed"]
    assert reduced["map_max_share"] > 0
    tolerance = manifest["certificate"]["tolerances"][precision]
    assert tolerance["score"] == (0.02 if precision == "fp16" else 0.05)


@pytest.mark.long
def test_int8_cpu_multiplies_integers(bundled: Bundled, tmp_path: Path) -> None:
    bundle = bundled("rd", "rgb", "int8-cpu")
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(bundle.graph, options, providers=["CPUExecutionProvider"])
    written, taken = (
        Counter(node.op_type for node in onnx.load(file).graph.node)
        for file in (bundle.graph, tmp_path / "optimised.onnx")
    )
    kept = len(bundle.manifest["graph"]["fp32_islands"])
    assert taken["QLinearConv"] == written["Conv"] - kept > kept


needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the tensorrt-rtx package"
)


@pytest.mark.rtx
@pytest.mark.long
@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_rtx_engine_is_built_without_a_gpu(bundled: Bundled, tmp_path: Path, precision: Precision) -> None:
    bundle = bundled("trd", "both", precision)
    request = BuildRequest(
        graph=bundle.graph,
        library="tensorrt_rtx",
        precision=bundle.precision,
        compute_capabilities=(86, 89, 120),
        profiles=profiles_of(read_golden(bundle.golden), bundle.preprocessing.grid),
    )
    built = build_engine(request, tmp_path / "trd.engine")
    assert built.size_bytes > 0
    assert built.scratch_bytes is not None
    assert built.scratch_bytes > 0


@pytest.mark.rtx
@pytest.mark.long
@needs_rtx
def test_size_and_scratch_of_an_engine_are_in_the_bundle(fitted: Callable[..., Path], tmp_path: Path) -> None:
    options = ExportOptions("fp16", target="rtx")
    manifest = write_bundle(load_run(fitted("rd", "rgb")), tmp_path / "rd.cmdiad", options, SILENT)
    (engine,) = manifest["engines"]
    assert engine["fingerprint"]["size_bytes"] > 0
    assert engine["fingerprint"]["scratch_bytes"] > 0
