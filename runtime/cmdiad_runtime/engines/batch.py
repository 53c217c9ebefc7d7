"""Engine that runs several samples at once, by a graph with numbered inputs and outputs: `rgb/0`, `rgb/1`, `map/0`.

Samples stay separate arrays, so a result belongs to a sample by its name, not by a position in an array.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cmdiad_runtime.engines import Arrays, Engine
from cmdiad_runtime.errors import EngineError

if TYPE_CHECKING:
    import numpy.typing as npt

MOST_SAMPLES = 64
"""Largest number of samples of a graph."""


def numbered(name: str, place: int) -> str:
    """Return the name that an input or output of one sample has in a graph for several.

    Args:
        name: Name in the graph for one sample.
        place: Position of the sample, from 0.
    """
    return f"{name}/{place}"


class BatchEngine:
    """An engine whose graph runs `size` samples at once. Fewer samples are filled up with copies of the last one.

    Args:
        engine: Open engine with the graph for several samples.
        size: Number of samples of the graph.

    Attributes:
        size: Number of samples of the graph.
        identity: Identity of the engine.
        description: Description of the engine, and the number of samples.
    """

    def __init__(self, engine: Engine, size: int) -> None:
        self._engine, self.size = engine, size
        self.identity = engine.identity
        self.description = f"{engine.description}, {size} samples at once"

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Run one sample; see `Engine.run`."""
        return self.run_each([inputs])[0]

    def run_each(self, samples: Sequence[Arrays]) -> list[dict[str, npt.NDArray[Any]]]:
        """Return the outputs of each sample, in order. Any number of samples is accepted.

        Args:
            samples: Inputs of each sample by name, as for the graph for one sample.

        Raises:
            EngineError: An input does not fit, the engine failed, or it has not returned all outputs of a sample.
        """
        starts = range(0, len(samples), self.size)
        return [outputs for start in starts for outputs in self._run(samples[start : start + self.size])]

    def close(self) -> None:
        """Release the engine; see `Engine.close`."""
        self._engine.close()

    def _run(self, samples: Sequence[Arrays]) -> list[dict[str, npt.NDArray[Any]]]:
        filled = [*samples, *[samples[-1]] * (self.size - len(samples))]
        inputs = {numbered(name, place): array for place, one in enumerate(filled) for name, array in one.items()}
        outputs = self._engine.run(inputs)
        names = {name.rpartition("/")[0] for name in outputs}
        if not names or outputs.keys() != {numbered(name, place) for name in names for place in range(self.size)}:
            raise EngineError(
                self.description,
                found=f"the outputs {', '.join(sorted(outputs)) or 'none'}",
                expected=f"the same outputs for each of {self.size} samples",
                action="export the bundle again",
            )
        return [{name: outputs[numbered(name, place)] for name in names} for place in range(len(samples))]


def mixed_orders(count: int, size: int) -> Iterator[list[int]]:
    """Yield batches of samples that show every error of order, as long as any two samples have different results.

    Every sample has every place once or more, and for any two places there is a batch with different samples there.

    Args:
        count: Number of samples, at least 2.
        size: Number of samples of a batch.
    """
    run = 1
    while True:
        for turn in range(count):
            yield [(place // run + turn) % count for place in range(size)]
        run *= count
        if run >= size:
            return
