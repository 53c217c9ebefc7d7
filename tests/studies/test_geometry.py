"""`python -m studies geometry`: both forms make the same of a cloud, and the record holds what it promises."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from helpers import command
from studies.__main__ import cli
from studies.geometry import STAGES, TOGETHER, _cmdiad, _published, geometry_table, measure_geometry, wavy_sheet

SMALL = {"size": 64, "groups": 60, "width": 8}


def test_sheet_has_the_points_asked_for_and_their_pixels() -> None:
    problem = wavy_sheet(900, **SMALL)
    assert problem.points.shape == (900, 3)
    assert problem.points.dtype == np.float32
    assert problem.valid.sum() == 900
    assert wavy_sheet(10**6, **SMALL).valid.all()


def test_both_forms_give_the_same() -> None:
    """Large and around the origin, where expanded float32 distances lose little (method §18.6)."""
    sheet = wavy_sheet(900, **SMALL)
    problem = replace(sheet, points=(sheet.points - np.float32([0, 0, 0.5])) * np.float32(30))
    published, cmdiad = ({name: work() for name, work in form(problem)} for form in (_published, _cmdiad))
    assert np.array_equal(published["sampling"].numpy(), cmdiad["sampling"])
    # 128 of 900 points: those at the rim of a group may be equally far but for rounding
    same = [len(np.intersect1d(a, b)) for a, b in zip(published["groups"].numpy(), cmdiad["groups"], strict=True)]
    assert min(same) >= 127
    assert torch.allclose(published["pooling"], cmdiad["product"][cmdiad["pooling"][1]], atol=1e-3)
    together = cmdiad[TOGETHER]
    assert np.array_equal(together.centers, problem.points[cmdiad["sampling"]])
    assert np.array_equal(together.groups, problem.points[cmdiad["groups"]] - together.centers[:, None])
    assert np.array_equal(together.weights, cmdiad["pooling"][0])


def test_record_and_table() -> None:
    result = measure_geometry(wavy_sheet(400, **SMALL), runs=3)
    assert tuple(result["stages"]["published"]) == STAGES
    assert tuple(result["stages"]["cmdiad"]) == (*STAGES, TOGETHER, "product")
    cmdiad = {name: row["p50"] for name, row in result["stages"]["cmdiad"].items()}
    assert max(cmdiad[TOGETHER], cmdiad["product"]) < result["whole"]["cmdiad"]["p50"]
    assert cmdiad["interpolation"] < result["interpolation_to_patches"]["cmdiad"]["p50"]
    assert set(result["allocated"]) == set(result["stages"]["cmdiad"])
    table = geometry_table(result)
    assert table.count("\n") == 2 + 6 + 2
    assert "| product | – |" in table


def test_command(tmp_path: Path) -> None:
    ended = command(cli, "geometry", "--points", 1100, "--runs", 1, "--json", tmp_path / "geometry.json")
    assert ended.code == 0, ended.err
    figures = json.loads((tmp_path / "geometry.json").read_text())
    assert (figures["points"], figures["groups"], figures["runs"]) == (1089, 1024, 1)
    assert "times faster" in ended.out
    assert figures["machine"]["cores"] >= 1
