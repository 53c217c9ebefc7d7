"""Inspection of many samples in order, where the next samples are read and prepared while the engine works.

Threads read and prepare samples ahead. The engine runs in the caller's thread, because an engine belongs to one
thread. The results are those of inspecting the samples one by one, in the same order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.inputs import read_sample
from cmdiad_runtime.inspection.inspector import Inspection, Inspector
from cmdiad_runtime.preprocess.prepare import Prepared, Preprocessing, prepare
from cmdiad_runtime.sample import Sample

AHEAD = 2
"""Default number of samples prepared ahead."""


@dataclass(frozen=True)
class InspectedSource:
    """A source with its inspection or the reason why it could not be inspected.

    Attributes:
        source: File or sample.
        result: Sample and inspection, or the error.
        read_ms: Duration of reading the file; 0 for a sample.
        latency_ms: Time from the start of reading to the result, including the wait for the engine.
    """

    source: Path | Sample
    result: tuple[Sample, Inspection] | InputError
    read_ms: float
    latency_ms: float


InspectedSources: TypeAlias = "Generator[InspectedSource, None, None]"


@dataclass(frozen=True)
class _Ready:
    """A sample with its network inputs or the reason why there are none; `began` is a `time.perf_counter()` value."""

    made: tuple[Sample, Prepared] | InputError
    began: float
    read_ms: float
    preprocess_ms: float


def inspect_stream(inspector: Inspector, sources: Sequence[Path | Sample], *, ahead: int = AHEAD) -> InspectedSources:
    """Inspect files or samples in order, preparing up to `ahead` of them while the engine works.

    A sample that cannot be used yields its error, and the inspection continues with the next one. No thread is left
    when the iteration ends, for whatever reason. For a live camera use `Inspector.inspect`, because nothing can be
    prepared ahead there.

    Args:
        inspector: Open inspector. Nothing else may use its engine during the iteration.
        sources: Files or samples to inspect.
        ahead: Number of samples prepared in addition to the one in the engine, at least 1. Each one occupies memory
            for its image, cloud and inputs.

    Raises:
        ValueError: `ahead` is below 1.
        EngineError: The engine failed, or returned a score that is not a number.
    """
    if ahead < 1:
        raise ValueError(f"at least one sample must be prepared ahead, got {ahead}")
    return _inspect_stream(inspector, sources, ahead)


def _inspect_stream(inspector: Inspector, sources: Sequence[Path | Sample], ahead: int) -> InspectedSources:
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="cmdiad-prepare")
    make_ready = partial(_make_ready, inspector.bundle.preprocessing)
    try:
        waiting = iter(sources)
        queue: deque[tuple[Path | Sample, Future[_Ready]]] = deque()
        queue.extend((source, pool.submit(make_ready, source)) for source in islice(waiting, ahead))
        while queue:
            source, future = queue.popleft()
            ready = future.result()
            queue.extend((following, pool.submit(make_ready, following)) for following in islice(waiting, 1))
            yield _inspected(inspector, source, ready)
    finally:
        pool.shutdown(cancel_futures=True)


def _make_ready(preprocessing: Preprocessing, source: Path | Sample) -> _Ready:
    began = time.perf_counter()
    read = began
    try:
        sample = source if isinstance(source, Sample) else read_sample(source, preprocessing)
        read = time.perf_counter()
        made: tuple[Sample, Prepared] | InputError = (sample, prepare(sample, preprocessing))
    except InputError as error:
        made = error
    return _Ready(made, began, (read - began) * 1e3, (time.perf_counter() - read) * 1e3)


def _inspected(inspector: Inspector, source: Path | Sample, ready: _Ready) -> InspectedSource:
    result: tuple[Sample, Inspection] | InputError
    if isinstance(ready.made, InputError):
        result = ready.made
    else:
        sample, prepared = ready.made
        result = sample, inspector.judge(sample.name, prepared, preprocess_ms=ready.preprocess_ms)
    return InspectedSource(source, result, ready.read_ms, (time.perf_counter() - ready.began) * 1e3)
