"""Missed against rejected parts: every threshold is counted, and the cheapest one is the cheapest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdiad_runtime.bundle.tradeoff import Costs, Tradeoff
from cmdiad_runtime.bundle.tradeoff_plot import draw_tradeoff
from cmdiad_runtime.cli.threshold_text import tradeoff_table
from cmdiad_runtime.support.drawing import Line, Text

scores = st.lists(st.integers(1, 12).map(float), min_size=1, max_size=8).map(tuple)
prices = st.integers(1, 50).map(float)
tradeoffs = st.builds(
    lambda good, bad: Tradeoff(tuple(map(str, range(len(good)))), good, bad),
    st.lists(scores, min_size=1, max_size=3).map(tuple),
    scores,
)
EVERY = np.arange(0.25, 14, 0.25)


@given(tradeoffs)
def test_curve_has_the_verdicts_of_every_threshold(tradeoff: Tradeoff) -> None:
    counts = {(v.rejected, v.missed) for v in tradeoff.curve}
    assert counts == {(v.rejected, v.missed) for v in map(tradeoff.at, EVERY)}
    thresholds = [v.threshold for v in tradeoff.curve]
    assert thresholds == sorted(thresholds)


@given(tradeoffs)
def test_best_thresholds_are_those_that_no_other_improves(tradeoff: Tradeoff) -> None:
    points = {(sum(v.rejected), v.missed) for v in map(tradeoff.at, EVERY)}
    best = {p for p in points if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in points)}
    assert {(sum(v.rejected), v.missed) for v in tradeoff.best()} == best


@given(tradeoffs, prices, prices, st.sampled_from([0.01, 0.3]))
def test_cheapest_threshold_costs_least_and_misses_least(
    tradeoff: Tradeoff, miss: float, reject: float, share: float
) -> None:
    costs = Costs(miss, reject, share)
    cheapest = tradeoff.cheapest(costs)
    assert cheapest is not None
    every = [tradeoff.at(threshold) for threshold in EVERY]
    least = min(tradeoff.cost(verdicts, costs) for verdicts in every)
    assert tradeoff.cost(cheapest, costs) == pytest.approx(least)
    assert cheapest.missed == min(v.missed for v in every if tradeoff.cost(v, costs) <= least * (1 + 1e-9))


@given(tradeoffs, prices, prices, prices)
def test_dearer_misses_never_raise_the_threshold(tradeoff: Tradeoff, miss: float, more: float, reject: float) -> None:
    before, after = (tradeoff.cheapest(Costs(price, reject, 0.1)) for price in (miss, miss + more))
    assert before is not None and after is not None
    assert after.threshold <= before.threshold
    dearer = tradeoff.cheapest(Costs(miss, reject + more, 0.1))
    assert dearer is not None and dearer.threshold >= before.threshold


def test_expected_cost_by_hand() -> None:
    """Two sessions count the same, whatever their size: (1/4 + 1/1) / 2 of good parts are rejected at 3.5."""
    tradeoff = Tradeoff(("training", "tuesday"), ((1.0, 2.0, 3.0, 4.0), (5.0,)), (3.0, 6.0))
    verdicts = tradeoff.at(3.5)
    assert (verdicts.rejected, verdicts.missed) == ((1, 1), 1)
    assert tradeoff.cost(verdicts, Costs(100, 8, 0.02)) == pytest.approx(0.02 * 100 / 2 + 0.98 * 8 * 0.625)


def test_threshold_lies_halfway_between_the_parts_on_both_sides() -> None:
    tradeoff = Tradeoff(("training",), ((1.0, 2.0),), (6.0, 8.0))
    cheapest = tradeoff.cheapest(Costs(1, 1, 0.5))
    assert cheapest is not None and cheapest.threshold == 4.0


def test_neighbouring_floats_and_negative_scores() -> None:
    above = float(np.nextafter(1.0, 2))
    assert [v.threshold for v in Tradeoff(("training",), ((1.0,),), (above,)).curve] == [0.5, 1.0, above]
    assert Tradeoff(("training",), ((-1.0,),), (-3.0,)).cheapest(Costs(1, 1, 0.5)) is None


def test_table_is_short_and_marks_the_threshold_in_use() -> None:
    rng = np.random.default_rng(0)
    tradeoff = Tradeoff(("training",), (tuple(rng.normal(5, 1, 200)),), tuple(rng.normal(6, 1, 200)))
    lines = list(tradeoff_table(tradeoff, 6.5))
    assert lines[0].split() == ["threshold", "good", "rejected", "bad", "missed"]
    assert 10 < len(lines) <= 1 + 12 + 1 + 1
    verdicts = tradeoff.at(6.5)
    (marked,) = [line for line in lines if line.endswith("<- in use")]
    assert marked.startswith("6.5 ")
    assert f"{verdicts.rejected[0]} of 200" in marked and f"{verdicts.missed} of 200" in marked
    assert lines[-1].startswith("12 of ")


def test_table_names_the_session_that_suffers_most() -> None:
    tradeoff = Tradeoff(("training", "tuesday"), ((1.0, 1.0, 1.0), (3.0,)), (2.0, 4.0))
    (marked,) = [line for line in tradeoff_table(tradeoff, 2.5) if "in use" in line]
    assert "1 of 4 (25.0%)" in marked and "1 of 1 (100.0%) tuesday" in marked and "1 of 2 (50.0%)" in marked


def test_plot_has_a_mark_for_every_part_and_stays_on_the_page() -> None:
    tradeoff = Tradeoff(("training",), ((1.0, 2.0, 2.5),), (2.2, 4.0, 1e6))
    drawing = draw_tradeoff(tradeoff, 3.0, "tiny <&>")
    texts = [shape.text for shape in drawing.shapes if isinstance(shape, Text)]
    assert {"good parts rejected: 0 of 3", "bad parts missed: 1 of 3", "1 bad parts farther right"} <= {*texts}
    points = [point for shape in drawing.shapes if isinstance(shape, Line) for point in shape.points]
    assert all(0 <= x <= drawing.width and 0 <= y <= drawing.height for x, y in points)
    steps = [shape.points for shape in drawing.shapes if isinstance(shape, Line) and len(shape.points) > 2]
    falling, rising = steps
    assert [y for _, y in falling] == sorted(y for _, y in falling)
    assert [y for _, y in rising] == sorted((y for _, y in rising), reverse=True)
    assert len(falling) == 2 + 2 * 3 and len(rising) == 2 + 2 * 2
