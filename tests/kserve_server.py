"""A server of the KServe v2 protocol over gRPC or HTTP, in the manner of Triton, which runs models with ONNX Runtime.

It reads a model repository as Triton does in explicit mode, and refuses what Triton refuses: a configuration with
unknown fields, a name unlike the folder's, a batch dimension, wrong warm-up files, requests with another type, shape
or number of bytes. `kserve_http` answers by HTTP. Faults can be switched on to see what a client makes of them.
"""

# ruff: noqa: N802  (the names of the verbs are those of the protocol)

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import grpc
import numpy as np
import onnxruntime
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc
from tritonclient.utils import triton_to_np_dtype

from kserve_http import HttpDoor
from patience import LIMIT_S

Protocol = Literal["grpc", "http"]
Fault = Literal["", "hang", "shape", "type", "nan", "nothing", "name", "version", "missing", "bytes", "uncounted"]
LARGEST = (1 << 31) - 1
OPTIONS = [("grpc.max_send_message_length", LARGEST), ("grpc.max_receive_message_length", LARGEST)]
MANY = 10_000_000
"""A number of inferences that no server makes during a test."""
BACKENDS = {"onnxruntime": "model.onnx"}


class RefusalError(Exception):
    """A request or model that Triton refuses."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def refuse(message: str, code: grpc.StatusCode = grpc.StatusCode.INVALID_ARGUMENT) -> RefusalError:
    return RefusalError(code, message)


@dataclass
class Loaded:
    """A loaded model; a new one with a count of 0 each time it is loaded."""

    config: Any
    session: onnxruntime.InferenceSession
    count: int = 0


def read_config(folder: Path) -> Any:
    """Read config.pbtxt strictly, with the rules of Triton that concern models of cmdiad."""
    config = text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    if config.name != folder.name:
        raise refuse(f"unexpected directory name '{folder.name}' for model '{config.name}'")
    if config.backend not in BACKENDS or config.max_batch_size != 0:
        raise refuse("this server has the backend onnxruntime and no batches")
    if config.HasField("dynamic_batching"):
        raise refuse("dynamic batching needs max_batch_size > 0")
    if list(config.version_policy.specific.versions) != [1]:
        raise refuse("no version to load")
    if not config.input or not config.output or any(not port.dims for port in [*config.input, *config.output]):
        raise refuse("an input or output without dims")
    if any(group.count < 1 for group in config.instance_group):
        raise refuse("instance group without instances")
    return config


def load_model(folder: Path) -> Loaded:
    config = read_config(folder)
    file = folder / "1" / (config.default_model_filename or BACKENDS[config.backend])
    if file.is_dir():
        file = file / "model.onnx"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    kinds = {port.name: port.type for port in [*session.get_inputs(), *session.get_outputs()]}
    stated = {port.name for port in [*config.input, *config.output]}
    if stated != set(kinds):
        raise refuse(f"ports {stated} in the configuration, {set(kinds)} in the model")
    model = Loaded(config, session)
    for sample in config.model_warmup:
        if sample.batch_size != 1 or sample.inputs.keys() != {port.name for port in config.input}:
            raise refuse("a warm-up with another batch size or other inputs")
        feeds = {name: warm_up_input(folder, entry) for name, entry in sample.inputs.items()}
        session.run(None, feeds)
    return model


def warm_up_input(folder: Path, entry: Any) -> np.ndarray:
    content = (folder / "warmup" / entry.input_data_file).read_bytes()
    dtype = np.dtype(np_type(datatype_of(entry.data_type)))
    if len(content) != dtype.itemsize * int(np.prod(entry.dims)):
        raise refuse(f"warm-up file of {len(content)} bytes")
    return np.frombuffer(content, dtype).reshape(entry.dims)


def datatype_of(number: int) -> str:
    return model_config_pb2.DataType.Name(number).removeprefix("TYPE_")


def np_type(datatype: str) -> Any:
    dtype = triton_to_np_dtype(datatype)
    assert dtype is not None, datatype
    return dtype


class KServeServer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """The server; see the module. `port` stays the same over `stop` and `start`.

    Attributes:
        protocol: Protocol that it answers.
        fault: Fault of the following inferences.
        calls: Names of the verbs that were called.
    """

    def __init__(self, repository: Path, credentials: Any = None, protocol: Protocol = "grpc") -> None:
        self.repository, self.protocol = repository, protocol
        self.fault: Fault = ""
        self.calls: list[str] = []
        self.port = 0
        self._credentials = credentials
        self._models: dict[str, Loaded] = {}
        self._regions: dict[str, mmap.mmap] = {}
        self._released = threading.Event()
        self._server: Any = None

    # --- life

    @property
    def address(self) -> str:
        """Address without a scheme for gRPC, as it is usual on one machine."""
        return f"127.0.0.1:{self.port}" if self.protocol == "grpc" else f"http://127.0.0.1:{self.port}"

    def start(self, *models: str) -> None:
        for name in models:
            self.load(name)
        self._released.clear()
        if self.protocol == "http":
            self._server = HttpDoor(self, self.port, self._credentials)
            self.port = self._server.server_port
            return
        self._server = grpc.server(
            ThreadPoolExecutor(8, thread_name_prefix="kserve"), options=[*OPTIONS, ("grpc.so_reuseport", 0)]
        )
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self._server)
        place = f"127.0.0.1:{self.port}"
        add = self._server.add_insecure_port
        self.port = add(place) if self._credentials is None else self._server.add_secure_port(place, self._credentials)
        self._server.start()

    def stop(self) -> None:
        """End as a killed server does: nothing stays in memory."""
        self._released.set()
        if isinstance(self._server, HttpDoor):
            self._server.stop()
        elif self._server is not None:
            self._server.stop(0).wait()
        self._server = None
        self._models.clear()
        for region in self._regions.values():
            region.close()
        self._regions.clear()

    def load(self, name: str) -> None:
        self._models[name] = load_model(self.repository / name)

    def count(self, name: str, inferences: int = MANY) -> None:
        """Set the number of inferences of a model, as if other lines used the model too."""
        self._models[name].count = inferences

    # --- verbs

    def __getattribute__(self, name: str) -> Any:
        method = super().__getattribute__(name)
        if not name[0].isupper():
            return method

        def verb(request: Any, context: Any) -> Any:
            self.calls.append(name)
            try:
                return method(request, context)
            except RefusalError as refusal:
                context.abort(refusal.code, str(refusal))

        return verb

    def _model(self, name: str, version: str) -> Loaded:
        if name not in self._models:
            raise refuse(f"Request for unknown model: '{name}' is not found", grpc.StatusCode.NOT_FOUND)
        if version not in ("", "1"):
            raise refuse(f"Request for unknown model: '{name}' version {version}", grpc.StatusCode.NOT_FOUND)
        return self._models[name]

    def ServerMetadata(self, request: Any, context: Any) -> Any:
        extensions = ["model_repository", "system_shared_memory", "statistics", "model_configuration"]
        return service_pb2.ServerMetadataResponse(name="triton", version="2.99.0", extensions=extensions)

    def ModelMetadata(self, request: Any, context: Any) -> Any:
        config = self._model(request.name, request.version).config
        tensor = service_pb2.ModelMetadataResponse.TensorMetadata
        inputs, outputs = (
            [tensor(name=port.name, datatype=datatype_of(port.data_type), shape=port.dims) for port in ports]
            for ports in (config.input, config.output)
        )
        return service_pb2.ModelMetadataResponse(
            name=config.name, versions=["1"], platform="onnxruntime_onnx", inputs=inputs, outputs=outputs
        )

    def ModelConfig(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelConfigResponse(config=self._model(request.name, request.version).config)

    def ModelStatistics(self, request: Any, context: Any) -> Any:
        model = self._model(request.name, request.version)
        entry = service_pb2.ModelStatistics(name=request.name, version="1", inference_count=model.count)
        return service_pb2.ModelStatisticsResponse(model_stats=[entry])

    def RepositoryModelUnload(self, request: Any, context: Any) -> Any:
        self._models.pop(request.model_name, None)
        return service_pb2.RepositoryModelUnloadResponse()

    def SystemSharedMemoryRegister(self, request: Any, context: Any) -> Any:
        if request.name in self._regions:
            raise refuse(f"shared memory region '{request.name}' already in manager", grpc.StatusCode.ALREADY_EXISTS)
        path = Path("/dev/shm") / request.key.lstrip("/")
        if not path.is_file() or path.stat().st_size < request.offset + request.byte_size:
            raise refuse(f"Unable to open shared memory region: '{request.key}'")
        with path.open("r+b") as file:
            self._regions[request.name] = mmap.mmap(file.fileno(), request.byte_size, offset=request.offset)
        return service_pb2.SystemSharedMemoryRegisterResponse()

    def SystemSharedMemoryUnregister(self, request: Any, context: Any) -> Any:
        region = self._regions.pop(request.name, None)
        if region is not None:
            region.close()
        return service_pb2.SystemSharedMemoryUnregisterResponse()

    def SystemSharedMemoryStatus(self, request: Any, context: Any) -> Any:
        status = service_pb2.SystemSharedMemoryStatusResponse()
        for name, region in self._regions.items():
            status.regions[name].name, status.regions[name].byte_size = name, len(region)
        return status

    def ModelInfer(self, request: Any, context: Any) -> Any:
        model = self._model(request.model_name, request.model_version)
        feeds = self._read_inputs(model.config, request)
        known = {port.name for port in model.config.output}
        names = [output.name for output in request.outputs] or sorted(known)
        if unknown := set(names) - known:
            raise refuse(f"unexpected inference output {sorted(unknown)} for model '{request.model_name}'")
        fault = self.fault
        if fault == "hang":
            self._released.wait(LIMIT_S)
            raise refuse("the server ends", grpc.StatusCode.UNAVAILABLE)
        arrays = dict(zip(names, model.session.run(names, feeds), strict=True))
        response = self._answer(request, {name: spoiled(array, fault) for name, array in arrays.items()}, fault)
        model.count += fault != "uncounted"
        return response

    def _read_inputs(self, config: Any, request: Any) -> dict[str, np.ndarray]:
        ports = {port.name: port for port in config.input}
        stated = [tensor.name for tensor in request.inputs]
        if sorted(stated) != sorted(ports):
            raise refuse(f"expected {len(ports)} inputs {sorted(ports)} but got {stated}")
        raw = list(request.raw_input_contents)
        by_message = [tensor for tensor in request.inputs if "shared_memory_region" not in tensor.parameters]
        if len(raw) != len(by_message) or any(tensor.HasField("contents") for tensor in request.inputs):
            raise refuse("raw_input_contents must have one entry for each input that is not in shared memory")
        feeds = {}
        for tensor in request.inputs:
            port = ports[tensor.name]
            if tensor.datatype != datatype_of(port.data_type):
                raise refuse(f"inference input '{tensor.name}' data-type is '{tensor.datatype}'")
            fits = len(tensor.shape) == len(port.dims) and all(
                dim in (-1, length) for dim, length in zip(port.dims, tensor.shape, strict=True)
            )
            if not fits:
                raise refuse(f"unexpected shape for input '{tensor.name}': {list(tensor.shape)}")
            content = self._region(tensor.parameters) if tensor not in by_message else memoryview(raw.pop(0))
            dtype = np.dtype(np_type(tensor.datatype))
            if len(content) != dtype.itemsize * int(np.prod(tensor.shape)):
                raise refuse(f"input byte size mismatch for input '{tensor.name}'")
            feeds[tensor.name] = np.frombuffer(content, dtype).reshape(tensor.shape).copy()
        return feeds

    def _region(self, parameters: Any) -> memoryview:
        name, offset = parameters["shared_memory_region"].string_param, parameters["shared_memory_offset"].int64_param
        size = parameters["shared_memory_byte_size"].int64_param
        if name not in self._regions or offset + size > len(self._regions[name]):
            raise refuse(f"Invalid offset + byte size for shared memory region: '{name}'")
        return memoryview(self._regions[name])[offset : offset + size]

    def _answer(self, request: Any, arrays: dict[str, np.ndarray], fault: Fault) -> Any:
        response = service_pb2.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        if fault == "name":
            response.model_name = "another"
        if fault == "version":
            response.model_version = "2"
        requested = {output.name: output for output in request.outputs}
        for name, array in arrays.items():
            if fault == "missing" and name == "map":
                continue
            kind = {"float32": "FP32", "float64": "FP64"}[array.dtype.name]
            response.outputs.add(name=name, datatype=kind, shape=array.shape)
            content = array.tobytes()
            if name in requested and "shared_memory_region" in requested[name].parameters:
                with self._region(requested[name].parameters) as region:
                    if len(region) < len(content):
                        raise refuse(f"shared memory size specified with the request for output '{name}'")
                    if fault != "nothing":
                        region[: len(content)] = content
                continue
            response.raw_output_contents.append(content[:-4] if fault == "bytes" else content)
        return response


def spoiled(array: np.ndarray, fault: Fault) -> np.ndarray:
    """Return an output as a server with this fault sends it."""
    if fault == "shape":
        return np.zeros((*array.shape, 1), array.dtype)
    if fault == "type":
        return array.astype(np.float64)
    return np.full_like(array, np.nan) if fault == "nan" else array


@contextmanager
def kserve(
    repository: Path, *models: str, credentials: Any = None, protocol: Protocol = "grpc"
) -> Iterator[KServeServer]:
    """Run a server with these models of a repository; credentials of gRPC, or settings of TLS for HTTP."""
    server = KServeServer(repository, credentials, protocol)
    server.start(*models)
    try:
        yield server
    finally:
        server.stop()
