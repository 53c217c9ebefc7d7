"""TensorRT-RTX engines, built ahead of time on a machine that needs no GPU.

The library takes strongly typed networks only: the graph decides the type of each product, never this module.
Targets are compute capabilities, several in one file. An engine built here has not run anywhere: the device
that opens it repeats the self-test first.
"""

from __future__ import annotations

import functools
import hashlib
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, cast, get_args

from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.files import atomic_write
from cmdiad_runtime.fingerprint import EngineFingerprint, Precision

__all__ = ["DEFAULT_COMPUTE_CAPABILITIES", "ProfileShapes", "Progress", "build_rtx_engine"]

DEFAULT_COMPUTE_CAPABILITIES = (86, 89, 120)
"""Ampere, Ada and Blackwell. Not Turing (75): the library has no fp32 matrix product for it."""

ProfileShapes = tuple[Sequence[int], Sequence[int], Sequence[int]]
"""Smallest, usual and largest shape of one input."""
Progress = Callable[[str, float], None]
"""Called with the name of the current phase and the fraction done of the whole build, 0-1, never falling."""

_UNCERTIFIED = "built ahead of time, has not run on a device"

# Reasons that the library gives (in lower case), and what a user or graph author can do about them.
_REMEDIES = (
    (
        "fp32 gemm is not supported",
        "leave compute capability 75 (Turing) out, or export an fp16 graph: the library has no fp32 matrix "
        "product for Turing",
    ),
    ("uint8", "let a Cast to float32 or float16 be the only user of a uint8 input"),
    ("at least 2 dimensions are required", "reshape the input of that node to [1, n]"),
    ("same input types", "cast both operands of that node to one type"),
    ("antialiasing is not supported", "resize with antialiasing before the graph"),
    ("k exceeds the maximum value", "select fewer neighbours: TopK takes at most 3840"),
    ("convertonnxweights", "save the graph with its weights inside it, not as external data"),
)
_DEFAULT_REMEDY = "change that part of the graph, or use the bundle with ONNX Runtime or TensorRT"


def build_rtx_engine(
    graph: Path,
    engine: Path,
    *,
    precision: str,
    compute_capabilities: Sequence[int] = DEFAULT_COMPUTE_CAPABILITIES,
    profiles: Mapping[str, ProfileShapes] | None = None,
    progress: Progress | None = None,
) -> EngineFingerprint:
    """Build a TensorRT-RTX engine from an ONNX graph and write it to `engine`, whole or not at all.

    TF32 is off: fp32 means fp32. Two builds of one graph agree byte for byte if it has one output; with more,
    the library lists the outputs in either order, so each built file has its own hash.

    Args:
        graph: ONNX file, opset 17-20, that holds its weights itself.
        engine: file to write, in an existing folder; an older one is replaced.
        precision: "fp32" or "fp16", for the fingerprint. It converts nothing; "fp16" is refused for a graph
            without any fp16 tensor.
        compute_capabilities: devices to hold code for, as 86 for 8.6.
        profiles: for each input with a dynamic axis its smallest, usual and largest shape. Speed is tuned for
            the usual one; the largest one decides the scratch memory.
        progress: told the phase and the fraction done. If it raises, KeyboardInterrupt included, the build is
            cancelled, nothing is written and the exception goes on to the caller. So does Ctrl-C.

    Returns:
        The fingerprint of the written file, not certified.

    Raises:
        EngineError: if the library is missing, a target or profile is wrong, or the graph is refused; it
            names the graph, the node and the reason.
        OutputError: if the engine cannot be written.
    """
    trt = _import_library()
    _check_precision(precision)
    targets = _targets(trt, compute_capabilities)
    source = _read(graph)
    tracker = _Tracker(progress)
    _log().clear()
    with _interrupts_deferred(tracker):
        tracker.report("Parsing graph", 0.0)
        plan = _build(
            trt,
            graph=graph,
            source=source,
            targets=targets,
            profiles=profiles or {},
            precision=precision,
            tracker=tracker,
        )
    tracker.reraise()
    content = memoryview(plan)
    with atomic_write(engine) as temporary:
        temporary.write_bytes(content)
    return EngineFingerprint(
        library="tensorrt_rtx",
        library_version=str(trt.__version__),
        compute_capabilities=tuple(targets),
        precision=cast(Precision, precision),
        graph_sha256=hashlib.sha256(source).hexdigest(),
        engine_sha256=hashlib.sha256(content).hexdigest(),
        size_bytes=content.nbytes,
        certified=False,
        certification=_UNCERTIFIED,
        scratch_bytes=_logged_number(r"Total Activation Memory: (\d+) bytes"),
        weights_bytes=_logged_number(r"Total Weights Memory: (\d+) bytes"),
        layers=_logged_number(r"After [\w -]+: (\d+) layers"),
    )


def _import_library() -> Any:
    try:
        import tensorrt_rtx
    except (ImportError, OSError) as error:
        raise EngineError(
            "tensorrt_rtx",
            found=f"{type(error).__name__}: {error}",
            expected="the TensorRT-RTX Python package",
            action='run: pip install "cmdiad[rtx]"',
        ) from error
    return tensorrt_rtx


def _check_precision(precision: str) -> None:
    if precision not in get_args(Precision):
        raise EngineError(
            "precision",
            found=repr(precision),
            expected=" or ".join(get_args(Precision)),
            action="choose the precision that the graph was exported in",
        )


def _targets(trt: Any, compute_capabilities: Sequence[int]) -> dict[int, Any]:
    """The library's name for each target, by ascending compute capability."""
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
        raise _refused(graph, error.strerror or str(error), action="export the graph first") from error
    if not source:  # the parser would accept it as a network without outputs
        raise _refused(graph, "an empty file", action="export the graph again")
    return source


def _refused(graph: Path, reason: str, *, action: str | None = None) -> EngineError:
    remedy = next((text for sign, text in _REMEDIES if sign in reason.lower()), _DEFAULT_REMEDY)
    return EngineError(graph, found=reason, expected="a graph that TensorRT-RTX can build", action=action or remedy)


def _build(
    trt: Any,
    *,
    graph: Path,
    source: bytes,
    targets: Mapping[int, Any],
    profiles: Mapping[str, ProfileShapes],
    precision: str,
    tracker: _Tracker,
) -> Any:
    """The serialised engine, or None if the tracker cancelled the build."""
    builder = trt.Builder(_log())
    network = _parsed(trt, builder, graph, source)
    if precision == "fp16":
        _check_holds_fp16(trt, network, graph)
    config = _config(trt, builder, targets)
    _add_profile(builder, config, network, profiles, graph)
    if hasattr(config, "progress_monitor"):
        config.progress_monitor = _monitor(trt, tracker)
    plan = builder.build_serialized_network(network, config)
    if plan is None and not tracker.stopped:
        raise _refused(graph, _first_error())
    tracker.report("Writing engine", 1.0)
    return plan


def _parsed(trt: Any, builder: Any, graph: Path, source: bytes) -> Any:
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, _log())
    # From bytes and not from the path, so that the hash covers every weight: external data is refused.
    if not parser.parse(source):
        raise _refused(graph, _parser_reason(parser))
    return network


def _parser_reason(parser: Any) -> str:
    if not parser.num_errors:
        return "a graph that cannot be parsed"
    error = parser.get_error(0)
    reason = _plain(error.desc())
    if error.node() < 0 or not error.node_operator():
        return reason
    return f"node {error.node()} {error.node_name()!r} ({error.node_operator()}): {reason}"


def _check_holds_fp16(trt: Any, network: Any, graph: Path) -> None:
    layers = (network.get_layer(index) for index in range(network.num_layers))
    outputs = (layer.get_output(index) for layer in layers for index in range(layer.num_outputs))
    if not any(output.dtype == trt.float16 for output in outputs):
        raise _refused(
            graph, "no fp16 tensor", action="export an fp16 graph: the engine takes its types from the graph"
        )


def _config(trt: Any, builder: Any, targets: Mapping[int, Any]) -> Any:
    config = builder.create_builder_config()
    config.num_compute_capabilities = len(targets)
    for index, target in enumerate(targets.values()):
        config.set_compute_capability(target, index)
    if hasattr(trt.BuilderFlag, "TF32"):
        config.clear_flag(trt.BuilderFlag.TF32)
    return config


def _add_profile(builder: Any, config: Any, network: Any, profiles: Mapping[str, ProfileShapes], graph: Path) -> None:
    dynamic = _dynamic_inputs(network)
    if set(profiles) != dynamic:
        raise EngineError(
            graph,
            found=f"profiles for {_listed(profiles)}",
            expected=f"profiles for {_listed(dynamic)}, the inputs with a dynamic axis",
            action="give each of them a smallest, a usual and a largest shape",
        )
    if not profiles:
        return
    profile = builder.create_optimization_profile()
    for name, (smallest, usual, largest) in profiles.items():
        profile.set_shape(name, tuple(smallest), tuple(usual), tuple(largest))
    config.add_optimization_profile(profile)


def _dynamic_inputs(network: Any) -> set[str]:
    inputs = (network.get_input(index) for index in range(network.num_inputs))
    return {tensor.name for tensor in inputs if -1 in tuple(tensor.shape)}


def _listed(names: Mapping[str, object] | set[str]) -> str:
    return ", ".join(sorted(names)) or "no input"


def _first_error() -> str:
    reasons = (_plain(error) for error in _log().errors)
    return next(filter(None, reasons), "a failure that the builder gave no reason for")


def _plain(message: str) -> str:
    """A message of the library without its source locations and without complaints about the absent GPU."""
    lines = [line for line in message.splitlines() if "catchCudaError" not in line]
    return re.sub(r"\.? In \S+ at /_src/[^\s)]+", "", " ".join(lines)).strip()


def _logged_number(pattern: str) -> int | None:
    """The last number that the build log gives in this place; None where the log has no such line."""
    found = (re.match(pattern, line) for line in reversed(_log().lines))
    return next((int(match[1]) for match in found if match), None)


class _Tracker:
    """Where the build is, and whether it has to stop. Safe to call from the builder's threads."""

    def __init__(self, progress: Progress | None) -> None:
        self.stopped = False
        self._progress = progress
        self._failure: BaseException | None = None
        self._fraction = 0.0
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # name -> parent, steps, steps done
        self._lock = threading.RLock()

    def begin(self, phase: str, parent: str | None, steps: int) -> None:
        with self._lock:
            self._phases[phase] = (parent, max(steps, 1), 0)
            self.report(phase, self._reached(phase))

    def advance(self, phase: str, step: int) -> None:
        with self._lock:
            parent, steps, _ = self._phases.get(phase, (None, step + 1, 0))
            self._phases[phase] = (parent, steps, min(step + 1, steps))
            self.report(phase, self._reached(phase))

    def report(self, phase: str, fraction: float) -> None:
        """Tell the caller; what the caller raises stops the build, but never travels through the library."""
        with self._lock:
            self._fraction = max(self._fraction, fraction)
            if self.stopped or self._progress is None:
                return
            try:
                self._progress(phase, self._fraction)
            except BaseException as failure:
                self.stop(failure)

    def stop(self, failure: BaseException) -> None:
        self._failure = self._failure or failure
        self.stopped = True

    def reraise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _reached(self, phase: str) -> float:
        """Fraction of the outermost phase, each phase filling the running step of its parent."""
        fraction, current = 0.0, self._phases.get(phase)
        while current is not None:
            parent, steps, done = current
            fraction = min((done + fraction) / steps, 1.0)
            current = self._phases.get(parent) if parent else None
        return fraction


@contextmanager
def _interrupts_deferred(tracker: _Tracker) -> Iterator[None]:
    """Let Ctrl-C stop the tracker instead of raising inside a callback of the library.

    A KeyboardInterrupt may be raised between any two instructions, also in a callback before its `try`;
    from there it would have to cross C++ frames. Only the main thread receives signals.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        tracker.stop(KeyboardInterrupt())

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _monitor(trt: Any, tracker: _Tracker) -> Any:
    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tracker.begin(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            tracker.advance(phase_name, step)
            return not tracker.stopped

        def phase_finish(self, phase_name: str) -> None:
            """Part of the interface; the parent's next step says the same."""

    return Monitor()


@functools.cache
def _log() -> Any:
    """The one logger of this process: while a builder lives, the library ignores every other one."""
    base: Any = _import_library().ILogger

    class Log(base):
        def __init__(self) -> None:
            base.__init__(self)
            self.lines: list[str] = []
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            self.lines.append(msg)
            if severity in (base.Severity.INTERNAL_ERROR, base.Severity.ERROR):
                self.errors.append(msg)

        def clear(self) -> None:
            self.lines.clear()
            self.errors.clear()

    return Log()
