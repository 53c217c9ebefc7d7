"""Build TensorRT and TensorRT-RTX engines from the graph of a bundle, with only the library: no torch, no onnx.

One code path serves TensorRT 10.3 to 11 and TensorRT-RTX. Networks are strongly typed, so the graph decides the type
of each product. Features that only some versions have are detected with `hasattr`. TensorRT builds for the device of
this machine and needs one. TensorRT-RTX builds for any listed compute capabilities, several in one file, on a machine
without a GPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from cmdiad_runtime.engines import ENGINE_PRECISIONS, EngineLibrary, EnginePrecision
from cmdiad_runtime.engines._library import LIBRARY_NAMES, first_error, load_library, log_of, logged_number, plain
from cmdiad_runtime.engines.building.progress import Tracker, interrupts_deferred, monitor
from cmdiad_runtime.engines.fingerprint import EngineFingerprint, capability_text
from cmdiad_runtime.engines.graph_file import joint_digest, weights_digest, weights_path
from cmdiad_runtime.errors import EngineError, OutputError
from cmdiad_runtime.support.cache import cache_folder
from cmdiad_runtime.support.files import atomic_write
from cmdiad_runtime.support.reporter import SILENT, Reporter

__all__ = ["AHEAD_OF_TIME", "OPTIONAL", "BuildRequest", "ProfileShapes", "ahead_of_time", "build_engine"]

AHEAD_OF_TIME = (75, 86, 89, 120)
"""Compute capabilities of TensorRT-RTX engines built without a device: Turing, Ampere, Ada and Blackwell."""
OPTIONAL = (75,)
"""Compute capabilities left out, with a note, if the graph does not allow them: Turing has no fp32 matrix product."""
FP8_FROM = 89
"""Lowest compute capability with fp8 (Ada)."""

ProfileShapes = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Smallest, usual and largest shape of one input."""

_TYPES = {"fp16": "HALF", "int8": "INT8", "fp8": "FP8"}
_UNCERTIFIED = "has not run on any device yet"
_NO_TURING_FP32 = "fp32 gemm is not supported"

# Reasons that the libraries report (in lower case), and the remedy for a user or the author of a graph.
_REMEDIES = (
    (
        _NO_TURING_FP32,
        "leave compute capability 75 (Turing) out, or export an fp16 graph: the library has no fp32 matrix "
        "product for Turing",
    ),
    ("uint8", "make a Cast to float32 or float16 the only user of a uint8 input"),
    ("at least 2 dimensions are required", "reshape the input of that node to [1, n]"),
    ("same input types", "cast both operands of that node to one type"),
    ("fp8", "export with --engine fp16 or int8: fp8 requires compute capability 8.9 or higher"),
    ("antialiasing is not supported", "resize with antialiasing before the graph"),
    ("k exceeds the maximum value", "select fewer neighbours: TopK takes at most 3840"),
    ("convertonnxweights", "save the graph with its weights inside it, not as external data"),
    ("cuda initialization failure", "build on a machine with a CUDA device and its driver"),
)
_DEFAULT_REMEDY = "change that part of the graph, or use the bundle with ONNX Runtime"


@dataclass(frozen=True)
class BuildRequest:
    """Description of one engine to build.

    Attributes:
        graph: ONNX file, opset 17-20, with its weights inside or in the file `weights_path(graph)`.
        library: Library to build with.
        precision: Precision of the graph, for the fingerprint. It converts nothing. Except for "fp32", a graph
            without any tensor of this type is refused.
        compute_capabilities: Devices to build for; 86 means 8.6. TensorRT takes exactly that of this device.
        optional: Compute capabilities to leave out, with a note in the fingerprint, if the library refuses the graph
            for them.
        profiles: Smallest, usual and largest shape of each input with a dynamic axis, by name. Speed is tuned for
            the usual shape; the largest shape decides the scratch memory.

    Raises:
        EngineError: The precision is unknown.
    """

    graph: Path
    library: EngineLibrary
    precision: str
    compute_capabilities: Sequence[int]
    optional: Sequence[int] = ()
    profiles: Mapping[str, ProfileShapes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.precision not in ENGINE_PRECISIONS:
            raise EngineError(
                "precision",
                found=repr(self.precision),
                expected=" or ".join(ENGINE_PRECISIONS),
                action="choose the precision of the exported graph",
            )


def build_engine(request: BuildRequest, engine: Path, reporter: Reporter = SILENT) -> EngineFingerprint:
    """Build an engine from an ONNX graph and write the file atomically.

    TF32 is off, so fp32 products are fp32. Two TensorRT-RTX builds of one graph agree byte for byte if the graph has
    one output; with several outputs, the library lists the outputs in either order, so each file has its own hash.
    TensorRT measures its alternatives on the device, so its builds differ.

    Args:
        request: Graph, library and targets.
        engine: File to write, in an existing folder; an older file is replaced.
        reporter: Receives `step("engine (PHASE)", percent, 100)`. If it raises (KeyboardInterrupt included), or on
            Ctrl-C, the build is cancelled, nothing is written, and the exception reaches the caller.

    Returns:
        The fingerprint of the written file, not certified.

    Raises:
        EngineError: The library or its device is missing, a target or profile is wrong, or the graph is refused.
            The message contains the graph, the node and the reason.
        OutputError: The engine cannot be written.
    """
    trt = load_library(request.library)
    targets = _targets(trt, request.compute_capabilities)
    source = _read(request.graph)
    tracker = Tracker(reporter)
    build = _Build(trt, request, source, tracker)
    with interrupts_deferred(tracker):
        tracker.report("Parsing graph", 0.0)
        content, targets, note = build.run_for(targets)
    tracker.reraise()
    serialised = memoryview(content)
    with atomic_write(engine) as temporary:
        temporary.write_bytes(serialised)
    return _fingerprint(request, str(trt.__version__), tuple(targets), source, serialised, note)


def _fingerprint(
    request: BuildRequest, version: str, targets: tuple[int, ...], graph: bytes, engine: memoryview, note: str
) -> EngineFingerprint:
    return EngineFingerprint(
        library=request.library,
        library_version=version,
        compute_capabilities=targets,
        precision=cast(EnginePrecision, request.precision),
        graph_sha256=joint_digest(hashlib.sha256(graph).hexdigest(), weights_digest(request.graph)),
        engine_sha256=hashlib.sha256(engine).hexdigest(),
        size_bytes=engine.nbytes,
        certified=False,
        certification=_UNCERTIFIED,
        scratch_bytes=logged_number(request.library, r"Total Activation Memory: (\d+)"),
        weights_bytes=logged_number(request.library, r"Total Weights Memory: (\d+)"),
        layers=logged_number(request.library, r"After [\w -]+: (\d+) layers"),
        note=note,
    )


def ahead_of_time(precision: str) -> tuple[int, ...]:
    """Return the compute capabilities of AHEAD_OF_TIME that support a precision."""
    return tuple(capability for capability in AHEAD_OF_TIME if precision != "fp8" or capability >= FP8_FROM)


def _targets(trt: Any, compute_capabilities: Sequence[int]) -> dict[int, Any]:
    """Return the library's constant for each target, by ascending compute capability; TensorRT has no constants."""
    if not hasattr(trt.IBuilderConfig, "set_compute_capability"):
        if len(compute_capabilities) != 1:
            raise EngineError(
                "compute capabilities",
                found=", ".join(map(str, compute_capabilities)) or "none",
                expected="exactly that of this device",
                action="build TensorRT engines on each kind of device",
            )
        return {compute_capabilities[0]: None}
    known = {
        int(name.removeprefix("SM")): value
        for name, value in trt.ComputeCapability.__members__.items()
        if name.startswith("SM")
    }
    unknown = [str(capability) for capability in compute_capabilities if capability not in known]
    if unknown or not compute_capabilities:
        raise EngineError(
            "compute capabilities",
            found=", ".join(unknown) or "none",
            expected=f"some of {', '.join(map(str, known))}",
            action="build Jetson engines (87, 110) with TensorRT on the device itself, "
            "and run other devices with ONNX Runtime or TensorRT",
        )
    return {capability: known[capability] for capability in sorted(set(compute_capabilities))}


def _read(graph: Path) -> bytes:
    try:
        source = graph.read_bytes()
    except OSError as error:
        raise EngineError(
            graph, found=error.strerror or str(error), expected="an ONNX graph", action="export the graph first"
        ) from error
    if not source:  # The parser would accept an empty file as a network without outputs.
        raise EngineError(graph, found="an empty file", expected="an ONNX graph", action="export the graph again")
    return source


class _Build:
    """One graph to build; after a refusal it can run again for fewer targets."""

    def __init__(self, trt: Any, request: BuildRequest, source: bytes, tracker: Tracker) -> None:
        self.trt, self.request, self.source, self.tracker = trt, request, source, tracker
        self.log = log_of(request.library)

    def run_for(self, targets: dict[int, Any]) -> tuple[Any, dict[int, Any], str]:
        """Build for all targets, or without the optional ones if the library refuses the graph for them.

        Returns:
            The serialised engine (None if the tracker cancelled the build), its targets, and a note on those left out.
        """
        try:
            return self.run(targets), targets, ""
        except EngineError as error:
            optional = self.request.optional
            kept = {capability: target for capability, target in targets.items() if capability not in optional}
            if _NO_TURING_FP32 not in error.found.lower() or not kept or kept == targets:
                raise
            left_out = ", ".join(capability_text(capability) for capability in targets if capability not in kept)
            return self.run(kept), kept, f"compute capability {left_out} left out: {error.found}"

    def run(self, targets: Mapping[int, Any]) -> Any:
        """Return the serialised engine, or None if the tracker cancelled the build."""
        self.log.clear()
        builder = self._builder()
        network = self._network(builder)
        if self.request.precision in _TYPES:
            self._check_holds(_TYPES[self.request.precision], network)
        config = self._config(builder, targets)
        self._add_profile(builder, config, network)
        config.progress_monitor = monitor(self.trt, self.tracker)
        content = builder.build_serialized_network(network, config)
        if content is None and not self.tracker.stopped:
            raise self._refused(first_error(self.request.library))
        self._keep_timings(config)
        self.tracker.report("Writing engine", 1.0)
        return content

    def _builder(self) -> Any:
        try:
            return self.trt.Builder(self.log)
        except (TypeError, RuntimeError) as error:  # The bindings raise these for a null pointer.
            raise self._refused(first_error(self.request.library)) from error

    def _network(self, builder: Any) -> Any:
        network = builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self._parser = parser = self.trt.OnnxParser(network, self.log)
        if not self._parsed(parser):
            raise self._refused(_parser_reason(parser))
        return network

    def _parsed(self, parser: Any) -> bool:
        """Parse the graph; False if the parser refuses.

        A graph without a weights file is parsed from bytes, so that external data anywhere else is refused and the hash
        covers every weight. Weights are searched in the folder of the path that the parser receives.
        """
        graph = self.request.graph
        weights = weights_path(graph)
        if not weights.exists():
            return bool(parser.parse(self.source))
        if weights.parent == graph.parent:
            return bool(parser.parse_from_file(str(graph)))
        return bool(parser.parse(self.source, str(weights.with_name(graph.name))))

    def _check_holds(self, kind: str, network: Any) -> None:
        layers = (network.get_layer(index) for index in range(network.num_layers))
        outputs = (layer.get_output(index) for layer in layers for index in range(layer.num_outputs))
        required = getattr(self.trt.DataType, kind, None)
        if required is None or not any(output.dtype == required for output in outputs):
            raise self._refused(
                f"no {self.request.precision} tensor",
                action=f"export an {self.request.precision} graph: the engine takes its types from the graph",
            )

    def _config(self, builder: Any, targets: Mapping[int, Any]) -> Any:
        config = builder.create_builder_config()
        if hasattr(config, "num_compute_capabilities"):
            config.num_compute_capabilities = len(targets)
            for index, target in enumerate(targets.values()):
                config.set_compute_capability(target, index)
        if hasattr(self.trt.BuilderFlag, "TF32"):
            config.clear_flag(self.trt.BuilderFlag.TF32)
        timings = self._timings_file()
        if timings is not None:
            cache = config.create_timing_cache(timings.read_bytes() if timings.is_file() else b"")
            config.set_timing_cache(cache, False)
        return config

    def _add_profile(self, builder: Any, config: Any, network: Any) -> None:
        inputs = (network.get_input(index) for index in range(network.num_inputs))
        dynamic = {tensor.name for tensor in inputs if -1 in tuple(tensor.shape)}
        if set(self.request.profiles) != dynamic:
            raise EngineError(
                self.request.graph,
                found=f"profiles for {_listed(set(self.request.profiles))}",
                expected=f"profiles for {_listed(dynamic)}, the inputs with a dynamic axis",
                action="pass a smallest, a usual and a largest shape for each of these inputs",
            )
        if not self.request.profiles:
            return
        profile = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in self.request.profiles.items():
            profile.set_shape(name, tuple(smallest), tuple(usual), tuple(largest))
        config.add_optimization_profile(profile)

    def _timings_file(self) -> Path | None:
        """Return the path of TensorRT's timing cache, which shortens later builds; TensorRT-RTX measures nothing."""
        folder = cache_folder() if self.request.library == "tensorrt" else None
        return None if folder is None else folder / "tensorrt" / f"timings-{self.trt.__version__}.cache"

    def _keep_timings(self, config: Any) -> None:
        timings = self._timings_file()
        cache = config.get_timing_cache() if timings is not None else None
        if timings is None or cache is None:
            return
        try:
            timings.parent.mkdir(parents=True, exist_ok=True)
            with atomic_write(timings) as temporary:
                temporary.write_bytes(memoryview(cache.serialize()))
        except (OSError, OutputError):  # Without the cache the next build only takes longer.
            return

    def _refused(self, reason: str, *, action: str | None = None) -> EngineError:
        remedy = next((text for sign, text in _REMEDIES if sign in reason.lower()), _DEFAULT_REMEDY)
        expected = f"a graph that {LIBRARY_NAMES[self.request.library]} can build"
        return EngineError(self.request.graph, found=reason, expected=expected, action=action or remedy)


def _parser_reason(parser: Any) -> str:
    if not parser.num_errors:
        return "a graph that cannot be parsed"
    complaint = parser.get_error(0)
    reason = plain(complaint.desc())
    if complaint.node() < 0 or not complaint.node_operator():
        return reason
    return f"node {complaint.node()} {complaint.node_name()!r} ({complaint.node_operator()}): {reason}"


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "no input"
