"""Builder and engines use only members of TensorRT and CUDA that every release has, or that `hasattr` detects."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cmdiad_runtime
from cmdiad_runtime.engines.building.builder import _TYPES
from doubles import VERSIONS, FakeCuda, fake_tensorrt, table

SOURCES = Path(cmdiad_runtime.__file__).parent
FILES = ["engines/building/builder.py", "engines/building/progress.py", "engines/_library.py", "engines/_tensorrt.py"]
MODULE = "module"
Use = tuple[str, str]

# What the variables of each file hold; the names are kept to that on purpose.
HOLDS = {
    "engines/building/builder.py": {
        "trt": MODULE,
        "self.trt": MODULE,
        "builder": "Builder",
        "network": "INetworkDefinition",
        "parser": "OnnxParser",
        "complaint": "ParserError",
        "config": "IBuilderConfig",
        "profile": "IOptimizationProfile",
        "layer": "ILayer",
        "output": "ITensor",
        "tensor": "ITensor",
        "cache": "ITimingCache",
        "trt.IBuilderConfig": "IBuilderConfig",
    },
    "engines/building/progress.py": {"trt": MODULE, "trt.IProgressMonitor": "IProgressMonitor"},
    "engines/_library.py": {"trt": MODULE, "base": "ILogger"},
    "engines/_tensorrt.py": {
        "trt": MODULE,
        "self._trt": MODULE,
        "engine": "ICudaEngine",
        "self._engine": "ICudaEngine",
        "runtime": "Runtime",
        "context": "IExecutionContext",
        "lane.context": "IExecutionContext",
        "config": "IRuntimeConfig",
        "cache": "IRuntimeCache",
        "self._kernels": "IRuntimeCache",
    },
}
OWN = {("ICudaEngine", "_load"), ("ICudaEngine", "close"), (MODULE, "__version__")}  # not the library's

# What only some releases have, and the member that the code asks for before it uses it.
ASKED_FOR: dict[Use, Use] = {
    ("IBuilderConfig", "set_compute_capability"): ("IBuilderConfig", "set_compute_capability"),
    (MODULE, "ComputeCapability"): ("IBuilderConfig", "set_compute_capability"),
    ("IBuilderConfig", "num_compute_capabilities"): ("IBuilderConfig", "num_compute_capabilities"),
    ("ICudaEngine", "create_runtime_config"): ("ICudaEngine", "create_runtime_config"),
    ("IRuntimeConfig", "set_execution_context_allocation_strategy"): ("ICudaEngine", "create_runtime_config"),
    ("IRuntimeConfig", "cuda_graph_strategy"): ("IRuntimeConfig", "cuda_graph_strategy"),
    (MODULE, "CudaGraphStrategy"): ("IRuntimeConfig", "cuda_graph_strategy"),
    ("IRuntimeConfig", "dynamic_shapes_kernel_specialization_strategy"): (
        "IRuntimeConfig",
        "dynamic_shapes_kernel_specialization_strategy",
    ),
    (MODULE, "DynamicShapesKernelSpecializationStrategy"): (
        "IRuntimeConfig",
        "dynamic_shapes_kernel_specialization_strategy",
    ),
    ("IRuntimeConfig", "create_runtime_cache"): ("IRuntimeConfig", "create_runtime_cache"),
    ("IRuntimeConfig", "set_runtime_cache"): ("IRuntimeConfig", "create_runtime_cache"),
    ("IRuntimeCache", "deserialize"): ("IRuntimeConfig", "create_runtime_cache"),
    ("IRuntimeCache", "serialize"): ("IRuntimeConfig", "create_runtime_cache"),
}

# Gone in TensorRT 11, or never part of TensorRT-RTX.
REMOVED = (
    "EXPLICIT_BATCH",
    "BuilderFlag.FP16",
    "BuilderFlag.BF16",
    "BuilderFlag.INT8",
    "OBEY_PRECISION_CONSTRAINTS",
    "PREFER_PRECISION_CONSTRAINTS",
    "platform_has_fast",
    "dynamic_range",
    "int8_calibrator",
    ".device_memory_size\n",
    "create_execution_context_without_device_memory",
    "execute_async_v2",
    "num_bindings",
    "binding_is_input",
    "max_workspace_size",
    "build_engine(network",
    "pycuda",
)


def tree_of(file: str) -> ast.Module:
    return ast.parse((SOURCES / file).read_text(encoding="utf-8"))


def uses_of(file: str) -> Iterator[Use]:
    """Class and member of each attribute of an object of the library in a file."""
    for found in ast.walk(tree_of(file)):
        if isinstance(found, ast.Attribute) and ast.unparse(found.value) in HOLDS[file]:
            use = (HOLDS[file][ast.unparse(found.value)], found.attr)
            if use not in OWN:
                yield use


def enum_uses_of(file: str) -> Iterator[Use]:
    """Enumeration and member of each `trt.SomeEnum.MEMBER`."""
    modules = {name for name, held in HOLDS[file].items() if held == MODULE}
    for found in ast.walk(tree_of(file)):
        if (
            isinstance(found, ast.Attribute)
            and isinstance(found.value, ast.Attribute)
            and ast.unparse(found.value.value) in modules
            and found.attr.isupper()
        ):
            yield found.value.attr, found.attr


def asked_in(file: str) -> set[str]:
    """Names that a file asks for with `hasattr`."""
    return {
        str(ast.literal_eval(call.args[1]))
        for call in ast.walk(tree_of(file))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "hasattr"
    }


def publishes(version: str, use: Use) -> bool:
    kind, member = use
    published = table(version)
    return member in (published["module"] if kind == MODULE else published["classes"].get(kind, {}))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES)
def test_every_member_is_published_or_asked_for(file: str, version: str) -> None:
    asked = asked_in(file)
    for use in set(uses_of(file)):
        if publishes(version, use):
            continue
        guard = ASKED_FOR.get(use)
        assert guard is not None, f"{version} has no {use}"
        assert guard[1] in asked, f"{file} uses {use} without asking for {guard}"
        assert not publishes(version, guard), f"{version} has {guard} but no {use}"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("file", FILES)
def test_every_constant_is_published_or_asked_for(file: str, version: str) -> None:
    published, asked = table(version), asked_in(file)
    for enum, member in set(enum_uses_of(file)):
        guard = ASKED_FOR.get((MODULE, enum))
        if guard is not None and not publishes(version, guard):
            assert guard[1] in asked
            continue
        assert member in published["enums"][enum], (version, enum, member)


def test_the_reading_of_the_sources_sees_what_matters() -> None:
    """Guards the two tests above against seeing nothing."""
    seen = {use for file in FILES for use in uses_of(file)}
    assert {
        ("Builder", "build_serialized_network"),
        ("IBuilderConfig", "progress_monitor"),
        ("ICudaEngine", "num_io_tensors"),
        ("ICudaEngine", "device_memory_size_v2"),
        ("IExecutionContext", "set_input_shape"),
        ("IExecutionContext", "set_tensor_address"),
        ("IExecutionContext", "execute_async_v3"),
        ("Runtime", "deserialize_cuda_engine"),
        ("OnnxParser", "parse"),
        *ASKED_FOR,
    } <= seen
    constants = {use for file in FILES for use in enum_uses_of(file)}
    assert {("ExecutionContextAllocationStrategy", "USER_MANAGED"), ("TensorIOMode", "INPUT")} <= constants


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("kind", sorted(_TYPES.values()))
def test_every_precision_has_a_tensor_type(version: str, kind: str) -> None:
    """`building` looks these up by name."""
    assert kind in table(version)["enums"]["DataType"]


@pytest.mark.parametrize("guard", sorted(set(ASKED_FOR.values())))
def test_what_is_asked_for_differs_between_releases(guard: Use) -> None:
    assert {publishes(version, guard) for version in VERSIONS} == {True, False}


@pytest.mark.parametrize("name", REMOVED)
def test_nothing_that_was_removed_is_used(name: str) -> None:
    for file in [*FILES, "bundle/built_engines.py", "engines/_cuda.py"]:
        assert name not in (SOURCES / file).read_text(encoding="utf-8")


def test_the_doubles_offer_nothing_that_no_release_publishes() -> None:
    pytest.importorskip("onnx")
    modules = [fake_tensorrt(version, FakeCuda()) for version in VERSIONS]
    for kind in {name for version in VERSIONS for name in table(version)["classes"]}:
        left_out = [set(getattr(getattr(trt, kind), "_left_out", ())) for trt in modules if hasattr(trt, kind)]
        assert not set.intersection(*left_out), kind


@pytest.mark.parametrize("version", VERSIONS)
def test_tables_name_their_source(version: str) -> None:
    assert version.removeprefix("rtx-") in table(version)["source"]
    assert table(version)["version"] == version.removeprefix("rtx-")


@pytest.mark.rtx
@pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs the tensorrt-rtx package")
def test_the_table_of_the_installed_release_is_true() -> None:
    import tensorrt_rtx

    stored = table(VERSIONS[-1])
    if tensorrt_rtx.__version__ != stored["version"]:
        pytest.skip(f"the table is of {stored['version']}, installed is {tensorrt_rtx.__version__}")
    sys.path.insert(0, str(Path(__file__).parent / "tensorrt_api"))
    try:
        from extract import table_of
    finally:
        sys.path.pop(0)
    assert table_of(tensorrt_rtx, stored["source"]) == stored


def cuda_names() -> set[str]:
    """Names of the CUDA runtime that the engines use."""
    names = set()
    for file in ("engines/_cuda.py", "engines/_tensorrt.py"):
        for found in ast.walk(tree_of(file)):
            if isinstance(found, ast.Attribute) and ast.unparse(found.value) in ("cuda", "self._cuda"):
                names.add(found.attr)
            if isinstance(found, ast.Constant) and re.fullmatch(r"cuda[A-Z]\w+", str(found.value)):
                names.add(found.value)
    return names - {"cudaSuccess"}  # only a word in a message


def test_cuda_names_exist_in_the_bindings_and_in_the_double() -> None:
    cuda = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    names = cuda_names()
    assert {"cudaHostAlloc", "cudaMalloc", "cudaGraphLaunch", "cudaMemcpyKind"} <= names
    for name in names:
        assert hasattr(cuda, name), name
        assert hasattr(FakeCuda, name), name
    assert int(cuda.cudaError_t.cudaSuccess) == 0
    for enum, members in {
        "cudaMemcpyKind": ("cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost"),
        "cudaStreamCaptureMode": ("cudaStreamCaptureModeThreadLocal",),
        "cudaDeviceAttr": ("cudaDevAttrComputeCapabilityMajor", "cudaDevAttrComputeCapabilityMinor"),
    }.items():
        for member in members:
            assert hasattr(getattr(cuda, enum), member)


def test_without_a_driver_the_first_call_is_an_error_and_no_crash() -> None:
    cuda = pytest.importorskip("cuda.bindings.runtime", reason="needs cuda-bindings")
    from cmdiad_runtime.engines._cuda import current_device
    from cmdiad_runtime.errors import EngineError

    if int(cuda.cudaGetDeviceCount()[0]) == 0:
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(EngineError, match=r"cuda\w+: found cudaError\w+ \("):
        current_device(cuda)
