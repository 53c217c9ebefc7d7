"""Every wrong value in a run's records is a RunError of one line that names the file."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.records import RecordError
from cmdiad_train.runs.record import RunRecord, TrainedOn, ViewChoice, read_record
from cmdiad_train.runs.run import load_calibration
from helpers import tiny_recipe

RUN = Path(__file__).parents[2] / "fixtures" / "run2" / "xyz-points.run"
CONTENT: dict[str, Any] = json.loads((RUN / "run.json").read_text(encoding="utf-8"))
RECORD = RunRecord.from_json(CONTENT)
DELETE = object()


def refusal(folder: Path, place: tuple[str, ...], value: object, file: str = "run.json") -> RunError:
    """Return the error of a copy of the run in which one value is another, or deleted."""
    for name in ("run.json", "calibration.json"):
        shutil.copy(RUN / name, folder / name)
    content = json.loads((folder / file).read_text(encoding="utf-8"))
    parent = content
    for key in place[:-1]:
        parent = parent[key]
    if value is DELETE:
        del parent[place[-1]]
    else:
        parent[place[-1]] = value
    (folder / file).write_text(json.dumps(content), encoding="utf-8")
    reader: Callable[[Path], object] = read_record if file == "run.json" else load_calibration
    with pytest.raises(RunError) as refused:
        reader(folder)
    assert refused.value.subject == str(folder / file)
    assert "\n" not in str(refused.value)
    return refused.value


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("format_version",), 2.0),
        (("format_version",), True),
        (("format_version",), "2"),
        (("format_version",), DELETE),
        (("format",), "cmdiad-bundle"),
        *((("seed",), value) for value in ("x", 1.0, True, -1, 1, 2**80)),
        (("python",), 3),
        (("status",), "done"),
        (("view",), "sensor"),
        (("view", "asked"), "banana"),
        (("view", "asked"), ["sensor"]),
        (("view", "asked"), "top"),
        (("view", "because"), 3),
        (("data",), []),
        (("data", "folder"), 3),
        (("data", "category"), None),
        (("data", "train"), "abc"),
        (("data", "train"), [3]),
        (("data", "held_out"), {"a": 1}),
        (("data", "held_out"), DELETE),
        (("versions",), {"a": 3}),
        (("versions",), []),
        (("network_from",), 3),
        (("network_from",), "latest"),
        (("provenance",), {"xyz": "timm"}),
        (("metrics",), "good"),
        (("preprocessing",), None),
        (("preprocessing", "modality"), "rgb"),
        (("preprocessing", "size"), 128),
        (("preprocessing", "seed"), DELETE),
        (("recipe",), 3),
        (("recipe", "size"), "big"),
        (("recipe", "size"), 10**9),
        (("recipe", "view"), "part"),
        (("recipe", "rgb"), 5),
        (("recipe", "xyz"), "points"),
        (("recipe", "xyz", "taps"), [-9]),
        (("recipe", "distillation"), None),
    ],
)
def test_wrong_value_is_damage(tmp_path: Path, place: tuple[str, ...], value: object) -> None:
    assert "damaged" in str(refusal(tmp_path, place, value))


@pytest.mark.parametrize(
    "place",
    [
        ("moon",),
        ("data", "moon"),
        ("view", "moon"),
        ("preprocessing", "moon"),
        ("recipe", "moon"),
        ("recipe", "family"),
    ],
)
def test_unknown_field_is_of_a_newer_version(tmp_path: Path, place: tuple[str, ...]) -> None:
    error = refusal(tmp_path, place, "moon")
    assert "made by a newer cmdiad" in error.found
    assert error.action == "Update cmdiad"


def test_versions_of_the_format(tmp_path: Path) -> None:
    assert "made by a newer cmdiad" in str(refusal(tmp_path, ("format_version",), 4))
    assert "Train again" in str(refusal(tmp_path, ("format_version",), 1))


@pytest.mark.parametrize(
    ("place", "value", "word"),
    [
        (("calibration",), DELETE, "damaged"),
        (("calibration",), [], "damaged"),
        (("calibration", "samples"), "6", "samples"),
        (("calibration", "score_threshold"), True, "score_threshold"),
        (("calibration", "held_out_scores"), 3, "held_out_scores"),
        (("calibration", "moon"), 1, "made by a newer cmdiad"),
    ],
)
def test_wrong_calibration(tmp_path: Path, place: tuple[str, ...], value: object, word: str) -> None:
    assert word in str(refusal(tmp_path, place, value, "calibration.json"))


@pytest.mark.parametrize(
    "make",
    [
        lambda: replace(RECORD, recipe=3),
        lambda: replace(RECORD, data=None),
        lambda: replace(RECORD, view="sensor"),
        lambda: replace(RECORD, preprocessing=None),
        lambda: replace(RECORD, recipe=tiny_recipe("rgb")),
        lambda: TrainedOn("a", "b", "abc", ()),  # type: ignore[arg-type]
        lambda: ViewChoice("banana"),
    ],
)
def test_constructors_refuse_what_no_file_may_hold(make: Callable[[], object]) -> None:
    with pytest.raises(RecordError):
        make()


def test_round_trip() -> None:
    assert RunRecord.from_json(json.loads(json.dumps(RECORD.to_json()))) == RECORD
