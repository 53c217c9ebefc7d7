"""Selection of the engine that runs a bundle: one that fits this device and was tested on it.

The export certifies the graph on the CPU, for the architecture of the exporting machine. Every other engine must pass
its self-test on this kind of device before it gives verdicts.
"""

from __future__ import annotations

import logging
import platform
from dataclasses import dataclass, field, replace
from typing import get_args

from cmdiad_runtime.bundle.built_engines import BuiltEngine, build_for_bundle, engines_of
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.manifest_records import BatchRecord
from cmdiad_runtime.bundle.self_test import SelfTest, has_passed, run_self_test, was_tested
from cmdiad_runtime.engines import (
    LIBRARIES,
    ONNX_RUNTIME_NAMES,
    BuiltName,
    Engine,
    EngineLibrary,
    EngineName,
    OnnxRuntimeName,
    open_engine,
)
from cmdiad_runtime.engines.batch import BatchEngine
from cmdiad_runtime.engines.server_options import ServerOptions
from cmdiad_runtime.errors import BundleError, EngineError, NoAnswerError
from cmdiad_runtime.support.reporter import SILENT, Reporter
from cmdiad_runtime.support.system import adds_int8_products_exactly

AUTO: tuple[BuiltName | OnnxRuntimeName, ...] = ("tensorrt", "rtx", "ort-tensorrt", "ort-rtx", "cuda", "cpu")
"""Order in which `auto` tries the engines, fastest first as far as known. A server is used only if named."""


_logger = logging.getLogger("cmdiad.engine")


@dataclass(frozen=True)
class ChosenEngine:
    """An open engine.

    Attributes:
        engine: Engine that is ready to run.
        name: Name of the engine file without its suffix, or of the provider ("cpu").
        file_sha256: SHA-256 of the engine file, or of the graph.
        passed_over: Engines that `auto` could not use, with the reason as text.
    """

    engine: Engine
    name: str
    file_sha256: str
    passed_over: dict[str, str] = field(default_factory=dict)


def choose_engine(
    bundle: Bundle,
    name: EngineName = "cpu",
    *,
    rebuild: bool = False,
    untested: bool = False,
    reporter: Reporter = SILENT,
    server: ServerOptions | None = None,
) -> ChosenEngine:
    """Open the engine that runs a bundle on this device.

    Args:
        bundle: Verified bundle.
        name: Name of the engine; "auto" uses the first of `AUTO` that fits and has passed its self-test.
        rebuild: True to build a TensorRT or TensorRT-RTX engine if the bundle has none that fits.
        untested: True to accept an engine without a passed self-test, in order to test it.
        reporter: Receiver of the progress of a rebuild.
        server: Server of the engine "triton"; None for the one that the environment names.

    Raises:
        NoAnswerError: The server is away, and the options name no engine that takes over.
        EngineError: The engine is not installed, does not fit, failed to load, or has not passed its self-test.
        BundleError: An engine file or its label is damaged.
        OutputError: A rebuilt engine cannot be written.
    """
    if name == "auto":
        return _choose_automatically(bundle, untested)
    if name == "triton":
        return _open_served(bundle, server or ServerOptions.from_environment(), untested)
    if name == "tensorrt" or name == "rtx":  # noqa: PLR1714  (mypy narrows by equality)
        chosen = _open_built(bundle, name, rebuild, reporter)
    else:
        chosen = ChosenEngine(open_engine(bundle.graph, name), name, bundle.record.graph.sha256)
    if not untested:
        _require_proof(bundle, chosen, name)
    return chosen


def _choose_automatically(bundle: Bundle, untested: bool) -> ChosenEngine:
    passed_over: dict[str, str] = {}
    for name in AUTO[:-1]:
        if name in get_args(OnnxRuntimeName) and not was_tested(bundle, name):
            passed_over[name] = "no self-test here"
            continue
        try:
            chosen = choose_engine(bundle, name, untested=untested)
        except EngineError as error:
            passed_over[name] = error.found
        else:
            return ChosenEngine(chosen.engine, chosen.name, chosen.file_sha256, passed_over)
    chosen = choose_engine(bundle, AUTO[-1], untested=untested)
    return ChosenEngine(chosen.engine, chosen.name, chosen.file_sha256, passed_over)


def _open_served(bundle: Bundle, server: ServerOptions, untested: bool) -> ChosenEngine:
    """Open the bundle's model on a server, and an engine of this machine that takes over if the options name one.

    A stored self-test proves nothing about a server, which may have other software or another device today. The test
    is repeated through the server at every opening. With an engine that takes over, a later test by the caller would
    not show a failure of the server, so the server is also tested here if the caller accepts untested engines.
    """
    from cmdiad_runtime.engines.fallback import FallbackEngine
    from cmdiad_runtime.engines.served_model import served_model
    from cmdiad_runtime.engines.triton import TritonEngine

    model = served_model(bundle.graph, bundle.name, bundle.record.graph.sha256)
    local = None if server.fallback is None else choose_engine(bundle, server.fallback)
    try:
        chosen = ChosenEngine(TritonEngine.open(model, server), "triton", bundle.record.graph.sha256)
        if not untested or local is not None:
            require_self_test(bundle, chosen)
    except NoAnswerError as error:
        if local is None:
            raise
        _logger.warning("%s All samples run on this machine.", error)
        return local
    except BaseException:
        if local is not None:
            local.engine.close()
        raise
    if local is None:
        return chosen
    return replace(chosen, engine=FallbackEngine(chosen.engine, local.engine))


def require_batch(bundle: Bundle, name: EngineName) -> BatchRecord:
    """Return the graph for several samples of a bundle.

    Args:
        bundle: Verified bundle.
        name: Name of the engine that is to run the graph.

    Raises:
        BundleError: The bundle has no graph for several samples.
        EngineError: The engine runs one sample at a time.
    """
    batch = bundle.record.batch
    if batch is None:
        raise BundleError(
            bundle.path,
            found="no graph for several samples at once",
            expected="a bundle that was exported with --batch",
            action="export the run again with cmdiad-export --batch 8, or leave --batch out",
        )
    if name not in ONNX_RUNTIME_NAMES:
        raise EngineError(
            "--batch",
            found=f"the engine {name}, which runs one sample at a time",
            expected=f"one of {', '.join(ONNX_RUNTIME_NAMES)}",
            action="choose another engine, or leave --batch out",
        )
    return batch


def open_batch_engine(bundle: Bundle, name: EngineName = "cpu", *, untested: bool = False) -> ChosenEngine:
    """Open the engine that runs several samples at once; `ChosenEngine.engine` is a `BatchEngine`.

    Args:
        bundle: Verified bundle with a graph for several samples.
        name: Name of an engine that runs the graph in ONNX Runtime.
        untested: True to accept an engine without a passed self-test, in order to test it.

    Raises:
        BundleError: See `require_batch`.
        EngineError: See `require_batch`; or the engine is not installed, failed to load, or has not passed its
            self-test.
    """
    batch = require_batch(bundle, name)
    assert name in ONNX_RUNTIME_NAMES
    engine = BatchEngine(open_engine(bundle.path / batch.file, name), batch.size)
    chosen = ChosenEngine(engine, f"{name}-batch{batch.size}", batch.sha256)
    if not untested:
        _require_proof(bundle, chosen, name)
    return chosen


def self_test_of(
    bundle: Bundle,
    name: EngineName,
    *,
    rebuild: bool = False,
    reporter: Reporter = SILENT,
    server: ServerOptions | None = None,
) -> SelfTest:
    """Open an engine, run the golden set through it and close it. Return the test, passed or not.

    A server is tested without the engine that takes over, which would answer for a server that fails in the test.

    Args:
        bundle: See `choose_engine`.
        name: See `choose_engine`.
        rebuild: See `choose_engine`.
        reporter: See `choose_engine`.
        server: See `choose_engine`.

    Raises:
        NoAnswerError: The server is away.
        CmdiadError: See `choose_engine` and `run_self_test`.
    """
    if name == "triton":
        server = replace(server or ServerOptions.from_environment(), fallback=None)
    chosen = choose_engine(bundle, name, rebuild=rebuild, untested=True, reporter=reporter, server=server)
    try:
        return run_self_test(bundle, chosen.engine, chosen.name, chosen.file_sha256)
    finally:
        chosen.engine.close()


def batch_self_test_of(bundle: Bundle, name: EngineName) -> SelfTest:
    """Test the graph for several samples like `self_test_of`, with golden samples in mixed order.

    Raises:
        CmdiadError: See `open_batch_engine` and `run_self_test`.
    """
    chosen = open_batch_engine(bundle, name, untested=True)
    try:
        return run_self_test(bundle, chosen.engine, chosen.name, chosen.file_sha256)
    finally:
        chosen.engine.close()


def _require_proof(bundle: Bundle, chosen: ChosenEngine, name: EngineName) -> None:
    """Close the engine and raise EngineError unless the export or a self-test proves it."""
    if not _is_certified(bundle, chosen, certified=name == "cpu"):
        chosen.engine.close()
        raise _untested(bundle, chosen, name)
    if name == "cpu" and is_tested_at_each_opening(bundle):
        action = "export the run with --precision fp16, because this processor has no VNNI instructions"
        require_self_test(bundle, chosen, action)


def is_tested_at_each_opening(bundle: Bundle) -> bool:
    """Return True if each opening of the graph on this processor runs the golden samples first.

    An int8 graph is tested on a processor that may cut off sums of int8 products, because the export may have certified
    it on another processor; see `adds_int8_products_exactly`.
    """
    return bundle.precision in ("int8", "int8-cpu") and not adds_int8_products_exactly()


def require_self_test(
    bundle: Bundle,
    chosen: ChosenEngine,
    action: str = "export the bundle again; write the model of a server again with cmdiad-fleet triton",
) -> None:
    """Run the golden set through an open engine. Close the engine and raise EngineError unless the test passes.

    Args:
        bundle: Verified bundle.
        chosen: Open engine.
        action: What to do after a failed test.
    """
    try:
        comparison = run_self_test(bundle, chosen.engine, chosen.name, chosen.file_sha256).comparison
        if not comparison.passed:
            raise EngineError(
                bundle.path,
                found=f"a failed self-test through {chosen.engine.identity}: the score differs by "
                f"{comparison.score_max_share:.2%} of the threshold",
                expected="the results of the certificate",
                action=action,
            )
    except BaseException:
        chosen.engine.close()
        raise


def _open_built(bundle: Bundle, name: BuiltName, rebuild: bool, reporter: Reporter) -> ChosenEngine:
    library = LIBRARIES[name]
    fitting, reasons = _fitting(bundle, library)
    if fitting is None:
        if not rebuild:
            raise EngineError(
                bundle.path,
                found=reasons,
                expected=f"an engine for --engine {name} that fits this device",
                action=f"run cmdiad-build {bundle.path} --target {name} on this device, or pass --rebuild",
            )
        fitting = build_for_bundle(bundle, library, reporter)
    graph_sha256 = bundle.record.graph.sha256
    if name == "tensorrt":
        from cmdiad_runtime.engines.tensorrt import open_tensorrt as open_built
    else:
        from cmdiad_runtime.engines.tensorrt_rtx import open_tensorrt_rtx as open_built
    engine = open_built(fitting.path, fitting.fingerprint, graph_sha256)
    return ChosenEngine(engine, fitting.path.stem, fitting.fingerprint.engine_sha256)


def _fitting(bundle: Bundle, library: EngineLibrary) -> tuple[BuiltEngine | None, str]:
    """Return the first engine that fits this device, or None and the reasons why none does."""
    candidates = engines_of(bundle, library)
    if not candidates:
        return None, f"no {library} engine"
    from cmdiad_runtime.engines._tensorrt import mismatch_here, surroundings_of

    here, reasons = surroundings_of(library), []
    for candidate in candidates:
        reason = mismatch_here(candidate.fingerprint, here, bundle.record.graph.sha256)
        if reason is None:
            return candidate, ""
        reasons.append(f"{candidate.path.name}, but {reason}")
    return None, "; ".join(reasons)


def _is_certified(bundle: Bundle, chosen: ChosenEngine, *, certified: bool) -> bool:
    """Return True if the export or a self-test proves an engine.

    Args:
        bundle: Verified bundle.
        chosen: Open engine.
        certified: True if the export certified this engine on its own kind of machine.
    """
    if certified and bundle.record.certificate.machine == platform.machine():
        return True
    return has_passed(bundle, chosen.name, chosen.engine.identity, chosen.file_sha256)


def _untested(bundle: Bundle, chosen: ChosenEngine, name: EngineName) -> EngineError:
    return EngineError(
        bundle.path,
        found=f"no passed self-test of {chosen.name} with {chosen.engine.identity}",
        expected="a passed self-test, because the engine was not certified on this kind of device",
        action=f"run cmdiad-run --self-test {bundle.path} --engine {name}",
    )
