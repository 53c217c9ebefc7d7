"""Records survive the way through JSON, and refuse whatever they do not know or cannot be."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cmdiad_runtime.bundle.calibration import SCORE_LIMIT, Calibration
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.view_settings import PartSettings, TopSettings, encode_template
from cmdiad_runtime.support.records import (
    NewerRecordError,
    RecordError,
    fields_from_json,
    require,
    require_integer,
    require_number,
)

LOW, HIGH = -5, 1000

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
"""Anything that a JSON file can hold, NaN and infinity included, since Python's parser accepts them."""


@dataclass(frozen=True)
class Example:
    """A record with one field of each checked kind.

    Attributes:
        name: Non-empty text.
        count: Whole number from -5 to 1000.
        share: Number from 0 to 1.
    """

    name: str
    count: int
    share: float = 0.5

    def __post_init__(self) -> None:
        require(isinstance(self.name, str) and self.name != "", self, "name", "a text")
        require_integer(self, "count", LOW, HIGH)
        require_number(self, "share", 0, 1)

    @staticmethod
    def from_json(value: object) -> Example:
        """Return the record from parsed JSON."""
        return Example(**fields_from_json(Example, value, renamed={"number": "count"}))


examples = st.builds(
    Example, name=st.text(min_size=1), count=st.integers(LOW, HIGH), share=st.floats(0, 1, allow_nan=False)
)


@given(record=examples)
def test_round_trip(record: Example) -> None:
    assert Example.from_json(json.loads(json.dumps(asdict(record)))) == record


@given(record=examples)
def test_an_old_name_of_a_field_is_read(record: Example) -> None:
    value = asdict(record)
    value["number"] = value.pop("count")
    assert Example.from_json(value) == record


@given(record=examples, name=st.text(min_size=1).filter(lambda text: text not in ("name", "count", "share", "number")))
def test_an_unknown_field_is_a_newer_record(record: Example, name: str) -> None:
    with pytest.raises(NewerRecordError):
        Example.from_json({**asdict(record), name: 1})


@given(record=examples, missing=st.sampled_from(["name", "count"]))
def test_a_missing_field_is_an_error(record: Example, missing: str) -> None:
    value = asdict(record)
    del value[missing]
    with pytest.raises(RecordError, match=missing):
        Example.from_json(value)


@given(field=st.sampled_from(["name", "count", "share"]), value=json_values)
def test_any_value_is_accepted_or_refused_with_one_line(field: str, value: Any) -> None:
    try:
        record = Example.from_json({"name": "part", "count": 3, "share": 0.5, field: value})
    except RecordError as error:
        assert f"Example.{field}" in str(error)
        assert "\n" not in str(error)
        return
    assert type(record.count) is int
    assert LOW <= record.count <= HIGH
    assert 0 <= record.share <= 1
    assert isinstance(record.name, str)


@given(value=json_values)
def test_anything_but_an_object_is_refused(value: Any) -> None:
    if isinstance(value, dict):
        return
    with pytest.raises(RecordError, match="not an object"):
        Example.from_json(value)


scores = st.just(()) | st.lists(st.floats(-SCORE_LIMIT, SCORE_LIMIT), min_size=5, max_size=5).map(tuple)
lines = st.text(st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp")), max_size=10)

calibrations = st.builds(
    Calibration,
    score_threshold=st.floats(-1e6, 1e6),
    map_threshold=st.floats(-1e6, 1e6),
    false_reject_rate=st.floats(0, 1),
    samples=st.just(5),  # the number of held-out scores, if there are any
    method=lines,
    warning=lines,
    interval=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(lambda pair: (min(pair), max(pair))),
    held_out_scores=scores,
    held_out_peaks=scores,
)


def template(channels: int) -> st.SearchStrategy[str]:
    """Return templates with random content."""
    return st.integers(0, 9).map(
        lambda seed: encode_template(np.random.default_rng(seed).uniform(-1, 1, (channels, 64, 64)).astype(np.float32))
    )


lengths = st.floats(0.1, 1e4)
top_views = st.builds(TopSettings, side=lengths, pitch=lengths, template=template(3))
part_views = st.builds(PartSettings, side=lengths, pitch=lengths, template=template(2))

preprocessings = st.builds(
    Preprocessing,
    modality=st.sampled_from(["rgb", "xyz", "both"]),
    size=st.integers(32, 512),
    pad_multiple=st.integers(1, 100),
    colour=st.sampled_from(["rgb", "grey"]),
    groups=st.integers(64, 1024),
    group_size=st.integers(1, 128),
    grid=st.integers(1, 64),
    xyz_feed=st.just("normals"),
    top=st.none() | top_views,
    part=st.none() | part_views,
    seed=st.integers(0, 1000),
)


@given(record=calibrations)
def test_calibration_round_trip(record: Calibration) -> None:
    assert Calibration.from_json(json.loads(json.dumps(record.to_json()))) == record


@given(record=preprocessings)
def test_preprocessing_round_trip(record: Preprocessing) -> None:
    assert Preprocessing.from_json(json.loads(json.dumps(record.to_json()))) == record


@given(
    record=calibrations, field=st.sampled_from(sorted(asdict(Calibration(1.0, 1.0, 0.1, 3, "", "")))), value=json_values
)
def test_calibration_refuses_what_it_cannot_be(record: Calibration, field: str, value: Any) -> None:
    check_refusal(lambda: Calibration.from_json({**record.to_json(), field: value}))


@given(record=preprocessings, value=json_values, data=st.data())
def test_preprocessing_refuses_what_it_cannot_be(record: Preprocessing, value: Any, data: st.DataObject) -> None:
    field = data.draw(st.sampled_from(sorted(record.to_json())))
    check_refusal(lambda: Preprocessing.from_json({**record.to_json(), field: value}))


def check_refusal(read: Callable[[], Any]) -> None:
    """Check that reading gives a record that survives a round trip, or a RecordError of one line."""
    try:
        record = read()
    except RecordError as error:
        assert "\n" not in str(error)
        return
    assert type(record).from_json(json.loads(json.dumps(record.to_json(), allow_nan=False))) == record
