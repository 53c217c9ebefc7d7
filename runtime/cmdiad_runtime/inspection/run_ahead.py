"""Run the engine for several prepared samples at once, before `Inspector.judge` decides about each of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from cmdiad_runtime.engines.batch import BatchEngine
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.ready import Ready


@dataclass(frozen=True)
class Computed:
    """Results of the engine for one sample.

    Attributes:
        outputs: Outputs of the graph by name, for each part of the sample.
        engine_ms: Milliseconds of the engine; in a batch the share of the sample by its number of parts.
    """

    outputs: list[dict[str, npt.NDArray[Any]]]
    engine_ms: float


def run_ahead(engine: BatchEngine, samples: Sequence[Ready | InputError]) -> list[Computed | None]:
    """Return the results of each sample, in order; None for a sample that could not be prepared.

    Args:
        engine: Open engine.
        samples: Network inputs of each sample, or the error that says why there are none.

    Raises:
        EngineError: The engine failed.
    """
    parts = [part.inputs for ready in samples if isinstance(ready, Ready) for part in ready.parts]
    began = time.perf_counter()
    outputs = engine.run_each(parts)
    part_ms = (time.perf_counter() - began) * 1e3 / max(len(parts), 1)
    computed: list[Computed | None] = []
    for ready in samples:
        if isinstance(ready, InputError):
            computed.append(None)
            continue
        count = len(ready.parts)
        computed.append(Computed(outputs[:count], part_ms * count))
        outputs = outputs[count:]
    return computed
