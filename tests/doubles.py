"""Thin doubles of TensorRT's Python API and of CUDA's, for a machine without a GPU.

An engine computes with ONNX Runtime underneath, so what comes out are real numbers. What the doubles add are the
rules: names and calls are those that a release publishes (the tables in `runtime/tensorrt_api/`), memory is what was
allocated and no more, work on a stream happens when the stream is waited for, and a captured graph replays the
shapes of its capture. Whoever breaks a rule gets an AssertionError, which no engine catches.
"""

# ruff: noqa: N802, N815  (CUDA's names are CUDA's)

from __future__ import annotations

import ctypes
import enum
import functools
import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

TABLES = Path(__file__).parent / "runtime" / "engines" / "tensorrt_api"
VERSIONS = ("10.3.0", "10.16.1.11", "11.4.0.106", "rtx-1.7.1.116")


@functools.cache
def table(version: str) -> dict[str, Any]:
    """What a release publishes."""
    return json.loads((TABLES / f"{version}.json").read_text(encoding="utf-8"))


# --- CUDA --------------------------------------------------------------------------------------------------------


class Handle:
    """An opaque handle, as cuda-bindings has them."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.operations: list[Callable[[], None]] = []
        self.captured: list[Callable[[], None]] | None = None
        self.capture_broken = False

    def __int__(self) -> int:
        return self.number


class FakeCuda(types.ModuleType):
    """The functions of `cuda.bindings.runtime` that the engines use, over plain memory.

    Args:
        name: of the device.
        capability: (major, minor).
    """

    cudaSuccess, cudaErrorMemoryAllocation, cudaErrorStreamCaptureInvalidated = 0, 2, 901
    cudaStreamNonBlocking, cudaHostAllocDefault = 1, 0
    cudaMemcpyKind = types.SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)
    cudaDeviceAttr = types.SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )
    cudaStreamCaptureMode = types.SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)

    def __init__(self, name: str = "NVIDIA Double", capability: tuple[int, int] = (8, 7)) -> None:
        super().__init__("cuda.bindings.runtime")
        self.device_name, self.capability = name, dict(zip(("major", "minor"), capability, strict=True))
        self.memory_limit = 1 << 32
        self.capturing_allowed = True
        self.host: dict[int, Any] = {}
        self.device: dict[int, Any] = {}
        self.handles: dict[str, set[Handle]] = {"stream": set(), "graph": set(), "executable": set()}
        self.calls: list[str] = []
        self._numbers = iter(range(1, 1 << 30))

    def assert_all_freed(self) -> None:
        assert not self.host, "page-locked memory left"
        assert not self.device, "device memory left"
        assert not any(self.handles.values()), "streams or graphs left"

    def view(self, address: int, size: int, side: dict[int, Any]) -> np.ndarray:
        """`size` bytes at an address, which must lie in one live allocation of that side."""
        for begin, block in side.items():
            if begin <= address and address + size <= begin + len(block):
                return np.frombuffer(block, np.uint8)[address - begin : address - begin + size]
        raise AssertionError(f"{size} bytes at {address:#x} were not allocated")

    def cudaGetErrorName(self, status: int) -> tuple[int, bytes]:
        return 0, {2: b"cudaErrorMemoryAllocation", 901: b"cudaErrorStreamCaptureInvalidated"}.get(status, b"other")

    def cudaGetErrorString(self, status: int) -> tuple[int, bytes]:
        return 0, b"out of memory" if status == self.cudaErrorMemoryAllocation else b"operation failed"

    def cudaGetLastError(self) -> tuple[int]:
        return (0,)

    def cudaGetDevice(self) -> tuple[int, int]:
        return 0, 0

    def cudaDeviceGetAttribute(self, attribute: str, device: int) -> tuple[int, int]:
        return 0, self.capability[attribute]

    def cudaGetDeviceProperties(self, device: int) -> tuple[int, Any]:
        return 0, types.SimpleNamespace(name=self.device_name.encode().ljust(256, b"\0"))

    def _allocate(self, size: int, side: dict[int, Any]) -> tuple[int, int | None]:
        assert size > 0
        if size + sum(len(block) for block in side.values()) > self.memory_limit:
            return self.cudaErrorMemoryAllocation, None
        block = (ctypes.c_uint8 * size)(*([0xCD] * min(size, 64)))
        side[ctypes.addressof(block)] = block
        return 0, ctypes.addressof(block)

    def cudaMalloc(self, size: int) -> tuple[int, int | None]:
        return self._allocate(size, self.device)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[int, int | None]:
        return self._allocate(size, self.host)

    def cudaFree(self, address: int) -> tuple[int]:
        del self.device[address]
        return (0,)

    def cudaFreeHost(self, address: int) -> tuple[int]:
        del self.host[address]
        return (0,)

    def _new(self, kind: str) -> Handle:
        handle = Handle(next(self._numbers))
        self.handles[kind].add(handle)
        return handle

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[int, Handle]:
        assert flags == self.cudaStreamNonBlocking, "the default stream would wait for others"
        return 0, self._new("stream")

    def cudaStreamDestroy(self, stream: Handle) -> tuple[int]:
        self.handles["stream"].remove(stream)
        return (0,)

    def stream(self, number: int) -> Handle:
        (found,) = (each for each in self.handles["stream"] if each.number == number)
        return found

    def enqueue(self, stream: Handle, operation: Callable[[], None]) -> None:
        assert stream in self.handles["stream"]
        (stream.operations if stream.captured is None else stream.captured).append(operation)

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: int, stream: Handle) -> tuple[int]:
        sides = (self.device, self.host) if kind == 1 else (self.host, self.device)
        target, origin = (self.view(each, size, side) for each, side in zip((to, source), sides, strict=True))
        self.calls.append("copy")
        self.enqueue(stream, lambda: np.copyto(target, origin))
        return (0,)

    def cudaStreamSynchronize(self, stream: Handle) -> tuple[int]:
        assert stream.captured is None, "waiting breaks a capture"
        while stream.operations:
            stream.operations.pop(0)()
        return (0,)

    def cudaStreamBeginCapture(self, stream: Handle, mode: int) -> tuple[int]:
        assert not stream.operations, "unfinished work before a capture"
        stream.captured, stream.capture_broken = [], False
        return (0,)

    def cudaStreamEndCapture(self, stream: Handle) -> tuple[int, Handle | None]:
        captured, stream.captured = stream.captured, None
        assert captured is not None
        if stream.capture_broken:
            return self.cudaErrorStreamCaptureInvalidated, None
        graph = self._new("graph")
        graph.operations = captured
        return 0, graph

    def cudaGraphInstantiate(self, graph: Handle, flags: int) -> tuple[int, Handle]:
        executable = self._new("executable")
        executable.operations = graph.operations
        return 0, executable

    def cudaGraphDestroy(self, graph: Handle) -> tuple[int]:
        self.handles["graph"].remove(graph)
        return (0,)

    def cudaGraphExecDestroy(self, executable: Handle) -> tuple[int]:
        self.handles["executable"].remove(executable)
        return (0,)

    def cudaGraphLaunch(self, executable: Handle, stream: Handle) -> tuple[int]:
        assert executable in self.handles["executable"]
        self.calls.append("graph")
        stream.operations += executable.operations
        return (0,)


# --- TensorRT ----------------------------------------------------------------------------------------------------

TYPES = {
    "tensor(float)": ("FLOAT", np.float32),
    "tensor(float16)": ("HALF", np.float16),
    "tensor(uint8)": ("UINT8", np.uint8),
    "tensor(int32)": ("INT32", np.int32),
    "tensor(int64)": ("INT64", np.int64),
}
SCRATCH_BYTES = 4096


class Published:
    """An object with no attributes but those that its class publishes, like one of the compiled bindings."""

    def __setattr__(self, name: str, value: Any) -> None:
        is_subclass = type(self).__module__ != __name__
        if not (is_subclass or name.startswith("_") or hasattr(type(self), name)):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        super().__setattr__(name, value)


@functools.cache
def enums_of(version: str) -> dict[str, Any]:
    """Return the enumerations of a release by name. All tests share them, and no test changes them."""
    return {name: enum.IntEnum(name, members) for name, members in table(version)["enums"].items()}


def fake_tensorrt(version: str, cuda: FakeCuda) -> types.ModuleType:
    """A module that offers what a release publishes, and whose engines compute with ONNX Runtime."""
    import onnx
    import onnxruntime

    published = table(version)
    trt = types.ModuleType("tensorrt_rtx" if version.startswith("rtx") else "tensorrt")
    trt.__version__ = published["version"]  # type: ignore[attr-defined]
    enums = enums_of(version)
    vars(trt).update(enums)
    kinds, modes = enums["DataType"], enums["TensorIOMode"]
    user_managed = enums["ExecutionContextAllocationStrategy"]["USER_MANAGED"]

    class ILogger(Published):
        Severity = (
            enums["Severity"]
            if "Severity" in enums
            else enum.IntEnum("Severity", {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4})
        )

        def log(self, severity: Any, msg: str) -> None:
            raise NotImplementedError

    class IProgressMonitor(Published):
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
        def step_complete(self, phase_name: str, step: int) -> bool: ...
        def phase_finish(self, phase_name: str) -> None: ...

    class IHostMemory(bytes):
        @property
        def nbytes(self) -> int:
            return len(self)

    class ITimingCache(Published):
        def __init__(self, blob: bytes) -> None:
            self._blob = blob

        def serialize(self) -> IHostMemory:
            return IHostMemory(self._blob + b"timed")

    class IRuntimeCache(Published):
        def __init__(self) -> None:
            self._blob = b""

        def deserialize(self, blob: bytes) -> bool:
            self._blob = bytes(blob)
            return True

        def serialize(self) -> IHostMemory:
            return IHostMemory(self._blob + b"compiled")

    class IRuntimeConfig(Published):
        cuda_graph_strategy = dynamic_shapes_kernel_specialization_strategy = None
        _cache: Any = None
        _strategy: Any = None

        def set_execution_context_allocation_strategy(self, strategy: Any) -> None:
            self._strategy = strategy

        def create_runtime_cache(self) -> IRuntimeCache:
            return IRuntimeCache()

        def set_runtime_cache(self, cache: Any) -> bool:
            self._cache = cache
            return True

    class IOptimizationProfile(Published):
        def __init__(self) -> None:
            self._shapes: dict[str, Any] = {}

        def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
            self._shapes[input] = [list(min), list(opt), list(max)]

    class ITensor(Published):
        name = dtype = shape = None

        def __init__(self, name: str, dtype: Any, shape: Any) -> None:
            self.name, self.dtype, self.shape = name, dtype, shape

    class ILayer(Published):
        num_outputs = 1

        def __init__(self, output: ITensor) -> None:
            self._output = output

        def get_output(self, index: int) -> ITensor:
            return self._output

    class INetworkDefinition(Published):
        num_inputs = num_layers = 0

        def __init__(self, flags: int) -> None:
            assert flags == 1 << enums["NetworkDefinitionCreationFlag"]["STRONGLY_TYPED"], "types must be the graph's"
            self._source = b""
            self._inputs: list[ITensor] = []
            self._layers: list[ILayer] = []

        def get_input(self, index: int) -> ITensor:
            return self._inputs[index]

        def get_layer(self, index: int) -> ILayer:
            return self._layers[index]

    class ParserError(Published):
        def __init__(self, text: str) -> None:
            self._text = text

        def desc(self) -> str:
            return self._text

        def node(self) -> int:
            return -1

        def node_name(self) -> str:
            return ""

        def node_operator(self) -> str:
            return ""

    class OnnxParser(Published):
        num_errors = 0

        def __init__(self, network: INetworkDefinition, logger: Any) -> None:
            self._network = network

        def parse(self, model: bytes, path: str | None = None) -> bool:
            try:
                parsed = onnx.shape_inference.infer_shapes(onnx.load_from_string(model))
            except Exception:
                self.num_errors = 1
                return False
            network, graph = self._network, parsed.graph
            network._source = model
            constants = {each.name for each in graph.initializer}
            network._inputs = [tensor(value) for value in graph.input if value.name not in constants]
            network._layers = [ILayer(tensor(value)) for value in [*graph.value_info, *graph.output]]
            network.num_inputs, network.num_layers = len(network._inputs), len(network._layers)
            return True

        def get_error(self, index: int) -> ParserError:
            return ParserError("Failed to parse the ONNX model. In parse at /_src/parser.cpp:1")

    def tensor(value: Any) -> ITensor:
        onnx_kind = value.type.tensor_type
        shape = [each.dim_value if each.HasField("dim_value") else -1 for each in onnx_kind.shape.dim]
        names = {1: "FLOAT", 2: "UINT8", 6: "INT32", 7: "INT64", 9: "BOOL", 10: "HALF"}
        return ITensor(value.name, kinds[names[onnx_kind.elem_type]], shape)

    class IBuilderConfig(Published):
        progress_monitor = None
        num_compute_capabilities = 0

        def __init__(self) -> None:
            self._profile: Any = None
            self._timings: Any = None
            self._flags = {"TF32"}
            self._targets: dict[int, Any] = {}

        def set_compute_capability(self, compute_capability: Any, index: int) -> bool:
            assert index < self.num_compute_capabilities
            self._targets[index] = compute_capability
            return True

        def clear_flag(self, flag: Any) -> None:
            self._flags.discard(flag.name)

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self._profile = profile
            return 0

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache:
            return ITimingCache(bytes(serialized_timing_cache))

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            assert not ignore_mismatch
            self._timings = cache
            return True

        def get_timing_cache(self) -> Any:
            return self._timings

    class Builder(Published):
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            return INetworkDefinition(flags)

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> Any:
            assert "TF32" not in config._flags, "fp32 must mean fp32"
            monitor = config.progress_monitor
            monitor.phase_start("Building", None, 4)
            for step in range(4):
                if not monitor.step_complete("Building", step):
                    self._logger.log(ILogger.Severity.ERROR, "build cancelled")
                    return None
            monitor.phase_finish("Building")
            verbose = ILogger.Severity.VERBOSE
            self._logger.log(verbose, f"[MemUsage] Total Activation Memory: {SCRATCH_BYTES} bytes")
            self._logger.log(verbose, "Total Weights Memory: 1000 bytes")
            self._logger.log(verbose, "After final dead-layer removal: 7 layers")
            shapes = {} if config._profile is None else config._profile._shapes
            head = json.dumps({"version": trt.__version__, "profiles": shapes}).encode()
            return IHostMemory(len(head).to_bytes(4, "little") + head + network._source)

    class IExecutionContext(Published):
        def __init__(self, engine: ICudaEngine, strategy: Any) -> None:
            assert strategy == user_managed, "scratch memory is shared by the contexts"
            self._engine, self._shapes = engine, dict(engine._shapes)
            self._addresses: dict[str, int] = {}
            self._scratch: tuple[int, int] | None = None

        def set_device_memory(self, memory: int, size: int) -> None:
            assert size >= self._engine.device_memory_size_v2
            cuda.view(memory, size, cuda.device)
            self._scratch = (memory, size)

        def set_input_shape(self, name: str, shape: Any) -> bool:
            smallest, _, largest = self._engine._profiles[name]
            fits = all(a <= b <= c for a, b, c in zip(smallest, shape, largest, strict=True))
            if fits:
                self._shapes[name] = list(shape)
            return fits

        def set_tensor_address(self, name: str, memory: int) -> bool:
            assert name in self._engine._shapes
            self._addresses[name] = memory
            return True

        def is_stream_capturable(self, stream: int) -> bool:
            return cuda.capturing_allowed

        def execute_async_v3(self, stream_handle: int) -> bool:
            assert isinstance(stream_handle, int)
            assert self._scratch is not None, "no scratch memory was given"
            assert not any(-1 in shape for shape in self._shapes.values()), "a shape was not set"
            engine, stream = self._engine, cuda.stream(stream_handle)
            if stream.captured is not None and not cuda.capturing_allowed:
                stream.capture_broken = True
                engine._logger.log(ILogger.Severity.ERROR, "operation not permitted when stream is capturing")
                return False
            views = {name: self._view(name) for name in engine._shapes}

            def compute() -> None:
                assert self._scratch is not None
                cuda.view(*self._scratch, cuda.device)
                results = engine._session.run(list(engine._outputs), {name: views[name] for name in engine._inputs})
                for name, result in zip(engine._outputs, results, strict=True):
                    np.copyto(views[name], result)

            cuda.calls.append("execute")
            cuda.enqueue(stream, compute)
            return True

        def _view(self, name: str) -> np.ndarray:
            dtype, shape = np.dtype(self._engine._types[name][1]), self._shapes[name]
            size = int(np.prod(shape)) * dtype.itemsize
            return cuda.view(self._addresses[name], size, cuda.device).view(dtype).reshape(shape)

    class ICudaEngine(Published):
        num_io_tensors = device_memory_size_v2 = 0

        def __init__(self, source: bytes, profiles: dict[str, Any], logger: Any) -> None:
            options = onnxruntime.SessionOptions()
            options.intra_op_num_threads = 1
            self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
            ports = [*self._session.get_inputs(), *self._session.get_outputs()]
            self._shapes = {p.name: [n if isinstance(n, int) else -1 for n in p.shape] for p in ports}
            self._types = {p.name: TYPES[p.type] for p in ports}
            self._inputs = [p.name for p in self._session.get_inputs()]
            self._outputs = [p.name for p in self._session.get_outputs()]
            self._profiles, self._logger = profiles, logger
            self.num_io_tensors, self.device_memory_size_v2 = len(ports), SCRATCH_BYTES

        def get_tensor_name(self, index: int) -> str:
            return [*self._inputs, *self._outputs][index]

        def get_tensor_mode(self, name: str) -> Any:
            return modes["INPUT" if name in self._inputs else "OUTPUT"]

        def get_tensor_dtype(self, name: str) -> Any:
            return kinds[self._types[name][0]]

        def get_tensor_shape(self, name: str) -> list[int]:
            return self._shapes[name]

        def get_tensor_location(self, name: str) -> Any:
            return enums["TensorLocation"]["DEVICE"]

        def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Any]:
            assert profile_index == 0
            return self._profiles[name]

        def create_runtime_config(self) -> IRuntimeConfig:
            return IRuntimeConfig()

        def create_execution_context(self, strategy: Any = None) -> IExecutionContext:
            return IExecutionContext(self, strategy._strategy if isinstance(strategy, IRuntimeConfig) else strategy)

    class Runtime(Published):
        def __init__(self, logger: Any) -> None:
            self._logger = logger

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
            length = int.from_bytes(serialized_engine[:4], "little")
            head, source = serialized_engine[4 : 4 + length], serialized_engine[4 + length :]
            try:
                label = json.loads(head)
            except ValueError:
                self._logger.log(
                    ILogger.Severity.ERROR, "Serialization assertion magicTag failed. In f at /_src/a.cpp:1"
                )
                return None
            assert label["version"] == trt.__version__
            return ICudaEngine(source, label["profiles"], self._logger)

    parts = dict(locals())
    for name in published["classes"]:
        if name in parts:
            vars(trt)[name] = hold_to(parts[name], published["classes"][name])
    return trt


def install(
    version: str, monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int] = (8, 6)
) -> tuple[FakeCuda, types.ModuleType]:
    """Put the doubles of a release and of CUDA in place of the real packages for one test."""
    from cmdiad_runtime.engines import _library

    cuda = FakeCuda(capability=capability)
    trt = fake_tensorrt(version, cuda)
    monkeypatch.setitem(sys.modules, trt.__name__, trt)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", cuda)
    monkeypatch.setattr(_library, "log_of", functools.cache(_library.log_of.__wrapped__))
    for user in ("engines.building.builder", "engines._tensorrt"):
        monkeypatch.setattr(f"cmdiad_runtime.{user}.log_of", _library.log_of)
    return cuda, trt


def hold_to(kind: type, members: dict[str, list[str]]) -> type:
    """Take from a class what a release does not publish, and check calls against its signatures."""
    for name, member in list(vars(kind).items()):
        if name.startswith("_") or isinstance(member, type):
            continue
        if name not in members:
            delattr(kind, name)
            kind._left_out = {*getattr(kind, "_left_out", ()), name}  # type: ignore[attr-defined]
        elif isinstance(member, types.FunctionType):
            setattr(kind, name, checked_call(member, members[name]))
    return kind


def checked_call(function: types.FunctionType, signatures: list[str]) -> Callable[..., Any]:
    """The function, refusing arguments that none of the published signatures takes."""
    forms = [parameters(signature) for signature in signatures]

    @functools.wraps(function)
    def call(self: Any, *arguments: Any, **named: Any) -> Any:
        given = len(arguments)
        assert any(
            given <= len(form)
            and set(named) <= {name for name, _ in form[given:]}
            and all(optional or name in named for name, optional in form[given:])
            for form in forms
        ), f"{function.__name__} takes {signatures}"
        return function(self, *arguments, **named)

    return call


def parameters(signature: str) -> list[tuple[str, bool]]:
    """Name, and whether it may be left out, of each parameter of a signature line, without `self`."""
    inside = signature[signature.index("(") + 1 : signature.rindex(")")]
    parts = re.split(r",\s*(?=\w+\s*:)", inside)
    return [(part.split(":")[0].strip(), " = " in part) for part in parts if not part.startswith("self")]
