"""The chain and the ids continue after records were set aside, whatever the condition of the earlier file."""

from __future__ import annotations

import pytest

from cmdiad_line.records.database import Database, database_path
from cmdiad_line.records.ids import AcquisitionIds, reserved_ids
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.records.renewing import renew_records
from cmdiad_line.records.verifying import verify_file
from record_rows import a_record


@pytest.fixture
def state(tmp_path):
    database = Database(tmp_path)
    AcquisitionIds(tmp_path, 0)
    for number in range(1, 300):
        with database.transaction() as rows:
            rows.record(a_record(number))
    database.close()
    return tmp_path


def check_continued(state, renewed):
    with RecordReader(state) as records:
        (entry,) = records.audit()
        assert records.select() == []
    assert (entry.user, entry.action) == ("eve", "records-continued")
    assert entry.details["previous"] == renewed.head.hash
    assert entry.details["file"] == renewed.earlier.name
    result = verify_file(database_path(state))
    assert (result.problem, result.rows["audit"]) == ("", 1)


def test_whole_records_are_set_aside_with_all_rows(state):
    before = verify_file(database_path(state))
    renewed = renew_records(state, "eve", "large")
    assert verify_file(renewed.earlier) == before
    assert (renewed.problem, renewed.head) == ("", before.head)
    check_continued(state, renewed)
    assert AcquisitionIds(state, 0).first > 1000


def test_damaged_records_are_kept_and_the_station_starts_again(state):
    path = database_path(state)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 8192] = b"\xa5" * 8192
    path.write_bytes(content)
    renewed = renew_records(state, "eve", "")
    assert renewed.earlier.read_bytes() == content
    assert renewed.problem
    check_continued(state, renewed)
    Database(state).close()


@pytest.mark.parametrize("content", [None, b"", b"no database" * 1000])
def test_records_that_are_gone_do_not_bring_ids_back(state, content):
    database_path(state).unlink()
    if content is not None:
        database_path(state).write_bytes(content)
    before = reserved_ids(state)
    renewed = renew_records(state, "eve", "")
    assert renewed.head.sequence == 0
    check_continued(state, renewed)
    assert reserved_ids(state) > before


def test_lost_ids_are_taken_from_the_rows(state):
    (state / "ids.json").unlink()
    renew_records(state, "eve", "")
    assert AcquisitionIds(state, 0).first > 299


def test_first_row_of_new_records_cannot_be_changed(state):
    renew_records(state, "eve", "")
    path = database_path(state)
    content = path.read_bytes()
    previous = verify_file(next(state.glob("records-*.sqlite"))).head.hash.encode()
    assert previous in content
    path.write_bytes(content.replace(previous, b"0" * 64))
    assert verify_file(path).problem
