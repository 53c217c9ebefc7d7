"""The choice between the whole product and a loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cmdiad_export.search.budget import SMALLEST_CHUNK, BankSize, bank_sizes, choose_search
from cmdiad_runtime.errors import EngineError
from cmdiad_train.detectors.bank.search.exact import SearchSettings
from cmdiad_train.runs.run import load_run

Cached = Callable[..., Path]
EXACT = SearchSettings()
PUBLISHED = BankSize(queries=3136, rows=76_000, channels=768, item=2)
# Scratch memory of TensorRT-RTX 1.7.1 for a search alone: queries, rows, channels, bytes per number, chunk, bytes.
MEASURED = [
    (3136, 76_000, 768, 2, None, 499_327_488),
    (3136, 76_000, 768, 2, 4000, 79_129_600),
    (3136, 20_000, 64, 2, None, 134_849_024),
    (3136, 20_000, 64, 2, 1000, 22_223_360),
    (3136, 20_000, 64, 2, 4000, 60_251_136),
    (784, 8000, 64, 2, None, 21_040_640),
    (784, 8000, 64, 4, None, 33_496_576),
    (784, 8000, 64, 4, 1000, 12_036_096),
    (784, 8000, 64, 4, 4000, 22_215_680),
]


@pytest.mark.parametrize("measured", MEASURED)
def test_estimate_is_what_the_build_log_says(measured: tuple[int, int, int, int, int | None, int]) -> None:
    *size, chunk, scratch = measured
    estimate = BankSize(*size).scratch(SearchSettings(chunk=chunk))
    assert scratch <= estimate <= 1.2 * scratch


def test_the_whole_where_it_fits_and_a_loop_where_it_does_not() -> None:
    assert choose_search([PUBLISHED], EXACT, None).settings == SearchSettings()
    small = choose_search([PUBLISHED], EXACT, 100)
    assert small.settings.chunk is not None
    assert small.settings.chunk % SMALLEST_CHUNK == 0
    assert small.bytes <= 100_000_000 < small.whole_bytes
    assert PUBLISHED.scratch(SearchSettings(chunk=small.settings.chunk + SMALLEST_CHUNK)) > 100_000_000


def test_a_loop_makes_two_rounds_at_least() -> None:
    single = replace(PUBLISHED, item=4)
    slightly_less = (single.scratch(EXACT) - 1) / 1e6
    assert choose_search([single], EXACT, slightly_less).settings.chunk == 38_000


def test_a_fast_search_keeps_its_candidates_and_pays_for_them() -> None:
    fast = SearchSettings(32, 64)
    whole = choose_search([PUBLISHED], fast, 1000)
    assert whole.settings == fast
    assert whole.bytes - choose_search([PUBLISHED], EXACT, 1000).bytes == 3136 * 28 * 768 * 2
    small = choose_search([PUBLISHED], fast, 300)
    assert small.settings == SearchSettings(32, 64, small.settings.chunk)
    assert small.bytes <= 300_000_000 < small.whole_bytes


def test_the_largest_bank_decides() -> None:
    other = BankSize(queries=784, rows=500, channels=24, item=2)
    both = choose_search([other, PUBLISHED], EXACT, 100)
    assert both.settings == choose_search([PUBLISHED], EXACT, 100).settings
    assert both.bytes == PUBLISHED.scratch(both.settings)


def test_too_small_a_budget_is_refused_with_the_least_one() -> None:
    with pytest.raises(EngineError) as refused:
        choose_search([PUBLISHED], EXACT, 5)
    least = int(refused.value.expected.split()[2].rstrip(","))
    assert choose_search([PUBLISHED], EXACT, least).settings.chunk == SMALLEST_CHUNK
    with pytest.raises(EngineError):
        choose_search([PUBLISHED], EXACT, least - 1)


def test_sizes_of_a_detector(trained: Cached) -> None:
    run = load_run(trained("rgb", "f2f"))
    inputs = next(iter(run.golden.values()))
    sizes = bank_sizes(run.detector, inputs, "int8")
    assert sizes == [BankSize(196, search.rows.shape[0], search.rows.shape[1], 2) for search in run.detector.searches]
    assert {size.item for size in bank_sizes(run.detector, inputs, "fp32")} == {4}


def test_a_cloud_may_have_as_many_rows_as_cells_and_one(trained: Cached) -> None:
    run = load_run(trained("xyz"))
    inputs = next(iter(run.golden.values()))
    assert len(inputs["weights"]) < 197
    assert [size.queries for size in bank_sizes(run.detector, inputs, "fp16")] == [197]


def test_a_proven_search_measures_one_candidate_at_a_time_and_a_few_queries_in_full() -> None:
    proven = SearchSettings(32, 64, proven=True)
    assert PUBLISHED.scratch(proven) - PUBLISHED.scratch(SearchSettings(1, 64)) == 64 * 76_000 * 4
