"""Many samples, one after another, with reading and geometry of the next ones beside the engine's work on this one.

Threads read and prepare samples ahead; the engine runs in the caller's thread, since an engine belongs to one. The
results are those of inspecting one by one, in the same order.
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

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.inputs import read_sample
from cmdiad_runtime.inspection.inspector import Inspection, Inspector
from cmdiad_runtime.preprocess.prepare import Prepared, Preprocessing, prepare
from cmdiad_runtime.sample import Sample

AHEAD = 2


@dataclass(frozen=True)
class Outcome:
    """What became of one source.

    Attributes:
        source: the file or sample.
        result: the sample and its inspection, or why it could not be inspected.
        read_ms: reading the file; 0 for a sample.
        latency_ms: from the moment its reading began to its result, waiting for the engine included.
    """

    source: Path | Sample
    result: tuple[Sample, Inspection] | InputError
    read_ms: float
    latency_ms: float


Outcomes = Generator[Outcome, None, None]


@dataclass(frozen=True)
class _Ready:
    """A sample whose network inputs are made, or why they are not; times are `time.perf_counter()`'s."""

    made: tuple[Sample, Prepared] | InputError
    began: float
    read_ms: float
    preprocess_ms: float


def inspect_stream(inspector: Inspector, sources: Sequence[Path | Sample], *, ahead: int = AHEAD) -> Outcomes:
    """Inspect files or samples in order, preparing up to `ahead` of them while the engine works.

    A sample that cannot be used gives an outcome that says so, and the others go on. However the iteration ends,
    no thread is left behind it. For a live camera use `Inspector.inspect`: nothing can be prepared ahead there.

    Args:
        inspector: an open bundle; nothing else may use its engine meanwhile.
        sources: what to inspect.
        ahead: samples held beside the one in the engine, at least 1; each holds its image, cloud and inputs.

    Raises:
        ValueError: `ahead` below 1.
        EngineError: the engine failed, or gave a score that is not a number.
    """
    if ahead < 1:
        raise ValueError(f"at least one sample has to be prepared ahead, got {ahead}")
    return _inspect_stream(inspector, sources, ahead)


def _inspect_stream(inspector: Inspector, sources: Sequence[Path | Sample], ahead: int) -> Outcomes:
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
            yield _outcome(inspector, source, ready)
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


def _outcome(inspector: Inspector, source: Path | Sample, ready: _Ready) -> Outcome:
    result: tuple[Sample, Inspection] | InputError
    if isinstance(ready.made, InputError):
        result = ready.made
    else:
        sample, prepared = ready.made
        result = sample, inspector.judge(sample.name, prepared, preprocess_ms=ready.preprocess_ms)
    return Outcome(source, result, ready.read_ms, (time.perf_counter() - ready.began) * 1e3)
