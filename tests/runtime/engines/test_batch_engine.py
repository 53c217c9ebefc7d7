"""Several samples at once: filling, order, and outputs that are missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.engines.batch import BatchEngine, mixed_orders, numbered
from cmdiad_runtime.errors import EngineError

SIZE = 4


class Doubling:
    """Engine of `SIZE` samples that returns twice the input of each, and notes what was fed."""

    identity = description = "double"

    def __init__(self, **changed: Any) -> None:
        self.fed: list[list[float]] = []
        self.changed, self.closed = changed, False

    def run(self, inputs: Any) -> dict[str, Any]:
        assert inputs.keys() == {numbered("value", place) for place in range(SIZE)}
        self.fed.append([float(inputs[numbered("value", place)][0]) for place in range(SIZE)])
        outputs = {numbered("map", place): 2 * inputs[numbered("value", place)] for place in range(SIZE)}
        return {name: array for name, array in (outputs | self.changed).items() if array is not None}

    def close(self) -> None:
        self.closed = True


def samples(count: int) -> list[dict[str, Any]]:
    return [{"value": np.array([float(number)])} for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, SIZE - 1, SIZE, SIZE + 1, 3 * SIZE])
def test_every_sample_gets_its_own_result_in_order(count: int) -> None:
    engine = Doubling()
    outputs = BatchEngine(engine, SIZE).run_each(samples(count))
    assert [(set(output), float(output["map"][0])) for output in outputs] == [({"map"}, 2.0 * n) for n in range(count)]


def test_a_short_batch_is_filled_with_its_last_sample() -> None:
    engine = Doubling()
    BatchEngine(engine, SIZE).run_each(samples(SIZE + 2))
    assert engine.fed == [[0, 1, 2, 3], [4, 5, 5, 5]]


def test_one_sample_runs_alone() -> None:
    engine = Doubling()
    assert float(BatchEngine(engine, SIZE).run(samples(3)[2])["map"][0]) == 4
    assert engine.fed == [[2] * SIZE]


@pytest.mark.parametrize("changed", [{"map/1": None}, {"map/9": np.zeros(1)}, {"score/0": np.zeros(1)}])
def test_a_missing_or_unknown_output_is_no_result_for_any_sample(changed: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match="the same outputs for each of 4 samples"):
        BatchEngine(Doubling(**changed), SIZE).run_each(samples(SIZE))


def test_no_output_at_all_is_an_error() -> None:
    engine = Doubling(**{numbered("map", place): None for place in range(SIZE)})
    with pytest.raises(EngineError, match="the outputs none"):
        BatchEngine(engine, SIZE).run(samples(1)[0])


def test_closing_closes_the_engine_below() -> None:
    engine = Doubling()
    BatchEngine(engine, SIZE).close()
    assert engine.closed


@pytest.mark.parametrize("count", [2, 3, 6, 8, 20])
@pytest.mark.parametrize("size", [2, 3, 8, 64])
def test_mixed_orders_show_every_error_of_order(count: int, size: int) -> None:
    orders = np.array(list(mixed_orders(count, size)))
    assert orders.shape[1] == size
    for place in range(size):
        assert set(orders[:, place]) == set(range(count))  # Every sample has every place.
        others = [other for other in range(size) if other != place]
        assert all((orders[:, place] != orders[:, other]).any() for other in others)
