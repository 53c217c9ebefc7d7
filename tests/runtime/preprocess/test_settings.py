"""The record of the preprocessing: every value is checked when the record is constructed."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.preprocess.view_settings import PartSettings, TopSettings, encode_template
from cmdiad_runtime.support.records import NewerRecordError, RecordError

TOP = TopSettings(0.1, 0.002, encode_template(np.full((3, 64, 64), 0.25, np.float32)))
PART = PartSettings(200.0, 4.0, encode_template(np.full((2, 64, 64), 0.25, np.float32)))
NORMALS = Preprocessing("both", xyz_feed="normals", groups=0, group_size=0, grid=0)
PATCHES: dict[str, Any] = {"xyz_feed": "patches", "groups": 9, "group_size": 9, "coverage": 5}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modality", "banana"),
        ("modality", None),
        ("modality", ["rgb"]),
        ("size", 0),
        ("size", 4097),
        ("size", 224.0),
        ("size", True),
        ("size", "224"),
        ("pad_multiple", 0),
        ("pad_multiple", 4097),
        ("colour", "blue"),
        ("rgb_mask", "image"),
        ("foreground", 1),
        ("groups", 2),
        ("groups", (1 << 14) + 1),
        ("group_size", 0),
        ("group_size", 4097),
        ("grid", 0),
        ("grid", 257),
        ("xyz_feed", "pictures"),
        ("xyz_feed", ["normals"]),
        ("rgb_filter", 2),
        ("top", {"side": 0.1}),
        ("part", TOP),
        ("xyz_image", "yes"),
        ("seed", -1),
        ("seed", 1 << 64),
        ("seed", 0.5),
    ],
)
def test_wrong_value_is_refused(field: str, value: Any) -> None:
    fields: dict[str, Any] = {"modality": "xyz", field: value}
    with pytest.raises(RecordError, match=f"Preprocessing.{field} is "):
        Preprocessing(**fields)
    with pytest.raises(RecordError):
        Preprocessing.from_json(fields)


@pytest.mark.parametrize(
    ("fields", "wrong"),
    [
        ({"xyz_feed": "points", "top": TOP, "groups": 9, "group_size": 9, "grid": 9}, "xyz_feed"),
        ({"xyz_feed": "depth", "part": PART}, "xyz_feed"),
        ({**PATCHES, "part": PART}, "xyz_feed"),
        ({**PATCHES, "part": PART, "top": TOP}, "xyz_feed"),
        ({"xyz_feed": "normals", "xyz_image": True}, "xyz_image"),
        ({"rgb_mask": "cloud", "foreground": False}, "foreground"),
        ({"xyz_feed": "points"}, "groups"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(fields: dict[str, Any], wrong: str) -> None:
    with pytest.raises(RecordError, match=f"Preprocessing.{wrong} is "):
        replace(NORMALS, **fields)


@pytest.mark.parametrize(
    ("modality", "view"), [("rgb", {"top": TOP}), ("xyz", {"part": PART}), ("rgb", {"top": TOP, "part": PART})]
)
def test_view_that_needs_another_modality_is_refused_in_a_detector(modality: Any, view: dict[str, Any]) -> None:
    settings = replace(NORMALS, modality=modality, **view)
    with pytest.raises(RecordError, match="None without"):
        settings.check_view()
    replace(settings, modality="both").check_view()


@pytest.mark.parametrize("settings", [TOP, PART])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("side", 0),
        ("side", -1.0),
        ("side", float("nan")),
        ("side", float("inf")),
        ("side", 1e300),
        ("side", "1"),
        ("pitch", 0),
        ("pitch", True),
        ("pitch", 1e300),
        ("template", "no base64!"),
        ("template", "ü" * 100),
        ("template", ""),
        ("template", "AAAA"),
        ("template", None),
        ("template", 7),
    ],
)
def test_wrong_view_settings_are_refused(settings: TopSettings | PartSettings, field: str, value: Any) -> None:
    with pytest.raises(RecordError, match=f"{type(settings).__name__}.{field} is "):
        replace(settings, **{field: value})


def test_template_of_the_other_view_is_refused() -> None:
    with pytest.raises(RecordError, match="template"):
        replace(TOP, template=PART.template)
    with pytest.raises(RecordError, match="template"):
        replace(PART, template=TOP.template)


@pytest.mark.parametrize(
    ("settings", "view"),
    [
        (NORMALS, "sensor"),
        (replace(NORMALS, top=TOP), "top"),
        (replace(NORMALS, part=PART), "part"),
        (replace(NORMALS, top=TOP, part=PART), "each"),
        (Preprocessing("rgb", seed=-3, part=PART), "part"),
        (Preprocessing("xyz", xyz_image=True, pad_multiple=100), "sensor"),
    ],
)
def test_json_round_trip(settings: Preprocessing, view: str) -> None:
    assert Preprocessing.from_json(json.loads(json.dumps(settings.to_json()))) == settings
    assert settings.view == view


def test_both_names_of_the_top_view_are_read() -> None:
    """Format 1 writes `plan`, which older runtimes read as well."""
    settings = replace(NORMALS, top=TOP)
    written = settings.to_json()
    assert "top" not in written
    written["top"] = written.pop("plan")
    assert Preprocessing.from_json(written) == settings


def test_defaults_fill_absent_fields() -> None:
    assert Preprocessing.from_json({"modality": "rgb"}) == Preprocessing("rgb")


@pytest.mark.parametrize("place", ["", "plan", "part"])
def test_unknown_field_is_of_a_newer_version(place: str) -> None:
    written = replace(NORMALS, top=TOP, part=PART).to_json()
    (written[place] if place else written)["angle"] = 1
    with pytest.raises(NewerRecordError, match="angle"):
        Preprocessing.from_json(written)


@pytest.mark.parametrize(
    "value", [None, 3, [], "rgb", {}, {"modality": "xyz", "plan": 7}, {"modality": "xyz", "part": {}}]
)
def test_other_json_is_refused(value: Any) -> None:
    with pytest.raises(RecordError):
        Preprocessing.from_json(value)


def test_patches_follow_the_part_from_above() -> None:
    settings = replace(NORMALS, **PATCHES, top=TOP)
    assert settings.view == "top"
    assert Preprocessing.from_json(settings.to_json()) == settings
