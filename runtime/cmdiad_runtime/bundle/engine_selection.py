"""Which engine runs a bundle, whether it fits this device, and whether it has been tested here. Never a guess.

A graph on the CPU is certified by the export itself, for the architecture of the machine that exported it. Every
other engine needs a passed self-test on this kind of device before it gives verdicts.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass, field
from typing import get_args

from cmdiad_runtime.bundle.built_engines import BuiltEngine, build_for_bundle, engines_of
from cmdiad_runtime.bundle.manifest import Bundle
from cmdiad_runtime.bundle.self_test import has_passed, was_tested
from cmdiad_runtime.engines import LIBRARIES, BuiltName, Engine, EngineLibrary, EngineName, OnnxRuntimeName, open_engine
from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.support.reporter import SILENT, Reporter

AUTO: tuple[BuiltName | OnnxRuntimeName, ...] = ("tensorrt", "rtx", "ort-tensorrt", "ort-rtx", "cuda", "cpu")
"""Fastest first, as far as is known."""


@dataclass(frozen=True)
class Chosen:
    """An open engine.

    Attributes:
        engine: ready to run.
        name: the engine file's name without its ending, or the provider ("cpu").
        file_sha256: of what it runs: the engine file, or the graph.
        passed_over: what `auto` could not take, and why, in words.
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
) -> Chosen:
    """Open the engine that runs a bundle here.

    Args:
        bundle: a verified bundle.
        name: which one; "auto" takes the first of `AUTO` that fits and has passed its self-test.
        rebuild: build a TensorRT or TensorRT-RTX engine where the bundle has none that fits.
        untested: take an engine without a passed self-test, in order to test it.
        reporter: Receives the progress of a rebuild.

    Raises:
        EngineError: the engine is not installed, does not fit, failed to load, or has not passed its self-test.
        BundleError: an engine file or its label is damaged. OutputError: a rebuilt engine cannot be written.
    """
    if name == "auto":
        return _choose_automatically(bundle, untested)
    if name == "tensorrt" or name == "rtx":  # noqa: PLR1714  (mypy narrows by equality)
        chosen = _open_built(bundle, name, rebuild, reporter)
    else:
        chosen = Chosen(open_engine(bundle.graph, name), name, bundle.manifest["graph"]["sha256"])
    if untested or _is_certified(bundle, chosen):
        return chosen
    chosen.engine.close()
    raise EngineError(
        bundle.path,
        found=f"no passed self-test of {chosen.name} with {chosen.engine.identity}",
        expected="one, since the engine was not certified on this kind of device",
        action=f"run cmdiad-run --self-test {bundle.path} --engine {name}",
    )


def _choose_automatically(bundle: Bundle, untested: bool) -> Chosen:
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
            return Chosen(chosen.engine, chosen.name, chosen.file_sha256, passed_over)
    chosen = choose_engine(bundle, AUTO[-1], untested=untested)
    return Chosen(chosen.engine, chosen.name, chosen.file_sha256, passed_over)


def _open_built(bundle: Bundle, name: BuiltName, rebuild: bool, reporter: Reporter) -> Chosen:
    library = LIBRARIES[name]
    fitting, reasons = _fitting(bundle, library)
    if fitting is None:
        if not rebuild:
            raise EngineError(
                bundle.path,
                found=reasons,
                expected=f"an engine for --engine {name} that fits this device",
                action=f"run cmdiad-build {bundle.path} --target {name} on this device, or give --rebuild",
            )
        fitting = build_for_bundle(bundle, library, reporter)
    graph_sha256 = bundle.manifest["graph"]["sha256"]
    if name == "tensorrt":
        from cmdiad_runtime.engines.tensorrt import open_tensorrt as open_built
    else:
        from cmdiad_runtime.engines.tensorrt_rtx import open_tensorrt_rtx as open_built
    engine = open_built(fitting.path, fitting.fingerprint, graph_sha256)
    return Chosen(engine, fitting.path.stem, fitting.fingerprint.engine_sha256)


def _fitting(bundle: Bundle, library: EngineLibrary) -> tuple[BuiltEngine | None, str]:
    """The first engine that fits here, and otherwise why none does."""
    candidates = engines_of(bundle, library)
    if not candidates:
        return None, f"no {library} engine"
    from cmdiad_runtime.engines._tensorrt import mismatch_here, surroundings_of

    here, reasons = surroundings_of(library), []
    for candidate in candidates:
        reason = mismatch_here(candidate.fingerprint, here, bundle.manifest["graph"]["sha256"])
        if reason is None:
            return candidate, ""
        reasons.append(f"{candidate.path.name}, but {reason}")
    return None, "; ".join(reasons)


def _is_certified(bundle: Bundle, chosen: Chosen) -> bool:
    if chosen.name == "cpu" and bundle.manifest["certificate"]["machine"] == platform.machine():
        return True
    return has_passed(bundle, chosen.name, chosen.engine.identity, chosen.file_sha256)
