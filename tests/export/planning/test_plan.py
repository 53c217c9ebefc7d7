"""Which points of a plan are worth having, which one fits a budget, and how they are told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from cmdiad_export.planning.plan import Budget, GraphForm, Plan, Point, best_within, pareto
from cmdiad_export.planning.report import table, write_plan
from cmdiad_export.search.held_out import ResultChange
from cmdiad_runtime.errors import EngineError

FORM = GraphForm(0.1, (3000,), None, 4, "fp32")


def point(latency: float, memory: float, auroc: float, drift: float = 0.0, form: GraphForm = FORM) -> Point:
    return Point(form, latency, memory, 10.0, ResultChange(drift, drift, auroc, auroc - 1, 0, 0))


TRAINED = point(40, 300, 0.99)
FAST = point(20, 310, 0.99, 0.004, replace(FORM, width=64, candidates=32))
SMALL = point(10, 200, 0.97, 0.2, replace(FORM, bank=0.01, rows=(300,)))
WORSE = point(25, 320, 0.98, 0.1, replace(FORM, precision="int8"))
POINTS = (TRAINED, FAST, SMALL, WORSE)
PLAN = Plan(POINTS, ((replace(FORM, precision="fp16"), "9 % off in score"),), 24, 23, "onnxruntime 1.31")


def test_pareto_best_are_those_that_none_beats() -> None:
    assert pareto(POINTS) == [TRAINED, FAST, SMALL]
    assert pareto([TRAINED, TRAINED]) == [TRAINED, TRAINED]


@pytest.mark.parametrize(
    ("budget", "best"),
    [
        (Budget(100, None), TRAINED),  # as good as FAST, and nothing changes
        (Budget(40, 300), TRAINED),
        (Budget(39.9, None), FAST),
        (Budget(39.9, 305), SMALL),
        (Budget(None, 250), SMALL),
    ],
)
def test_best_point_within_a_budget(budget: Budget, best: Point) -> None:
    assert best_within(POINTS, budget) is best


def test_cheapest_of_equals() -> None:
    slower = replace(TRAINED, latency_ms=41)
    assert best_within([slower, TRAINED], Budget(100, None)) is TRAINED


@pytest.mark.parametrize(
    ("budget", "words"), [(Budget(5, None), "a budget of 5 ms"), (Budget(5, 199), "a budget of 5 ms and 199 MB")]
)
def test_budget_that_cannot_be_met_names_the_nearest_point(budget: Budget, words: str) -> None:
    with pytest.raises(EngineError) as refused:
        best_within(POINTS, budget)
    assert refused.value.subject == words
    assert "10.0 ms and 200 MB at the nearest of 4 points: 1% bank (300 rows), exact search" in refused.value.found


def test_table_has_every_point_by_latency_and_marks_the_best() -> None:
    lines = table(PLAN).splitlines()
    assert "24 held-out samples and 23 tampered copies" in lines[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    assert {len(row) for row in cells} == {len(cells[0])}
    assert [row[4] for row in cells[2:6]] == ["**10.0**", "**20.0**", "25.0", "**40.0**"]
    assert cells[2][:4] == ["1%", "300", "exact", "fp32"]
    assert cells[3][:4] == ["10%", "3000", "fast 64:32", "fp32"]
    assert cells[6][:5] == ["10%", "3000", "exact", "fp16", "refused: 9 % off in score"]


def test_plan_files_replace_those_of_a_killed_plan(tmp_path: Path) -> None:
    for name in (".plan.0123abcd.json", ".plan.76543210.png"):
        (tmp_path / name).write_text("half")
    write_plan(tmp_path, PLAN)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plan.json", "plan.png"]


def test_plan_files(tmp_path: Path) -> None:
    write_plan(tmp_path, PLAN)
    plan = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert plan["samples"] == {"good": 24, "tampered": 23}
    assert [each["pareto"] for each in plan["points"]] == [True, True, True, False]
    assert plan["points"][1]["width"] == 64
    assert plan["points"][2]["latency_ms"] == 10
    assert plan["refused"] == [
        {
            "bank": 0.1,
            "rows": [3000],
            "width": None,
            "candidates": 4,
            "precision": "fp16",
            "proven": False,
            "because": "9 % off in score",
        }
    ]
    with Image.open(tmp_path / "plan.png") as picture:
        assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 20
