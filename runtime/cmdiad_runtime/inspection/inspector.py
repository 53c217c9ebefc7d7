"""The whole Python API that a line integrator needs: open a bundle, inspect samples."""

from __future__ import annotations

import time
from dataclasses import dataclass
from os import PathLike
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.bundle.engine_selection import choose_engine
from cmdiad_runtime.bundle.manifest import Bundle
from cmdiad_runtime.bundle.threshold import adjusted
from cmdiad_runtime.engines import Engine, EngineName
from cmdiad_runtime.errors import BundleError, EngineError
from cmdiad_runtime.preprocess.prepare import Prepared, prepare
from cmdiad_runtime.preprocess.views.place import PaddedSquare
from cmdiad_runtime.sample import Sample, Sensors


@dataclass(frozen=True)
class Inspection:
    """The outcome for one sample.

    Attributes:
        name: of the sample.
        score: image score, larger is more anomalous.
        threshold: scores above it are NG.
        verdict: "OK" or "NG".
        map: float32 `[size, size]`, anomaly map over the sensor's padded square.
        view: where that square lies over the sensor's image.
        timings_ms: wall-clock milliseconds by stage: `preprocess`, `engine`.
    """

    name: str
    score: float
    threshold: float
    verdict: Literal["OK", "NG"]
    map: npt.NDArray[np.float32]
    view: PaddedSquare
    timings_ms: dict[str, float]


def open_bundle(
    path: str | PathLike[str], modality: Sensors | None, require_signature: str | PathLike[str] | None = None
) -> Bundle:
    """Verify a bundle, and that it is made for the sensor at hand; raises BundleError."""
    bundle = Bundle.open(path, require_signature=require_signature)
    if modality is not None and modality != bundle.preprocessing.modality:
        raise BundleError(
            path,
            found=f"a bundle for --modality {bundle.preprocessing.modality}",
            expected=f"one for --modality {modality}",
            action=f"train and export a detector with --modality {modality}, or change the option",
        )
    return bundle


class Inspector:
    """A bundle in an engine, ready to inspect samples.

    >>> with Inspector.open("parts.cmdiad") as inspector:  # doctest: +SKIP
    ...     inspection = inspector.inspect(Sample("part 1", rgb=image))
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self.engine = engine

    @staticmethod
    def open(
        path: str | PathLike[str],
        *,
        modality: Sensors | None = None,
        engine: EngineName = "cpu",
        rebuild: bool = False,
        threshold: float | None = None,
        false_reject_rate: float | None = None,
        require_signature: str | PathLike[str] | None = None,
    ) -> Inspector:
        """Verify a bundle and load its graph.

        Args:
            path: the bundle's folder.
            modality: the sensor at hand; None takes the bundle's.
            engine: see `cmdiad_runtime.engines`; "auto" takes the fastest that has passed its self-test here.
            rebuild: build a TensorRT or TensorRT-RTX engine where the bundle has none that fits.
            threshold: a raw score to use instead of the bundle's threshold; the map threshold stays.
            false_reject_rate: compute both thresholds for this rate from the bundle's held-out scores.
            require_signature: public key (PEM file) whose owner must have signed the bundle.

        Raises:
            BundleError: the bundle is damaged, made for another modality, or holds no held-out scores for a rate.
            EngineError: the engine is not installed, does not fit, or has not passed its self-test here.
            ValueError: both a threshold and a rate, or one outside its range.
        """
        bundle = adjusted(
            open_bundle(path, modality, require_signature), score=threshold, false_reject_rate=false_reject_rate
        )
        return Inspector(bundle, choose_engine(bundle, engine, rebuild=rebuild).engine)

    def inspect(self, sample: Sample) -> Inspection:
        """Inspect one sample.

        Raises:
            InputError: the sample cannot be used; the inspector stays usable.
            EngineError: the engine failed, or gave a score that is not a number.
        """
        start = time.perf_counter()
        prepared = prepare(sample, self.bundle.preprocessing)
        return self.judge(sample.name, prepared, preprocess_ms=(time.perf_counter() - start) * 1e3)

    def judge(self, name: str, prepared: Prepared, *, preprocess_ms: float) -> Inspection:
        """The second half of `inspect`, for a sample whose network inputs are made elsewhere (see `pipeline`).

        Raises:
            EngineError: the engine failed, or gave a score that is not a number.
        """
        start = time.perf_counter()
        outputs = self.engine.run(prepared.inputs)
        engine_ms = (time.perf_counter() - start) * 1e3
        score = float(outputs["score"][0])
        if not np.isfinite(score):
            raise EngineError(
                name,
                found=f"a score of {score}",
                expected="a finite score",
                action="export the bundle with --engine fp32",
            )
        threshold = self.bundle.calibration.score_threshold
        return Inspection(
            name=name,
            score=score,
            threshold=threshold,
            verdict="NG" if score > threshold else "OK",
            map=prepared.to_sensor(outputs["map"]),
            view=prepared.square,
            timings_ms={"preprocess": preprocess_ms, "engine": engine_ms},
        )

    def close(self) -> None:
        """Give the engine's memory back."""
        self.engine.close()

    def __enter__(self) -> Inspector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
