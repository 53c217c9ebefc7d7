"""A recipe that is loaded and has passed its self-test on this machine."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt

# The preprocessing uses these, and scipy imports them at the first use: a third of a second, in the first part's time.
import scipy.fft
import scipy.ndimage
import scipy.sparse.csgraph
import scipy.spatial  # noqa: F401

from cmdiad_line.transport.messages import Load
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.certificate import Comparison, compare
from cmdiad_runtime.bundle.engine_selection import choose_engine
from cmdiad_runtime.bundle.golden import GoldenSample, read_golden
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.bundle.self_test import run_self_test
from cmdiad_runtime.bundle.threshold import adjusted
from cmdiad_runtime.engines import Engine, EngineName
from cmdiad_runtime.errors import BundleError, CertificateError
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.inspection.inspector import Inspector, open_bundle
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.sample import Sample


@dataclass(frozen=True, kw_only=True)
class Detector:
    """A loaded recipe.

    Attributes:
        load: Order that it was loaded by.
        bundle: Verified bundle with the thresholds as exported.
        inspector: Bundle and engine with the thresholds in use.
        probes: Golden samples for `probe`.
        milliseconds: Duration of loading and self-test.
    """

    load: Load
    bundle: Bundle
    inspector: Inspector
    probes: tuple[GoldenSample, ...]
    milliseconds: float

    @property
    def engine(self) -> Engine:
        """Return the engine."""
        return self.inspector.engine

    def inspect(self, acquisition_id: int, arrays: Mapping[str, npt.NDArray[Any]]) -> Inspection:
        """Inspect the arrays "rgb" and "xyz" of a frame.

        Raises:
            EngineError: The engine failed.
        """
        return self.inspector.inspect(Sample(str(acquisition_id), rgb=arrays.get("rgb"), xyz=arrays.get("xyz")))

    def probe(self, token: int) -> Comparison:
        """Run one golden sample through the engine; the token selects it.

        Raises:
            EngineError: The engine failed.
        """
        sample = self.probes[token % len(self.probes)]
        bundle = self.bundle
        return compare(self.engine, bundle.precision, [sample], bundle.certified_calibration, bundle.tolerance)

    def close(self) -> None:
        """Release the engine's memory. Idempotent."""
        self.inspector.close()


def open_detector(load: Load) -> Detector:
    """Verify a bundle, load its graph and run its self-test.

    Raises:
        BundleError: The bundle is damaged, not signed as required, or another one than the recipe names.
        CertificateError: The engine has not passed the self-test.
        EngineError: The engine is not installed, does not fit or failed.
    """
    start = time.perf_counter()
    options = OpenOptions(engine=cast("EngineName", load.engine), require_signature=load.public_key or None)
    bundle = open_bundle(load.path, options)
    digest = manifest_hash(bundle.manifest)
    if digest != load.bundle_digest:
        raise BundleError(
            load.path,
            found=f"the bundle {digest[:12]}",
            expected=f"the bundle {load.bundle_digest[:12]} of the recipe {load.recipe_id}",
            action="import the bundle again",
        )
    chosen = choose_engine(bundle, options.engine, untested=True)
    try:
        test = run_self_test(bundle, chosen.engine, chosen.name, chosen.file_sha256)
        if not test.comparison.passed:
            share = test.comparison.score_max_share
            raise CertificateError(
                load.path,
                found=f"a failed self-test: the score differs by {share:.2%} of the threshold",
                expected="the results of the certificate",
                action="export the bundle with --engine fp32, or update the engine's libraries",
            )
        inspector = Inspector(adjusted(bundle, score=load.threshold), chosen.engine)
        probes = tuple(read_golden(bundle.golden))
    except BaseException:
        chosen.engine.close()
        raise
    duration = (time.perf_counter() - start) * 1e3
    return Detector(load=load, bundle=bundle, inspector=inspector, probes=probes, milliseconds=round(duration, 1))


def with_threshold(detector: Detector, load: Load) -> Detector:
    """Return a detector with the threshold of another order for the same bundle; both share the engine."""
    start = time.perf_counter()
    inspector = Inspector(adjusted(detector.bundle, score=load.threshold), detector.engine)
    duration = (time.perf_counter() - start) * 1e3
    return replace(detector, load=load, inspector=inspector, milliseconds=round(duration, 1))


def is_same_engine(one: Load, other: Load) -> bool:
    """Return True if two orders differ in the threshold at most."""
    return replace(one, threshold=None) == replace(other, threshold=None)


def peak_of(inspection: Inspection) -> tuple[int, int] | None:
    """Return row and column of the largest map value in the sensor's image, or None without a map."""
    if inspection.map is None or inspection.view is None:
        return None
    view, size = inspection.view, len(inspection.map)
    row, column = np.unravel_index(int(inspection.map.argmax()), inspection.map.shape)
    scale = view.side / size
    place = (int((row + 0.5) * scale - view.top), int((column + 0.5) * scale - view.left))
    return min(max(place[0], 0), view.height - 1), min(max(place[1], 0), view.width - 1)
