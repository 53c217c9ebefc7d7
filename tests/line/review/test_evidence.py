"""Good parts set the threshold of a candidate, and other parts are left out."""

from __future__ import annotations

import pytest

from cmdiad_line.records.database import Database
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.records.stored import Selection
from cmdiad_line.review import evidence as review_evidence
from cmdiad_line.review.evidence import collect_evidence
from record_rows import a_record, a_rejected


@pytest.fixture
def database(tmp_path):
    opened = Database(tmp_path)
    with opened.transaction() as rows:
        for record in (
            a_record(1, score=0.5),
            a_record(2, score=0.9),  # judged defective: a missed defect
            a_rejected(3, score=1.1),  # judged good
            a_rejected(4, score=1.2),  # nobody judged
            a_rejected(5, score=1.3),  # unsure
            a_rejected(6, "exposure", score=0.4),  # judged good, but refused by a check
            a_rejected(7, "deadline", score=None, threshold=None),
            a_rejected(8, "deadline", score=0.6),  # good by the detector, but too late
            a_rejected(9, "deadline", score=0.7),  # judged good
            a_record(10, score=0.8),  # overridden as NG
            a_record(11, score=0.55, bundle_digest="cd" * 32),
            a_record(12, score=0.65, map_max=0.7),
        ):
            rows.record(record)
        for number, judgement in ((2, "defect"), (3, "good"), (5, "unsure"), (6, "good"), (9, "good")):
            rows.judge(number, "eve", judgement, "")
        rows.override(10, "eve", "NG", "scratch")
    yield opened
    opened.close()


SELECTION = Selection(bundle_digest="ab" * 32)


def ids(parts):
    return [part.acquisition_id for part in parts]


def test_all_good_parts_of_the_production_count(tmp_path, database):
    with RecordReader(tmp_path) as records:
        evidence = collect_evidence(records, SELECTION, "map")
    assert ids(evidence.good) == [12, 9, 3, 1]
    assert ids(evidence.judged_good) == [9, 3]
    assert evidence.unjudged == 2
    assert evidence.left_out == {"exposure": 1}
    assert any("left out: 2." in line for line in evidence.lines())


def test_parts_without_a_map_value_do_not_count_if_the_image_decides(tmp_path, database):
    with RecordReader(tmp_path) as records:
        assert ids(collect_evidence(records, SELECTION, "image").good) == [12]


def test_newest_parts_count_if_there_are_too_many(tmp_path, database, monkeypatch):
    monkeypatch.setattr(review_evidence, "MOST_PARTS", 2)
    monkeypatch.setattr(review_evidence, "_PAGE", 3)
    with RecordReader(tmp_path) as records:
        assert ids(collect_evidence(records, SELECTION, "map").good) == [12, 9]


def test_last_judgement_counts(tmp_path, database):
    with database.transaction() as rows:
        rows.judge(3, "adam", "defect", "")
        rows.judge(2, "adam", "good", "")
    with RecordReader(tmp_path) as records:
        assert ids(collect_evidence(records, SELECTION, "map").good) == [12, 9, 2, 1]
