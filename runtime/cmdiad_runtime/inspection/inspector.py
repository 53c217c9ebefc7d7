"""The Python API of a production line: open a bundle, inspect samples."""

from __future__ import annotations

import time
from dataclasses import dataclass
from os import PathLike
from types import TracebackType
from typing import Literal

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.engine_selection import choose_engine
from cmdiad_runtime.bundle.threshold import adjusted
from cmdiad_runtime.engines import Engine
from cmdiad_runtime.errors import BundleError, EngineError
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.preprocess.prepare import Prepared, prepare
from cmdiad_runtime.preprocess.views.place import PaddedSquare
from cmdiad_runtime.sample import Sample

DEFAULT_OPTIONS = OpenOptions()


@dataclass(frozen=True)
class Inspection:
    """The result for one sample.

    Attributes:
        name: Name of the sample.
        score: Image score; larger is more anomalous.
        threshold: Score above which a sample is NG.
        verdict: "OK" or "NG".
        map: Anomaly map over the sensor's padded square, float32 `[size, size]`.
        view: Position of that square over the sensor's image.
        timings_ms: Wall-clock milliseconds by stage, `preprocess` and `engine`.
    """

    name: str
    score: float
    threshold: float
    verdict: Literal["OK", "NG"]
    map: npt.NDArray[np.float32]
    view: PaddedSquare
    timings_ms: dict[str, float]


def open_bundle(path: str | PathLike[str], options: OpenOptions = DEFAULT_OPTIONS) -> Bundle:
    """Verify a bundle and apply the options that concern its files and thresholds.

    Args:
        path: Folder of the bundle.
        options: Choices; `engine` and `rebuild` are not used here.

    Raises:
        BundleError: The bundle is damaged, not signed, made for another modality, or has no held-out scores for a rate.
        EngineError: A signature is required and the package that verifies signatures is missing.
    """
    bundle = Bundle.open(path, require_signature=options.require_signature)
    if options.modality not in (None, bundle.preprocessing.modality):
        raise BundleError(
            path,
            found=f"a bundle for --modality {bundle.preprocessing.modality}",
            expected=f"one for --modality {options.modality}",
            action=f"train and export a detector with --modality {options.modality}, or change the option",
        )
    return adjusted(bundle, score=options.threshold, false_reject_rate=options.false_reject_rate)


class Inspector:
    """A bundle in an engine, ready to inspect samples.

    >>> with Inspector.open("parts.cmdiad") as inspector:  # doctest: +SKIP
    ...     inspection = inspector.inspect(Sample("part 1", rgb=image))

    Attributes:
        bundle: Verified bundle.
        engine: Open engine.
    """

    def __init__(self, bundle: Bundle, engine: Engine) -> None:
        self.bundle = bundle
        self.engine = engine

    @staticmethod
    def open(path: str | PathLike[str], options: OpenOptions = DEFAULT_OPTIONS) -> Inspector:
        """Verify a bundle and load its graph.

        Args:
            path: Folder of the bundle.
            options: Choices of modality, engine, threshold and signature.

        Raises:
            BundleError: The bundle is damaged, not signed, made for another modality, or has no held-out scores for a
                rate.
            EngineError: The engine is not installed, does not fit, or has not passed its self-test on this device.
        """
        bundle = open_bundle(path, options)
        return Inspector(bundle, choose_engine(bundle, options.engine, rebuild=options.rebuild).engine)

    def inspect(self, sample: Sample) -> Inspection:
        """Inspect one sample.

        Args:
            sample: Image uint8 `[h, w, 3]` in RGB order, cloud float32 `[h, w, 3]` in metres, or both, as the
                bundle's modality needs.

        Raises:
            InputError: The sample cannot be used. The inspector stays usable.
            EngineError: The engine failed, or returned a score that is not a number.
        """
        start = time.perf_counter()
        prepared = prepare(sample, self.bundle.preprocessing)
        return self.judge(sample.name, prepared, preprocess_ms=(time.perf_counter() - start) * 1e3)

    def judge(self, name: str, prepared: Prepared, *, preprocess_ms: float) -> Inspection:
        """Run the engine on prepared inputs and decide: the second half of `inspect`.

        Args:
            name: Name of the sample.
            prepared: Network inputs of the sample, see `prepare`.
            preprocess_ms: Duration of the preparation, for the result.

        Raises:
            EngineError: The engine failed, or returned a score that is not a number.
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
        """Release the engine's memory. Idempotent."""
        self.engine.close()

    def __enter__(self) -> Inspector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
