"""Building TensorRT and TensorRT-RTX engines from a bundle's graph, with nothing but the library: no torch, no onnx.

One code path for TensorRT 10.3 to 11 and TensorRT-RTX: networks are strongly typed, so the graph decides the type
of each product, never this module; what only some versions have is asked for with `hasattr`. TensorRT builds for
the device at hand, so it needs one. TensorRT-RTX builds for any listed compute capabilities, several in one file,
on a machine without any GPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from cmdiad_runtime.engines import ENGINE_PRECISIONS, EngineLibrary, EnginePrecision
from cmdiad_runtime.engines._library import WORDS, first_error, load_library, log_of, logged_number, plain
from cmdiad_runtime.engines.building.progress import BuildProgress, Tracker, interrupts_deferred, monitor
from cmdiad_runtime.engines.fingerprint import EngineFingerprint, capability_text
from cmdiad_runtime.engines.graph_file import joint_digest, weights_digest, weights_path
from cmdiad_runtime.errors import EngineError, OutputError
from cmdiad_runtime.support.cache import cache_folder
from cmdiad_runtime.support.files import atomic_write

__all__ = ["AHEAD_OF_TIME", "OPTIONAL", "ProfileShapes", "ahead_of_time", "build_engine"]

AHEAD_OF_TIME = (75, 86, 89, 120)
"""What TensorRT-RTX engines are built for without a device: Turing, Ampere, Ada and Blackwell."""
OPTIONAL = (75,)
"""Left out, with a note, where the graph does not allow it: there is no fp32 matrix product for Turing."""
FP8_FROM = 89
"""Ada was the first with fp8."""

ProfileShapes = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Smallest, usual and largest shape of one input."""

_TYPES = {"fp16": "HALF", "int8": "INT8", "fp8": "FP8"}
_UNCERTIFIED = "has not run on any device yet"
_NO_TURING_FP32 = "fp32 gemm is not supported"

# Reasons that the libraries give (in lower case), and what a user or graph author can do about them.
_REMEDIES = (
    (
        _NO_TURING_FP32,
        "leave compute capability 75 (Turing) out, or export an fp16 graph: the library has no fp32 matrix "
        "product for Turing",
    ),
    ("uint8", "let a Cast to float32 or float16 be the only user of a uint8 input"),
    ("at least 2 dimensions are required", "reshape the input of that node to [1, n]"),
    ("same input types", "cast both operands of that node to one type"),
    ("fp8", "export with --engine fp16 or int8: fp8 needs compute capability 8.9 or higher"),
    ("antialiasing is not supported", "resize with antialiasing before the graph"),
    ("k exceeds the maximum value", "select fewer neighbours: TopK takes at most 3840"),
    ("convertonnxweights", "save the graph with its weights inside it, not as external data"),
    ("cuda initialization failure", "build on a machine with a CUDA device and its driver"),
)
_DEFAULT_REMEDY = "change that part of the graph, or use the bundle with ONNX Runtime"


def build_engine(
    graph: Path,
    engine: Path,
    *,
    library: EngineLibrary,
    precision: str,
    compute_capabilities: Sequence[int],
    optional: Sequence[int] = (),
    profiles: Mapping[str, ProfileShapes] | None = None,
    progress: BuildProgress | None = None,
) -> EngineFingerprint:
    """Build an engine from an ONNX graph and write it to `engine`, whole or not at all.

    TF32 is off: fp32 means fp32. Two TensorRT-RTX builds of one graph agree byte for byte if it has one output;
    with more, the library lists the outputs in either order, so each built file has its own hash. TensorRT times
    its choices on the device, so its builds differ.

    Args:
        graph: ONNX file, opset 17-20, that holds its weights itself.
        engine: file to write, in an existing folder; an older one is replaced.
        library: what to build with.
        precision: "fp32", "fp16", "int8" or "fp8", for the fingerprint. It converts nothing; all but "fp32" are
            refused for a graph without any tensor of the type.
        compute_capabilities: devices to hold code for, as 86 for 8.6. TensorRT: that of the device at hand alone.
        optional: those of them to leave out, with a note in the fingerprint, if the library refuses the graph
            for them.
        profiles: for each input with a dynamic axis its smallest, usual and largest shape. Speed is tuned for
            the usual one; the largest one decides the scratch memory.
        progress: told the phase and the fraction done. If it raises, KeyboardInterrupt included, the build is
            cancelled, nothing is written and the exception goes on to the caller. So does Ctrl-C.

    Returns:
        The fingerprint of the written file, not certified.

    Raises:
        EngineError: if the library or its device is missing, a target or profile is wrong, or the graph is
            refused; it names the graph, the node and the reason.
        OutputError: if the engine cannot be written.
    """
    trt = load_library(library)
    _check_precision(precision)
    targets = _targets(trt, compute_capabilities)
    source = _read(graph)
    request = _Request(trt, library, graph, source, profiles or {}, precision, Tracker(progress))
    note, plan = "", None
    with interrupts_deferred(request.tracker):
        request.tracker.report("Parsing graph", 0.0)
        try:
            plan = request.build(targets)
        except EngineError as error:
            kept = {capability: target for capability, target in targets.items() if capability not in optional}
            if _NO_TURING_FP32 not in error.found.lower() or not kept or kept == targets:
                raise
            left_out = ", ".join(capability_text(each) for each in targets if each not in kept)
            note = f"compute capability {left_out} left out: {error.found}"
            targets, plan = kept, request.build(kept)
    request.tracker.reraise()
    content = memoryview(plan)
    with atomic_write(engine) as temporary:
        temporary.write_bytes(content)
    return EngineFingerprint(
        library=library,
        library_version=str(trt.__version__),
        compute_capabilities=tuple(targets),
        precision=cast(EnginePrecision, precision),
        graph_sha256=joint_digest(hashlib.sha256(source).hexdigest(), weights_digest(graph)),
        engine_sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=content.nbytes,
        certified=False,
        certification=_UNCERTIFIED,
        scratch_bytes=logged_number(library, r"Total Activation Memory: (\d+)"),
        weights_bytes=logged_number(library, r"Total Weights Memory: (\d+)"),
        layers=logged_number(library, r"After [\w -]+: (\d+) layers"),
        note=note,
    )


def ahead_of_time(precision: str) -> tuple[int, ...]:
    """The devices of AHEAD_OF_TIME that have a precision."""
    return tuple(each for each in AHEAD_OF_TIME if precision != "fp8" or each >= FP8_FROM)


def _check_precision(precision: str) -> None:
    if precision not in ENGINE_PRECISIONS:
        raise EngineError(
            "precision",
            found=repr(precision),
            expected=" or ".join(ENGINE_PRECISIONS),
            action="choose the precision that the graph was exported in",
        )


def _targets(trt: Any, compute_capabilities: Sequence[int]) -> dict[int, Any]:
    """The library's name for each target, by ascending compute capability; TensorRT knows its device alone."""
    if not hasattr(trt.IBuilderConfig, "set_compute_capability"):
        if len(compute_capabilities) != 1:
            raise EngineError(
                "compute capabilities",
                found=", ".join(map(str, compute_capabilities)) or "none",
                expected="that of the device at hand alone",
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
    if not source:  # the parser would accept it as a network without outputs
        raise EngineError(graph, found="an empty file", expected="an ONNX graph", action="export the graph again")
    return source


class _Request:
    """One graph to build, for one set of targets or after a refusal for another."""

    def __init__(
        self,
        trt: Any,
        library: EngineLibrary,
        graph: Path,
        source: bytes,
        profiles: Mapping[str, ProfileShapes],
        precision: str,
        tracker: Tracker,
    ) -> None:
        self.trt, self.library, self.graph, self.source = trt, library, graph, source
        self.profiles, self.precision, self.tracker = profiles, precision, tracker
        self.log = log_of(library)

    def build(self, targets: Mapping[int, Any]) -> Any:
        """The serialised engine, or None if the tracker cancelled the build."""
        self.log.clear()
        builder = self._builder()
        network = self._network(builder)
        if self.precision in _TYPES:
            self._check_holds(_TYPES[self.precision], network)
        config = self._config(builder, targets)
        self._add_profile(builder, config, network)
        config.progress_monitor = monitor(self.trt, self.tracker)
        plan = builder.build_serialized_network(network, config)
        if plan is None and not self.tracker.stopped:
            raise self._refused(first_error(self.library))
        self._keep_timings(config)
        self.tracker.report("Writing engine", 1.0)
        return plan

    def _builder(self) -> Any:
        try:
            return self.trt.Builder(self.log)
        except (TypeError, RuntimeError) as error:  # what the bindings make of a null pointer
            raise self._refused(first_error(self.library)) from error

    def _network(self, builder: Any) -> Any:
        network = builder.create_network(1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        self._parser = parser = self.trt.OnnxParser(network, self.log)
        # From bytes where there are no weights beside the graph, so that the hash covers every weight: then external
        # data is refused, wherever it may lie.
        outside = weights_path(self.graph).exists()
        if not (parser.parse_from_file(str(self.graph)) if outside else parser.parse(self.source)):
            raise self._refused(_parser_reason(parser))
        return network

    def _check_holds(self, kind: str, network: Any) -> None:
        layers = (network.get_layer(index) for index in range(network.num_layers))
        outputs = (layer.get_output(index) for layer in layers for index in range(layer.num_outputs))
        wanted = getattr(self.trt.DataType, kind, None)
        if wanted is None or not any(output.dtype == wanted for output in outputs):
            raise self._refused(
                f"no {self.precision} tensor",
                action=f"export an {self.precision} graph: the engine takes its types from the graph",
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
        if set(self.profiles) != dynamic:
            raise EngineError(
                self.graph,
                found=f"profiles for {_listed(set(self.profiles))}",
                expected=f"profiles for {_listed(dynamic)}, the inputs with a dynamic axis",
                action="give each of them a smallest, a usual and a largest shape",
            )
        if not self.profiles:
            return
        profile = builder.create_optimization_profile()
        for name, (smallest, usual, largest) in self.profiles.items():
            profile.set_shape(name, tuple(smallest), tuple(usual), tuple(largest))
        config.add_optimization_profile(profile)

    def _timings_file(self) -> Path | None:
        """TensorRT's timing cache, which makes a second build shorter. TensorRT-RTX times nothing when it builds."""
        folder = cache_folder() if self.library == "tensorrt" else None
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
        except (OSError, OutputError):  # costs the next build time, nothing else
            return

    def _refused(self, reason: str, *, action: str | None = None) -> EngineError:
        remedy = next((text for sign, text in _REMEDIES if sign in reason.lower()), _DEFAULT_REMEDY)
        expected = f"a graph that {WORDS[self.library]} can build"
        return EngineError(self.graph, found=reason, expected=expected, action=action or remedy)


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
