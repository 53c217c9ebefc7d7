"""Engine that runs a graph in ONNX Runtime on the CPU or with the CUDA, TensorRT or TensorRT-RTX provider."""

from __future__ import annotations

import importlib
import os
import platform
import re
from pathlib import Path
from typing import Any

import numpy.typing as npt

from cmdiad_runtime.engines import Arrays, OnnxRuntimeName
from cmdiad_runtime.engines._jetson import refuse_on_jetson
from cmdiad_runtime.engines.graph_file import shared_weights
from cmdiad_runtime.engines.searched_cells import grids_of, lists_of
from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.support.cache import cache_folder
from cmdiad_runtime.support.system import adds_int8_products_exactly, usable_cores

PROVIDERS: dict[OnnxRuntimeName, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "ort-tensorrt": "TensorrtExecutionProvider",
    "ort-rtx": "NvTensorRTRTXExecutionProvider",
}
_SECOND_COPY = "Attempt to replace the existing tensor"
"""ONNX Runtime's words where it would store the int8 weights of a second product as uint8, under the same name."""
_WEIGHTS_FOLDER = "session.model_external_initializers_file_folder_path"
"""Option with the folder of the weights file of a model that is passed as bytes."""
_SHARED_SINCE = (1, 21)
"""First version of ONNX Runtime with this option (github.com/microsoft/onnxruntime, pull request 23557)."""
RTX_PLUGIN = "onnxruntime_ep_nv_tensorrt_rtx"
INSTALL: dict[OnnxRuntimeName, str] = {
    "cpu": 'pip install "cmdiad[cpu]"',
    "cuda": 'pip install "cmdiad[gpu]"',
    "ort-tensorrt": 'pip install "cmdiad[gpu]" and TensorRT 10',
    "ort-rtx": 'pip install "cmdiad[ort-rtx]"',
}


class OnnxRuntimeEngine:
    """A graph in an ONNX Runtime session with exactly one verified provider; create one with `open`.

    Attributes:
        identity: Library, version, provider and device.
        description: Same as `identity`.
    """

    def __init__(self, session: Any, identity: str, graph: Path, *, dynamic: bool = False) -> None:
        self._session = session
        # Only the CPU provider checks the bounds of every index, which the graphs rely on (see `searched_cells`).
        self._grids = grids_of(session.get_modelmeta().custom_metadata_map) if dynamic else {}
        self._names = [output.name for output in session.get_outputs()]
        self.identity = identity
        self.description = identity
        self._graph = graph

    @staticmethod
    def open(graph: Path, name: OnnxRuntimeName = "cpu") -> OnnxRuntimeEngine:
        """Load a graph.

        Args:
            graph: ONNX file. Its weights file lies next to it, or is shared with other bundles (`shared_weights`).
            name: Engine, which selects the provider.

        Raises:
            EngineError: The package onnxruntime is missing, cannot load the graph, lacks the provider, or has no
                kernel for the GPU of a Jetson.
        """
        provider = PROVIDERS[name]
        if name != "cpu":
            refuse_on_jetson(provider)
        ort = import_onnxruntime(name)
        options = session_options(ort, name)
        if provider in ort.get_available_providers():
            session = _open_session(ort, graph, provider, options, [(provider, _provider_options(name))])
        elif name == "ort-rtx":
            options.add_provider_for_devices(_plugin_devices(ort), {})
            session = _open_session(ort, graph, provider, options, None)
        else:
            raise _no_provider(ort, name)
        identity = f"onnxruntime {ort.__version__}, {provider} on {_device(name)}"
        return OnnxRuntimeEngine(session, identity, graph, dynamic=name == "cpu")

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run the graph; see `Engine.run`."""
        if self._session is None:
            raise EngineError(self._graph, found="a closed engine", expected="an open one", action="open it again")
        try:
            fed = {**lists_of(inputs, self._grids), **inputs}
            return dict(zip(self._names, self._session.run(self._names, fed), strict=True))
        except Exception as error:  # The exceptions of onnxruntime share no public base.
            raise EngineError(
                self._graph,
                found=_first_line(error),
                expected="a graph that runs in this engine",
                action="export the bundle again with a version of onnxruntime that matches",
            ) from error

    def close(self) -> None:
        """Release the session; see `Engine.close`."""
        self._session = None


def import_onnxruntime(name: OnnxRuntimeName) -> Any:
    """Import onnxruntime with its telemetry switched off.

    Args:
        name: Engine, for the installation command in the error.

    Raises:
        EngineError: The package is missing.
    """
    # Since 1.29 the Linux wheels send telemetry and keep an identifier in ~/.cache. This must be set before the import.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(
            "",
            found=f"The engine {name!r} needs the package 'onnxruntime', which is not installed",
            action=f"run: {INSTALL[name]}",
        ) from error
    return onnxruntime


def session_options(ort: Any, name: OnnxRuntimeName) -> Any:
    """Return the options of every session: all cores of this process, no fallback to another provider."""
    options = ort.SessionOptions()
    options.log_severity_level = 3  # A provider that cannot load a library says so in the log alone.
    options.intra_op_num_threads = usable_cores()
    if name == "cpu":
        options.log_severity_level = 4  # Its errors are all exceptions.
        options.enable_mem_pattern = (
            False  # One block for all arrays of a run took up to 280 MB more and was no faster.
        )
        # Otherwise the threads spin for 40 ms and more after a run, while the next part is read and prepared.
        options.add_session_config_entry("session.force_spinning_stop", "1")
    else:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    return options


def _provider_options(name: OnnxRuntimeName) -> dict[str, str]:
    """Return provider options: no precision, because the graph is strongly typed, and the cache of TensorRT engines."""
    folder = cache_folder() if name == "ort-tensorrt" else None
    if folder is None:
        return {}
    enabled = {f"trt_{kind}_cache_enable": "True" for kind in ("engine", "timing")}
    return enabled | {f"trt_{kind}_cache_path": str(folder / "ort-tensorrt") for kind in ("engine", "timing")}


def _plugin_devices(ort: Any) -> list[Any]:
    """Return the devices of the TensorRT-RTX plugin, which is a separate package in addition to onnxruntime."""
    try:
        plugin = importlib.import_module(RTX_PLUGIN)
    except ImportError as error:
        raise _no_provider(ort, "ort-rtx") from error
    provider = PROVIDERS["ort-rtx"]
    try:
        if not any(device.ep_name == provider for device in ort.get_ep_devices()):
            ort.register_execution_provider_library(provider, plugin.get_library_path())
        devices = [device for device in ort.get_ep_devices() if device.ep_name == provider]
    except Exception as error:  # The exceptions of onnxruntime share no public base.
        raise _cannot_use(ort, "ort-rtx", _first_line(error)) from error
    if not devices:
        raise _cannot_use(ort, "ort-rtx", "the plugin, but no device that the plugin supports")
    return devices[:1]


def _open_session(ort: Any, graph: Path, provider: str, options: Any, providers: list[Any] | None) -> Any:
    _require_weights_folder(ort, graph)
    try:
        session = _session(ort, graph, provider, options, providers)
    except Exception as error:  # The exceptions of onnxruntime share no public base.
        if _SECOND_COPY in str(error) and not adds_int8_products_exactly():
            raise EngineError(
                graph,
                found="int8 weights that several products share",
                expected="a separate copy for each product, because this processor has no VNNI instructions",
                action="export the run again with this version of cmdiad, or with --precision fp32",
            ) from error
        raise EngineError(
            graph,
            found=_first_line(error),
            expected=f"a graph that {provider} can run",
            action="check device and drivers, or export again",
        ) from error
    if session.get_providers()[0] != provider:
        raise EngineError(
            graph,
            found=f"a fallback to {session.get_providers()[0]}",
            expected=provider,
            action="check the drivers",
        )
    return session


def _session(ort: Any, graph: Path, provider: str, options: Any, providers: list[Any] | None) -> Any:
    """Open a session that adds int8 products exactly, and on the CPU without optimisations that are wrong for fp8.

    On processors without VNNI, kernels for uint8 times int8 cut off sums, and those for uint8 times uint8 do not: the
    option makes ONNX Runtime store weights as uint8 there. ONNX Runtime also fuses quantised nodes into kernels that do
    not support fp8, and removes a Relu before a quantisation, which is correct for int8 only: with version 1.31, fp8
    results were off by multiples.
    """
    model: str | bytes = str(graph)
    shared = shared_weights(graph.parent)
    if shared is not None:  # ONNX Runtime reads no weights above the folder of a model file.
        model = graph.read_bytes()
        options.add_session_config_entry(_WEIGHTS_FOLDER, str(shared.parent))
    if not adds_int8_products_exactly():
        options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return ort.InferenceSession(model, options, providers=providers)
    except Exception as error:  # The exceptions of onnxruntime share no public base.
        if "float8" not in str(error) or provider != PROVIDERS["cpu"]:
            raise
    options.add_session_config_entry("session.disable_quant_qdq", "1")
    unsound = ["ReluQuantRewrite"]
    return ort.InferenceSession(model, options, providers=providers, disabled_optimizers=unsound)


def _require_weights_folder(ort: Any, graph: Path) -> None:
    """Raise EngineError if ONNX Runtime is too old for the shared weights of a graph.

    An older one ignores the option, and reads a file of this name in the working folder.
    """
    if shared_weights(graph.parent) is None:
        return
    version = tuple(int(number) for number in re.findall(r"[0-9]+", ort.__version__)[:2])
    if version < _SHARED_SINCE:
        raise EngineError(
            graph,
            found=f"weights that several bundles share, and onnxruntime {ort.__version__}",
            expected=f"onnxruntime {'.'.join(map(str, _SHARED_SINCE))} or newer",
            action="update onnxruntime, or copy graph.weights from the folder above into the folder of the graph",
        )


def _device(name: OnnxRuntimeName) -> str:
    if name == "cpu":
        return platform.machine()
    from cmdiad_runtime.engines._cuda import current_device, load_cuda

    return str(current_device(load_cuda()))


def _no_provider(ort: Any, name: OnnxRuntimeName) -> EngineError:
    return _cannot_use(ort, name, f"providers {', '.join(ort.get_available_providers())}")


def _cannot_use(ort: Any, name: OnnxRuntimeName, problem: str) -> EngineError:
    return EngineError(
        f"onnxruntime {ort.__version__}",
        found=problem,
        expected=PROVIDERS[name],
        action=f"run {INSTALL[name]} on a machine that has the device",
    )


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
