"""The Python API of a production line: open a bundle, inspect samples."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.calibration import SCORE_LIMIT
from cmdiad_runtime.bundle.engine_selection import choose_engine
from cmdiad_runtime.bundle.threshold import adjusted
from cmdiad_runtime.bundle.verdict import deciding_score
from cmdiad_runtime.engines import Engine
from cmdiad_runtime.envelope.frame import FrameCounter
from cmdiad_runtime.envelope.names import FROZEN_AFTER
from cmdiad_runtime.errors import BundleError, InputError, NoAnswerError
from cmdiad_runtime.inspection.arrived import Arrived
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.inspection.open_options import OpenOptions
from cmdiad_runtime.inspection.ready import Ready, make_ready
from cmdiad_runtime.inspection.run_ahead import Computed
from cmdiad_runtime.names import Sensors
from cmdiad_runtime.preprocess.inspected_area.records import doubt
from cmdiad_runtime.preprocess.views.masking import over_sensor
from cmdiad_runtime.printable import printable
from cmdiad_runtime.reasons import Reason
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.score_text import score_texts

Source: TypeAlias = Path | Sample | Arrived
"""A file, a sample, or a sample that arrived in a watched folder."""
DEFAULT_OPTIONS = OpenOptions()

_logger = logging.getLogger("cmdiad.inspection")


def open_bundle(path: str | PathLike[str], options: OpenOptions = DEFAULT_OPTIONS) -> Bundle:
    """Verify a bundle and apply the options that concern its files, thresholds and checks.

    A bundle whose view was forced against the evidence of the training samples is opened with a warning in the log
    `cmdiad.inspection`.

    Args:
        path: Folder of the bundle.
        options: Choices; `engine`, `server` and `rebuild` are not used here.

    Raises:
        BundleError: The bundle is damaged, not signed, made for another modality, or has no held-out scores for a rate.
        EngineError: A signature is required and the package that verifies signatures is missing.
    """
    bundle = Bundle.open(path, require_signature=options.require_signature)
    name = bundle.preprocessing.modality_name
    if options.modality not in (None, name):
        raise BundleError(
            path,
            found=f"a bundle for --modality {name}",
            expected=f"one for --modality {options.modality}",
            action=f"train and export a detector with --modality {options.modality}, or change the option",
        )
    area = bundle.record.inspected_area
    if area is not None and area.counter_evidence:
        _logger.warning("%s: %s", printable(path), printable(doubt(area)))
    bundle = replace(bundle, ignored_checks=tuple({*bundle.ignored_checks, *options.ignore_checks}))
    return adjusted(bundle, score=options.threshold, false_reject_rate=options.false_reject_rate)


@dataclass(frozen=True)
class Assigned:
    """A source with the inspector that is responsible for the modalities of this source.

    Attributes:
        inspector: Inspector of the pattern.
        source: Sample, or file to read for this inspector: the image if the detector inspects images.
        refusal: Reason against the source before anything is read, or None.
    """

    inspector: Inspector
    source: Source
    refusal: InputError | None = None


class Inspector:
    """A bundle in an engine, ready to inspect samples.

    >>> with Inspector.open("parts.cmdiad") as inspector:  # doctest: +SKIP
    ...     inspection = inspector.inspect(Sample("part 1", rgb=image))

    Attributes:
        bundle: Verified bundle.
        engine: Open engine.
        pattern: Pattern of this bundle in a bundle for whichever sensors arrive; None for any other bundle.

    Args:
        bundle: See Attributes.
        engine: See Attributes.
        frozen_after: Number of identical frames in a row that makes a sample NG; 0 accepts any number.
        pattern: See Attributes.
        frames: Counter of identical frames that several inspectors of the same sensors share; None for a separate one.
    """

    def __init__(
        self,
        bundle: Bundle,
        engine: Engine,
        *,
        frozen_after: int = FROZEN_AFTER,
        pattern: Sensors | None = None,
        frames: FrameCounter | None = None,
    ) -> None:
        self.bundle = bundle
        self.engine = engine
        self.pattern = pattern
        accepts_frozen = "frozen" in bundle.ignored_checks
        self._frames = FrameCounter(0) if accepts_frozen else frames or FrameCounter(frozen_after)

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
        engine = choose_engine(bundle, options.engine, rebuild=options.rebuild, server=options.server).engine
        return Inspector(bundle, engine, frozen_after=options.frozen_after)

    def inspect(self, sample: Sample) -> Inspection:
        """Inspect one sample.

        A sample that cannot be used is NG with a reason; no content of a sample raises an exception.

        Args:
            sample: Image uint8 `[h, w, 3]` in RGB order, cloud float32 `[h, w, 3]` in metres, or both, as the
                bundle's modality needs.

        Raises:
            TypeError: The argument is not a Sample.
            EngineError: The engine failed.
        """
        if not isinstance(sample, Sample):
            raise TypeError(f"inspect takes a cmdiad Sample, not {type(sample).__name__}: Sample(name, rgb=image)")
        start = time.perf_counter()
        ready = make_ready(sample, self.bundle)
        return self.judge(sample, ready, preprocess_ms=(time.perf_counter() - start) * 1e3)

    def judge(
        self, sample: Sample, ready: Ready | InputError, *, preprocess_ms: float, computed: Computed | None = None
    ) -> Inspection:
        """Run the engine on prepared inputs and decide: the second half of `inspect`.

        Args:
            sample: The sample.
            ready: Network inputs of the sample, or the error that says why there are none; see `make_ready`.
            preprocess_ms: Duration of the preparation, for the result.
            computed: Results of the engine for these inputs, see `run_ahead`; None to run the engine now.

        Raises:
            EngineError: The engine failed.
        """
        timings = {"preprocess": preprocess_ms}
        ready = self._frames.add(sample.name, {} if isinstance(ready, InputError) else ready.checksums) or ready
        if isinstance(ready, InputError):
            return self.not_inspected(sample.name, ready, timings_ms=timings, sample=sample)
        try:
            computed = computed or self._run(ready)
        except NoAnswerError as error:
            return self.not_inspected(sample.name, _no_answer(error), timings_ms=timings, sample=sample)
        timings["engine"] = computed.engine_ms
        start = time.perf_counter()
        try:
            score, anomaly_map = _worst(ready, computed.outputs, self.bundle)
        except InputError as error:
            return self.not_inspected(sample.name, error, timings_ms=timings, sample=sample)
        threshold, map_threshold = self.thresholds
        reason, message = _reason(score, threshold, ready.objection)
        ignored = self.bundle.preprocessing.ignored
        left_out = None if ignored is None else np.any([over_sensor(part, ignored) for part in ready.parts], axis=0)
        timings["map"] = (time.perf_counter() - start) * 1e3
        return Inspection(
            name=sample.name,
            reason=reason,
            message=message,
            score=score,
            threshold=threshold,
            map_threshold=map_threshold,
            map=anomaly_map,
            view=ready.parts[0].square,
            ignored=left_out,
            ignored_share=0.0 if ignored is None else ignored.share,
            timings_ms=timings,
            sample=sample,
            skipped_checks=self.bundle.skipped_checks,
            pattern=self.pattern,
        )

    def not_inspected(
        self, name: str, error: InputError, *, timings_ms: dict[str, float] | None = None, sample: Sample | None = None
    ) -> Inspection:
        """Return the result NG of a sample that cannot be read or used.

        Args:
            name: Name of the sample.
            error: Error with the reason.
            timings_ms: See `Inspection`.
            sample: The sample, if there is one. One that is too large is not kept: pictures would fill the memory.
        """
        threshold, map_threshold = self.thresholds
        return Inspection(
            name=name,
            reason=error.reason,
            message=str(error),
            threshold=threshold,
            map_threshold=map_threshold,
            timings_ms=timings_ms or {},
            sample=None if error.reason == "too-large" else sample,
            skipped_checks=self.bundle.skipped_checks,
            pattern=self.pattern,
        )

    @property
    def inspectors(self) -> tuple[Inspector, ...]:
        """Return the inspectors of all patterns, as `PatternInspector` does: this one alone."""
        return (self,)

    def assign(self, source: Source) -> Assigned:
        """Return the source to inspect with this inspector; see `PatternInspector.assign`."""
        return Assigned(self, source)

    @property
    def thresholds(self) -> tuple[float, float]:
        """Return the score threshold and the map threshold in use."""
        return self.bundle.calibration.score_threshold, self.bundle.calibration.map_threshold

    def close(self) -> None:
        """Release the engine's memory. Idempotent."""
        self.engine.close()

    def _run(self, ready: Ready) -> Computed:
        start = time.perf_counter()
        outputs = [self.engine.run(part.inputs) for part in ready.parts]
        return Computed(outputs, (time.perf_counter() - start) * 1e3)

    def __enter__(self) -> Inspector:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _worst(
    ready: Ready, outputs: list[dict[str, npt.NDArray[Any]]], bundle: Bundle
) -> tuple[float, npt.NDArray[np.float32]]:
    """Return the largest score of the parts, and the largest map value at each place, `[size, size]`.

    If the map decides, the score is exactly the largest value of this map.

    Raises:
        InputError: A score or map is not finite, out of range, or has the wrong shape.
    """
    verdict, size = bundle.calibration.verdict, bundle.preprocessing.size
    scores, maps = [], []
    for part, output in zip(ready.parts, outputs, strict=True):
        score, anomaly_map = output.get("score"), output.get("map")
        has_score = verdict == "map" or (score is not None and score.size == 1)
        if not has_score or anomaly_map is None or not _is_map(anomaly_map, size, len(part.places)):
            raise _bad_output(f"the outputs {', '.join(f'{k} {list(v.shape)}' for k, v in output.items()) or 'none'}")
        if not (np.abs(anomaly_map) <= SCORE_LIMIT).all():
            raise _bad_output("a map with values that are not numbers, or out of range")
        over_sensor = part.to_sensor(anomaly_map)
        value = deciding_score(verdict, output, over_sensor)
        if not abs(value) <= SCORE_LIMIT:  # False for NaN
            raise _bad_output(f"a score of {value:g}")
        scores.append(value)
        maps.append(over_sensor)
    return max(scores), np.max(maps, axis=0) if len(maps) > 1 else maps[0]


def _is_map(array: npt.NDArray[Any], size: int, views: int) -> bool:
    """Return True for one map of this size, or one map for each of several views."""
    return array.shape == (size, size) or (views > 1 and array.shape == (views, size, size))


def _no_answer(error: NoAnswerError) -> InputError:
    return InputError(
        error.subject, found=error.found, expected=error.expected, action=error.action, reason="no-answer"
    )


def _bad_output(problem: str) -> InputError:
    return InputError(
        "",
        found=f"The engine returned {problem}",
        expected="a finite score and a finite map",
        action="export the bundle with --engine fp32, or run the self-test",
        reason="bad-output",
    )


def _reason(score: float, threshold: float, objection: InputError | None) -> tuple[Reason | None, str]:
    """Return the reason against a scored sample with its message, or None and ""."""
    if score > threshold:
        score_text, threshold_text = score_texts(score, threshold)
        return "score", f"score {score_text} exceeds the threshold {threshold_text}"
    if objection is not None:
        return objection.reason, str(objection)
    return None, ""
