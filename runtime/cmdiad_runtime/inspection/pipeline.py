"""Inspection of many samples in order, where the next samples are read and prepared while the engine works.

Threads read and prepare samples ahead. The engine runs in the caller's thread, because an engine belongs to one
thread. The results are those of inspecting the samples one by one, in the same order.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TypeAlias

from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.arrivals import Arrivals
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.inspection.inputs import read_sample
from cmdiad_runtime.inspection.inspection import Inspection
from cmdiad_runtime.inspection.inspector import Assigned, Inspector, Source
from cmdiad_runtime.inspection.pattern_inspector import PatternInspector
from cmdiad_runtime.inspection.ready import Ready, make_ready
from cmdiad_runtime.readers.reading import ReadFiles, read_files
from cmdiad_runtime.sample import Sample

AHEAD = 2
"""Default number of samples prepared ahead."""


@dataclass(frozen=True)
class InspectedSource:
    """A source with its inspection.

    Attributes:
        source: File, sample, or sample in a watched folder.
        inspection: Result; NG with a reason if the file could not be read or used.
        read_ms: Duration of reading the file; 0 for a sample.
        latency_ms: Time from the start of reading to the result, including the wait for the engine.
    """

    source: Source
    inspection: Inspection
    read_ms: float
    latency_ms: float


InspectedSources: TypeAlias = "Generator[InspectedSource, None, None]"


@dataclass(frozen=True)
class _Examined:
    """A sample with its network inputs, each replaced by an error if there is none.

    Attributes:
        inspector: Inspector of the sample.
        sample: Sample, or the error of reading the file.
        ready: Network inputs, or the error of making them; the same error if the file could not be read.
        began: Start of reading, a `time.perf_counter()` value.
        read_ms: Duration of reading; 0 for a sample.
        preprocess_ms: Duration of the preparation.
    """

    inspector: Inspector
    sample: Sample | InputError
    ready: Ready | InputError
    began: float
    read_ms: float
    preprocess_ms: float


def inspect_stream(
    inspector: Inspector | PatternInspector,
    sources: Iterable[Source],
    *,
    ahead: int = AHEAD,
    read_files: ReadFiles = read_files,
) -> InspectedSources:
    """Inspect files or samples in order, preparing up to `ahead` of them while the engine works.

    A sample that cannot be read or used is NG with a reason, and the inspection continues with the next one. When the
    iteration ends, no thread is left; only a KeyboardInterrupt does not wait for files that are being read, whose
    threads end with the reading. For a live camera use `Inspector.inspect`, because nothing can be prepared ahead
    there.

    Args:
        inspector: Open inspector. Nothing else may use its engines during the iteration.
        sources: Files or samples to inspect. Results of earlier sources never wait for the next one of `Arrivals`.
        ahead: Number of samples prepared in addition to the one in the engine, at least 1. Each one occupies memory
            for its image, cloud and inputs.
        read_files: Function that reads the files of a sample, in up to `ahead` threads at the same time. With
            `TimedReader.read_files` no file can stop the inspection.

    Raises:
        ValueError: `ahead` is below 1.
        EngineError: The engine failed.
    """
    if ahead < 1:
        raise ValueError(f"at least one sample must be prepared ahead, got {ahead}")
    return _inspect_stream(inspector, sources, ahead, read_files)


def _inspect_stream(
    inspector: Inspector | PatternInspector, sources: Iterable[Source], ahead: int, read_files: ReadFiles
) -> InspectedSources:
    pool = ThreadPoolExecutor(ahead, thread_name_prefix="cmdiad-prepare")
    examine = partial(_examine, inspector, read_files)
    wait = True
    try:
        waiting = iter(sources)
        queue: deque[tuple[Source, Future[_Examined]]] = deque()

        def fill(*, block: bool) -> None:
            following = _available(waiting, ahead - len(queue), block=block)
            queue.extend((source, pool.submit(examine, source)) for source in following)

        fill(block=True)
        while queue:
            source, future = queue.popleft()
            examined = future.result()
            fill(block=False)
            yield _inspected(source, examined)
            if not queue:
                fill(block=True)
    except KeyboardInterrupt:
        wait = False
        raise
    finally:
        pool.shutdown(wait, cancel_futures=True)


def _available(sources: Iterator[Source], count: int, *, block: bool) -> Iterator[Source]:
    """Return up to `count` sources.

    Args:
        sources: Sources that are left.
        count: Largest number of sources.
        block: True to wait for the first one. Further ones of `Arrivals` are taken only if they have arrived.
    """
    return islice(_arrived(sources, block=block) if isinstance(sources, Arrivals) else sources, count)


def _arrived(sources: Arrivals[Source], *, block: bool) -> Iterator[Source]:
    if block:
        yield from islice(sources, 1)
    while sources.is_ready:
        yield next(sources)


def _examine(inspector: Inspector | PatternInspector, read_files: ReadFiles, source: Source) -> _Examined:
    began = time.perf_counter()
    assigned = inspector.assign(source)
    bundle = assigned.inspector.bundle
    name = source.name if isinstance(source, Sample) else str(source)
    sample = guarded(name, partial(_read, assigned, bundle, read_files))
    read = time.perf_counter()
    ready = make_ready(sample, bundle) if isinstance(sample, Sample) else sample
    read_ms = 0.0 if isinstance(source, Sample) else (read - began) * 1e3
    prepare_ms = (time.perf_counter() - read) * 1e3
    return _Examined(assigned.inspector, sample, ready, began, read_ms, prepare_ms)


def _read(assigned: Assigned, bundle: Bundle, read_files: ReadFiles) -> Sample:
    if assigned.refusal is not None:
        raise assigned.refusal
    source = assigned.source
    if isinstance(source, Sample):
        return source
    if isinstance(source, Path):
        return read_sample(source, bundle.preprocessing, read_files=read_files)
    if source.refusal is not None:
        raise source.refusal
    cloud = source.files[1].path if len(source.files) > 1 else None
    sample = read_sample(source.path, bundle.preprocessing, cloud=cloud, read_files=read_files)
    source.check_unchanged()
    return sample


def _inspected(source: Source, examined: _Examined) -> InspectedSource:
    inspector = examined.inspector
    if isinstance(examined.sample, InputError):
        name = source.name if isinstance(source, Sample) else str(source)
        inspection = inspector.not_inspected(name, examined.sample)
    else:
        inspection = inspector.judge(examined.sample, examined.ready, preprocess_ms=examined.preprocess_ms)
    return InspectedSource(source, inspection, examined.read_ms, (time.perf_counter() - examined.began) * 1e3)
