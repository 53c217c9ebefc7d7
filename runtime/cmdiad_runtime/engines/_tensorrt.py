"""Run a TensorRT or TensorRT-RTX engine with preallocated page-locked buffers, few input shapes and CUDA graphs.

Only one input may have a dynamic axis: the first axis of `weights`, the distinct rows of a cloud. The rows are padded
with zeros to one of eight sizes. Padding changes no result: row 0 (background) already contains only zeros, and
`cells` never refers to a padded row. TensorRT requires a separate execution context and CUDA graph for each shape, so
there are at most eight. The contexts share one scratch memory, because runs never overlap.

TensorRT: after a warm-up the whole run (copy in, compute, copy out) is captured if the engine allows it, and every
result comes from the captured graph. TensorRT-RTX captures by itself. It specialises its kernels before the first
inference, so results never change because a kernel was swapped later.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.engines import Arrays, EngineLibrary
from cmdiad_runtime.engines._cuda import (
    Buffer,
    Device,
    checked,
    current_device,
    device_memory,
    load_cuda,
    new_buffer,
    new_stream,
)
from cmdiad_runtime.engines._library import LIBRARY_NAMES, first_error, load_library, log_of
from cmdiad_runtime.engines.fingerprint import EngineFingerprint
from cmdiad_runtime.errors import EngineError, OutputError
from cmdiad_runtime.support.cache import cache_place
from cmdiad_runtime.support.files import atomic_write

SHAPES = 8
"""Number of sizes to which a dynamic axis is padded."""

_REBUILD = "run cmdiad-build BUNDLE on this device, or cmdiad-run with --rebuild"
_DTYPES: dict[str, Any] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


@dataclass(frozen=True)
class Surroundings:
    """The installed library and the device of this process, which an engine must fit.

    Attributes:
        library: Import name of the library.
        version: Full version of the library.
        device: CUDA device.
    """

    library: EngineLibrary
    version: str
    device: Device

    def __str__(self) -> str:
        return f"{self.library} {self.version} on {self.device}"


@dataclass(frozen=True)
class _Tensor:
    """An input or output. If the first axis is dynamic, `shape` contains the largest number of rows."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    least_rows: int | None
    buffer: Buffer

    def bytes_of(self, rows: int) -> int:
        return self.dtype.itemsize * prod(self.shape if self.least_rows is None else (rows, *self.shape[1:]))

    def array(self) -> npt.NDArray[Any]:
        """Return the page-locked memory as an array of the largest shape."""
        return (
            self.buffer.host[: self.bytes_of(self.shape[0] if self.shape else 1)].view(self.dtype).reshape(self.shape)
        )


@dataclass
class _Lane:
    """Execution context of one input shape, and the captured CUDA graph if there is one."""

    rows: int
    context: Any
    graph: Any = None


def surroundings_of(library: EngineLibrary) -> Surroundings:
    """Return the installed library and the device of this process.

    Raises:
        EngineError: The library, CUDA or a device is missing.
    """
    trt = load_library(library)
    return Surroundings(library, str(trt.__version__), current_device(load_cuda()))


def mismatch_here(fingerprint: EngineFingerprint, here: Surroundings, graph_sha256: str) -> str | None:
    """Explain why an engine cannot run here, or return None if it can; see `EngineFingerprint.mismatch`."""
    return fingerprint.mismatch(
        library=here.library,
        library_version=here.version,
        compute_capability=here.device.compute_capability,
        graph_sha256=graph_sha256,
    )


class TensorRtEngine:
    """A loaded engine file; create one with `open`.

    Attributes:
        identity: Library, version and kind of device.
    """

    def __init__(self, trt: Any, cuda: Any, file: Path, here: Surroundings, kernels: Path | None) -> None:
        self.identity = str(here)
        self._trt, self._cuda, self._file, self._library = trt, cuda, file, here.library
        self._kernels_file = kernels
        self._lanes: dict[int, _Lane] = {}
        self._launch, self._captures_itself = "", False
        self._resources = ExitStack()
        self._engine: Any = None
        self._runtime: Any = None
        self._config: Any = None
        self._kernels: Any = None

    @classmethod
    def open(
        cls, library: EngineLibrary, file: Path, fingerprint: EngineFingerprint, graph_sha256: str
    ) -> TensorRtEngine:
        """Load an engine file.

        Args:
            library: Library that runs the engine.
            file: Engine file.
            fingerprint: Label of the engine file.
            graph_sha256: `graph_digest` of the bundle's graph, from which the engine must have been built.

        Raises:
            EngineError: The library, CUDA or a device is missing; the engine does not fit them or the graph; or the
                engine cannot be loaded.
            BundleError: The file is not the one that the fingerprint describes.
        """
        here, trt, cuda = surroundings_of(library), load_library(library), load_cuda()
        mismatch = mismatch_here(fingerprint, here, graph_sha256)
        if mismatch:
            raise EngineError(
                file,
                found=f"an engine that does not fit: {mismatch}",
                expected="an engine for this library, device and graph",
                action=_REBUILD,
            )
        fingerprint.check_file(file)
        engine = cls(trt, cuda, file, here, _kernels_file(fingerprint, here))
        try:
            engine._load()
        except BaseException:
            engine.close()
            raise
        return engine

    @property
    def description(self) -> str:
        """Return library, version, device and launch mode."""
        return f"{self.identity}{self._launch}"

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run the engine; see `Engine.run`."""
        if self._engine is None:
            raise EngineError(self._file, found="a closed engine", expected="an open one", action="open it again")
        rows = self._fill(inputs)
        lane = self._lane(rows)
        if lane.graph is None:
            self._enqueue(lane)
        else:
            checked(self._cuda, "cudaGraphLaunch", lane.graph, self._stream)
        checked(self._cuda, "cudaStreamSynchronize", self._stream)
        return {tensor.name: tensor.array().copy() for tensor in self._outputs}

    def close(self) -> None:
        """Release device memory; see `Engine.close`."""
        if self._engine is not None:
            self._keep_kernels()
        self._resources.close()
        self._engine = self._config = self._kernels = self._runtime = None

    # --- opening

    def _load(self) -> None:
        log_of(self._library).clear()
        self._stream = new_stream(self._cuda, self._resources)
        self._runtime = runtime = self._trt.Runtime(log_of(self._library))
        self._engine = engine = runtime.deserialize_cuda_engine(self._file.read_bytes())
        if engine is None:
            raise self._failure("an engine that this library loads")
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        self._tensors = [self._tensor(name) for name in names]
        is_input = {name: engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT for name in names}
        self._inputs = [tensor for tensor in self._tensors if is_input[tensor.name]]
        self._outputs = [tensor for tensor in self._tensors if not is_input[tensor.name]]
        self._dynamic = self._one_dynamic_input()
        self._scratch_bytes = int(engine.device_memory_size_v2)
        self._scratch = device_memory(self._cuda, self._scratch_bytes, self._resources)
        self._configure()

    def _tensor(self, name: str) -> _Tensor:
        engine = self._engine
        kind = engine.get_tensor_dtype(name).name
        shape = tuple(engine.get_tensor_shape(name))
        least = None
        if -1 in shape:
            if engine.get_tensor_mode(name) != self._trt.TensorIOMode.INPUT or -1 in shape[1:]:
                raise self._unusable(f"{name} {list(shape)}", "a dynamic axis only as the first axis of an input")
            smallest, _, largest = map(tuple, engine.get_tensor_profile_shape(name, 0))
            least, shape = int(smallest[0]), largest
        if kind not in _DTYPES or engine.get_tensor_location(name) != self._trt.TensorLocation.DEVICE:
            raise self._unusable(f"{name} of type {kind}", f"device tensors of type {', '.join(_DTYPES)}")
        dtype = np.dtype(_DTYPES[kind])
        return _Tensor(name, dtype, shape, least, new_buffer(self._cuda, dtype.itemsize * prod(shape), self._resources))

    def _one_dynamic_input(self) -> _Tensor | None:
        dynamic = [tensor for tensor in self._inputs if tensor.least_rows is not None]
        if len(dynamic) > 1:
            names = ", ".join(tensor.name for tensor in dynamic)
            raise self._unusable(f"dynamic inputs {names}", "at most one")
        return dynamic[0] if dynamic else None

    def _configure(self) -> None:
        """Enable CUDA graphs, early specialisation of kernels, and the cache of compiled kernels in TensorRT-RTX."""
        if not hasattr(self._engine, "create_runtime_config"):
            return
        trt, config = self._trt, self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if hasattr(config, "cuda_graph_strategy"):
            config.cuda_graph_strategy = trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
            self._launch, self._captures_itself = ", the library's CUDA graphs", True
        if hasattr(config, "dynamic_shapes_kernel_specialization_strategy"):
            strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            config.dynamic_shapes_kernel_specialization_strategy = strategy
        if hasattr(config, "create_runtime_cache"):
            cache = config.create_runtime_cache()
            if self._kernels_file is not None and self._kernels_file.is_file():
                cache.deserialize(self._kernels_file.read_bytes())  # Stays empty if the file is for another device.
            config.set_runtime_cache(cache)
            self._kernels = cache
        self._config = config

    def _keep_kernels(self) -> None:
        """Store compiled kernels for the next start. Without the cache the next start only takes longer."""
        if self._kernels is None or self._kernels_file is None:
            return
        with suppress(OSError, OutputError):
            self._kernels_file.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(self._kernels_file) as temporary:
                temporary.write_bytes(memoryview(self._kernels.serialize()))

    # --- running

    def _fill(self, inputs: Arrays) -> int:
        """Copy the inputs into page-locked memory; return the padded number of rows of the dynamic input, or 0."""
        expected = {tensor.name for tensor in self._inputs}
        if set(inputs) != expected:
            raise self._wrong_input(f"inputs {_listed(inputs)}", _listed(expected))
        for tensor in self._inputs:
            self._check_input(tensor, inputs[tensor.name])
        rows = 0
        if self._dynamic is not None:
            largest = self._dynamic.shape[0]
            rows = padded_rows(len(inputs[self._dynamic.name]), largest)
        for tensor in self._inputs:
            values, host = np.asarray(inputs[tensor.name]), tensor.array()
            if tensor.least_rows is None:
                np.copyto(host, values)
            else:
                host[: len(values)] = values
                host[len(values) : rows] = 0
        return rows

    def _check_input(self, tensor: _Tensor, values: npt.NDArray[Any]) -> None:
        problem = f"{tensor.name} {values.dtype} {list(values.shape)}"
        if tensor.least_rows is None:
            fits, expected = values.shape == tensor.shape, str(list(tensor.shape))
        else:
            least, largest, rest = tensor.least_rows, tensor.shape[0], tensor.shape[1:]
            fits = values.ndim == len(tensor.shape) and values.shape[1:] == rest and least <= len(values) <= largest
            expected = str([f"{least}-{largest}", *rest])
        if not fits or values.dtype != tensor.dtype:
            raise self._wrong_input(problem, f"{tensor.dtype} {expected}")

    def _lane(self, rows: int) -> _Lane:
        if rows not in self._lanes:
            lane = _Lane(rows, self._context(rows))
            self._enqueue(lane)  # Warm-up: TensorRT must do its lazy work before a capture, not inside.
            checked(self._cuda, "cudaStreamSynchronize", self._stream)
            self._lanes[rows] = lane
            self._resources.callback(self._lanes.pop, rows)
            if not self._captures_itself:
                self._capture(lane)
        return self._lanes[rows]

    def _context(self, rows: int) -> Any:
        user_managed = self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(user_managed if self._config is None else self._config)
        if context is None:
            raise self._failure("an execution context")
        context.set_device_memory(self._scratch, self._scratch_bytes)
        if self._dynamic is not None and not context.set_input_shape(
            self._dynamic.name, (rows, *self._dynamic.shape[1:])
        ):
            raise self._failure(f"{rows} rows of {self._dynamic.name}")
        for tensor in self._tensors:
            if not context.set_tensor_address(tensor.name, tensor.buffer.device_address):
                raise self._failure(f"an address for {tensor.name}")
        return context

    def _enqueue(self, lane: _Lane) -> None:
        """Enqueue copy in, inference and copy out on the stream."""
        cuda, kind = self._cuda, self._cuda.cudaMemcpyKind
        for tensor in self._inputs:
            buffer, size = tensor.buffer, tensor.bytes_of(lane.rows)
            to_device = (buffer.device_address, buffer.host_address, size, kind.cudaMemcpyHostToDevice)
            checked(cuda, "cudaMemcpyAsync", *to_device, self._stream)
        if not lane.context.execute_async_v3(int(self._stream)):
            raise self._failure("the engine to run")
        for tensor in self._outputs:
            buffer, size = tensor.buffer, tensor.bytes_of(lane.rows)
            to_host = (buffer.host_address, buffer.device_address, size, kind.cudaMemcpyDeviceToHost)
            checked(cuda, "cudaMemcpyAsync", *to_host, self._stream)

    def _capture(self, lane: _Lane) -> None:
        """Capture a run as a CUDA graph. Engines with loops may not allow this; then runs go without a graph."""
        cuda = self._cuda
        checked(
            cuda,
            "cudaStreamBeginCapture",
            self._stream,
            cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal,
        )
        with suppress(EngineError):
            self._enqueue(lane)
        status, graph = cuda.cudaStreamEndCapture(self._stream)
        cuda.cudaGetLastError()  # A failed capture leaves an error that the next call would report.
        if int(status) == 0 and graph is not None and int(graph) != 0:
            status, lane.graph = cuda.cudaGraphInstantiate(graph, 0)
            checked(cuda, "cudaGraphDestroy", graph)
            if int(status) != 0:
                lane.graph = None
        if lane.graph is not None:
            self._resources.callback(checked, cuda, "cudaGraphExecDestroy", lane.graph)
        self._launch = ", plain launches" if lane.graph is None else ", CUDA graph"

    # --- errors

    def _failure(self, expected: str) -> EngineError:
        return self._unusable(first_error(self._library), expected)

    def _unusable(self, problem: str, expected: str) -> EngineError:
        return EngineError(self._file, found=problem, expected=expected, action=_REBUILD)

    def _wrong_input(self, problem: str, expected: str) -> EngineError:
        action = "prepare the sample with this bundle's preprocessing"
        return EngineError(self._file, found=problem, expected=expected, action=action)


def padded_rows(rows: int, largest: int) -> int:
    """Return the smallest of `SHAPES` evenly spaced sizes up to `largest` that is at least `rows`."""
    step = -(-largest // SHAPES)
    return min(-(-rows // step) * step, largest)


def _kernels_file(fingerprint: EngineFingerprint, here: Surroundings) -> Path | None:
    folder = cache_place()  # It may be read-only: then the kernels are used and not stored.
    name = f"{fingerprint.engine_sha256[:16]}-sm{here.device.compute_capability}.kernels"
    return None if folder is None else folder / LIBRARY_NAMES[here.library].lower() / name


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)) or "none"
