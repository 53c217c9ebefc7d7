"""The engines of a bundle: those it came with, and those that were built on this machine.

An engine that was built on this machine is not part of the bundle. It lies in the bundle's folder in the cache
(`cmdiad_runtime.bundle.site`) and has its own label, `NAME.json` next to `NAME.engine`. A label in the bundle itself is
never read.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.golden import GoldenSample, read_golden
from cmdiad_runtime.bundle.site import MARK, site_folder, site_place
from cmdiad_runtime.engines import BUILT_NAMES, EngineLibrary
from cmdiad_runtime.engines.building.builder import OPTIONAL, BuildRequest, ProfileShapes, ahead_of_time, build_engine
from cmdiad_runtime.engines.fingerprint import EngineFingerprint, capability_text
from cmdiad_runtime.engines.graph_file import graph_bytes
from cmdiad_runtime.errors import BundleError, EngineError
from cmdiad_runtime.support.files import write_json
from cmdiad_runtime.support.records import (
    NewerRecordError,
    fields_from_json,
    require,
    require_instance,
    require_name,
    require_number,
)
from cmdiad_runtime.support.regular_file import read_regular
from cmdiad_runtime.support.reporter import SILENT, Reporter
from cmdiad_runtime.support.system import available_memory

# Peak memory of the building process: a constant plus a multiple of the graph's size. Measured with TensorRT-RTX
# 1.7.1 for three targets on matrix products of 17, 100 and 400 MB, fp32 and fp16: 0.28, 0.61 and 1.79 GB. TensorRT,
# which also times its choices on the device, was not measured and takes more.
_MEMORY_FLOOR = 250_000_000
_MEMORY_FACTOR = 4
LABEL_LIMIT = 1 << 16
"""Largest size of a label or self-test record, bytes."""


@dataclass(frozen=True)
class BuiltEngine:
    """An engine file with its label.

    Attributes:
        path: Engine file.
        fingerprint: Library, device and graph that the engine was built with and for.
        seconds: Duration of the build; None if it was not recorded.
        built_here: True for an engine that was built on this machine, False for one that came with the bundle.
    """

    path: Path
    fingerprint: EngineFingerprint
    seconds: float | None = None
    built_here: bool = False


@dataclass(frozen=True)
class EngineLabel:
    """The label of an engine that was built on this machine, `NAME.json`.

    Attributes:
        file: Name of the engine file next to the label.
        fingerprint: Library, device and graph that the engine was built with and for.
        seconds: Duration of the build.

    Raises:
        RecordError: A value has the wrong kind or is out of range.
    """

    file: str
    fingerprint: EngineFingerprint
    seconds: float

    def __post_init__(self) -> None:
        require_name(self, "file")
        require(Path(self.file).name == self.file, self, "file", "a file name without folders")
        require_instance(self, "fingerprint", EngineFingerprint)
        require_number(self, "seconds", 0, sys.float_info.max)

    @staticmethod
    def from_json(value: object) -> EngineLabel:
        """Read the label that `to_json` wrote.

        Raises:
            NewerRecordError: An object has an unknown field.
            RecordError: A field is missing or wrong.
        """
        fields = fields_from_json(EngineLabel, value)
        return EngineLabel(**{**fields, "fingerprint": EngineFingerprint.from_json(fields["fingerprint"])})

    def to_json(self) -> dict[str, Any]:
        """Return the label as a JSON object."""
        return {"file": self.file, "fingerprint": self.fingerprint.to_json(), "seconds": self.seconds}


def engines_of(bundle: Bundle, library: EngineLibrary) -> list[BuiltEngine]:
    """Return the engines of one library: those built here, newest first, then those that the bundle came with.

    Raises:
        BundleError: A label cannot be read.
    """
    place = site_place(bundle)
    labels = [path for path in place.glob("*.json") if _is_label(path)] if place is not None else []
    labels.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    engines = [_read_label(path) for path in labels]
    engines += [BuiltEngine(bundle.path / engine.file, engine.fingerprint) for engine in bundle.record.engines]
    return [engine for engine in engines if engine.fingerprint.library == library]


def build_for_bundle(bundle: Bundle, library: EngineLibrary, reporter: Reporter = SILENT) -> BuiltEngine:
    """Build an engine from the bundle's graph for this device and write it to the bundle's folder in the cache.

    Without a device, TensorRT-RTX builds for all of `AHEAD_OF_TIME` that support the graph's precision.

    Args:
        bundle: Verified bundle.
        library: Library that builds the engine.
        reporter: Receiver of the progress, in percent.

    Raises:
        EngineError: The library or the device is missing, or the library refuses the graph.
        OutputError: The engine cannot be written.
    """
    targets, optional = targets_here(library, bundle.precision)
    where = f"sm{targets[0]}" if len(targets) == 1 else "ahead"
    path = site_folder(bundle) / f"{BUILT_NAMES[library]}-{bundle.precision}-{where}.engine"
    start = time.monotonic()
    request = BuildRequest(
        graph=bundle.graph,
        library=library,
        precision=bundle.precision,
        compute_capabilities=targets,
        optional=optional,
        profiles=profiles_of(read_golden(bundle.golden), bundle.preprocessing.grid),
    )
    fingerprint = build_engine(request, path, reporter)
    label = EngineLabel(path.name, fingerprint, round(time.monotonic() - start, 1))
    write_json(path.with_suffix(".json"), label.to_json())
    return BuiltEngine(path, fingerprint, label.seconds, built_here=True)


def targets_here(library: EngineLibrary, precision: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the compute capabilities to build for, and those of them that may be left out.

    Raises:
        EngineError: There is no device and the library is TensorRT. TensorRT-RTX can build ahead of time.
    """
    from cmdiad_runtime.engines._cuda import current_device, load_cuda

    try:
        return (current_device(load_cuda()).compute_capability,), ()
    except EngineError:
        if library == "tensorrt":
            raise
        return ahead_of_time(precision), OPTIONAL


def profiles_of(golden: list[GoldenSample], grid: int) -> dict[str, ProfileShapes]:
    """Return smallest, usual and largest shape of the one dynamic input, the distinct rows of a cloud.

    There are at most `grid`² + 1 distinct rows.
    """
    weights = [sample.inputs["weights"].shape for sample in golden if "weights" in sample.inputs]
    if not weights:
        return {}
    groups = weights[0][1]
    usual = max(2, sum(rows for rows, _ in weights) // len(weights))
    return {"weights": ((2, groups), (usual, groups), (grid**2 + 1, groups))}


def estimate(bundle: Bundle, library: EngineLibrary) -> str:
    """Describe the memory that a build needs, from the graph's size, and its duration, from the last build if any."""
    size = graph_bytes(bundle.graph)
    need = _MEMORY_FLOOR + _MEMORY_FACTOR * size
    last = [engine for engine in engines_of(bundle, library) if engine.seconds is not None]
    targets = ", ".join(capability_text(target) for target in targets_here(library, bundle.precision)[0])
    took = f"{last[0].seconds:.0f} s as last time" if last else _usual_time(library)
    free = available_memory()
    least = "about" if library == "tensorrt_rtx" else "at least"
    memory = f"{least} {need / 1e9:.1f} GB of memory" + (f" ({free / 1e9:.1f} GB free)" if free is not None else "")
    scratch = last[0].fingerprint.scratch_bytes if last else None
    on_device = f"; on the device {scratch / 1e6:.0f} MB of scratch memory" if scratch is not None else ""
    return f"building for compute capability {targets} from {size / 1e6:.1f} MB: {took}, {memory}{on_device}"


def _usual_time(library: EngineLibrary) -> str:
    if library == "tensorrt_rtx":
        return "seconds to a minute"
    return "usually minutes, on a Jetson tens of them"


def _is_label(path: Path) -> bool:
    """Return True for the name of a label: one suffix, and an engine or a missing one next to it, not the mark."""
    return path.suffixes == [".json"] and path.name != MARK and not path.name.startswith(".")


def _read_label(path: Path) -> BuiltEngine:
    """Read a label. A damaged one is an error, because the engine next to it would silently not be used."""
    expected = "the label of an engine that was built on this machine"
    try:
        label = EngineLabel.from_json(json.loads(read_regular(path, LABEL_LIMIT)))
    except NewerRecordError as error:
        action = "made by a newer cmdiad: update cmdiad on this machine"
        raise BundleError(path, found=str(error), expected=expected, action=action) from error
    except (OSError, ValueError, RecursionError) as error:
        raise BundleError(
            path,
            found=f"no readable label ({error})",
            expected=expected,
            action="remove it, or build the engine again (cmdiad-build BUNDLE)",
        ) from error
    return BuiltEngine(path.with_name(label.file), label.fingerprint, label.seconds, built_here=True)
