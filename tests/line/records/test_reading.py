"""Readers select, count and list the records while the station writes."""

from __future__ import annotations

import datetime
import threading

import numpy as np
import pytest

from cmdiad_line.records.database import Database
from cmdiad_line.records.picture_places import part_folder
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.records.stored import Counters, Remark, Selection
from cmdiad_line.transport.messages import Correct
from cmdiad_runtime.errors import OutputError
from record_rows import a_record, a_rejected
from station_messages import TIME


@pytest.fixture
def database(tmp_path):
    opened = Database(tmp_path)
    with opened.transaction() as rows:
        rows.record(a_record(1, score=0.2, time="2026-11-26T05:59:59.000+00:00"))
        rows.record(a_record(2, score=0.95))
        rows.record(a_rejected(3, score=1.5, part_id="x"))
        rows.record(a_rejected(4, "deadline", score=None, threshold=None))
        rows.record(a_record(5, score=0.3, recipe_id="bolt"))
        rows.correct(Correct(acquisition_id=5, verdict="NG", reason="deadline", message="late"))
    yield opened
    opened.close()


@pytest.fixture
def reader(tmp_path, database):
    with RecordReader(tmp_path) as opened:
        yield opened


def ids(results):
    return [result.acquisition_id for result in results]


def test_row_is_read_as_it_was_stored(reader):
    result = reader.by_id(2)
    assert (result.score, result.verdict, result.sensors) == (0.95, "OK", {"camera": "serial 7"})
    assert result.timings_ms["inspected"] == 9.5
    assert reader.by_id(99) is None


def test_verdict_is_the_published_one(reader):
    assert (reader.by_id(5).verdict, reader.by_id(5).reason) == ("NG", "deadline")


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (Selection(), [5, 4, 3, 2, 1]),
        (Selection(since="2026-11-26T06:00:00"), [5, 4, 3, 2]),
        (Selection(until="2026-11-26T06:00:00"), [1]),
        (Selection(verdict="NG"), [5, 4, 3]),
        (Selection(verdict="NG", reason="score"), [3]),
        (Selection(recipe_id="gear", before_id=3), [2, 1]),
        (Selection(part_id="x"), [3]),
        (Selection(part_id="' OR 1=1 --"), []),
    ],
)
def test_selection(reader, selection, expected):
    assert ids(reader.select(selection)) == expected
    assert ids(reader.stream(selection)) == expected[::-1]


def test_limit_and_next_page(reader):
    assert ids(reader.select(limit=2)) == [5, 4]
    assert ids(reader.select(Selection(before_id=4), limit=2)) == [3, 2]


def test_stream_has_no_gaps_between_pages(reader, database, monkeypatch):
    monkeypatch.setattr("cmdiad_line.records.reading._PAGE", 2)
    assert ids(reader.stream()) == [1, 2, 3, 4, 5]


def test_counters_of_a_shift(reader):
    assert reader.counters(since="2026-11-26T06:00:00") == Counters(
        triggers=4, ok=1, ng=3, reasons={"deadline": 2, "score": 1}
    )
    assert reader.counters(since="2027-01-01") == Counters(triggers=0, ok=0, ng=0)


def test_series_of_scores(reader):
    series = reader.scores()
    np.testing.assert_array_equal(series.ids, [1, 2, 3, 5])
    np.testing.assert_array_equal(series.scores, [0.2, 0.95, 1.5, 0.3])
    np.testing.assert_array_equal(series.accepted, [True, True, False, False])
    assert series.times[1] == datetime.datetime.fromisoformat(TIME).timestamp()
    assert reader.scores(Selection(recipe_id="none")).scores.shape == (0,)
    np.testing.assert_array_equal(reader.scores(limit=2).ids, [3, 5])


def test_review_has_rejected_and_near_parts_that_nobody_judged(reader, database):
    assert ids(reader.to_review(near_share=0.1)) == [5, 3, 2]
    with database.transaction() as rows:
        rows.judge(3, "eve", "unsure", "blurred")
        rows.judge(3, "adam", "good", "dust")
        rows.override(2, "eve", "NG", "scratch")
    assert ids(reader.to_review(near_share=0.1)) == [5, 2]
    assert reader.by_id(3).judgement == "good"
    assert reader.by_id(2).override == "NG"
    assert [(remark.user, remark.value) for remark in reader.judgements(3)] == [("eve", "unsure"), ("adam", "good")]
    (override,) = reader.overrides(2)
    assert override == Remark(time=override.time, user="eve", value="NG", note="scratch")
    assert ids(reader.select(Selection(judgement="good"))) == [3]
    assert ids(reader.select(Selection(judgement=""))) == [5, 4, 2, 1]


def test_audit_log(reader, database):
    with database.transaction() as rows:
        rows.audit("eve", "threshold", "gear", {"after": 1.5})
    entry, created = reader.audit()
    assert (entry.user, entry.action, entry.subject, entry.details) == ("eve", "threshold", "gear", {"after": 1.5})
    assert created.action == "records-created"
    assert reader.audit(before=entry.sequence) == [created]


def test_reader_sees_rows_of_a_running_station_from_any_thread(tmp_path, database):
    seen: list[int] = []
    with RecordReader(tmp_path) as reader:
        with database.transaction() as rows:
            rows.record(a_record(6))
        thread = threading.Thread(target=lambda: seen.extend(ids(reader.select(limit=1))))
        thread.start()
        thread.join()
    assert seen == [6]


def test_reader_works_without_the_station(tmp_path, database):
    database.close()
    with RecordReader(tmp_path / "records.sqlite") as reader:
        assert ids(reader.select(limit=1)) == [5]


def test_reader_never_writes(reader):
    with pytest.raises(OutputError, match="readonly"):
        reader._rows("DELETE FROM results", ())


def test_missing_records_are_an_error(tmp_path):
    with pytest.raises(OutputError, match="cannot be read"):
        RecordReader(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_pictures_of_a_part(tmp_path, reader):
    assert reader.pictures(reader.by_id(3)) is None
    folder = part_folder(tmp_path, 3, TIME)
    folder.mkdir(parents=True)
    assert reader.pictures(reader.by_id(3)) == folder
