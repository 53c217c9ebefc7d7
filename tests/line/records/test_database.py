"""The database of a station stores or refuses rows, and keeps them through damage, full disks and kills."""

from __future__ import annotations

import errno
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from cmdiad_line.records import database as records_database
from cmdiad_line.records import verifying
from cmdiad_line.records.chain import canonical
from cmdiad_line.records.database import (
    FILE_NAME,
    LOG_BYTES,
    UNTIDY_COMMITS,
    DamagedRecordsError,
    Database,
    RecordsError,
    database_path,
    failure,
    is_damage,
)
from cmdiad_line.records.ids import BLOCK, AcquisitionIds
from cmdiad_line.records.rows import RefusedError
from cmdiad_line.records.verifying import verify_file
from cmdiad_line.transport.messages import Correct
from cmdiad_runtime.errors import OutputError
from record_rows import a_record, a_rejected

TESTS = Path(__file__).resolve().parents[2]
"""Folder of the modules that tests share."""


@pytest.fixture
def database(tmp_path):
    opened = Database(tmp_path)
    yield opened
    opened.close()


def store(database, *records):
    with database.transaction() as rows:
        for record in records:
            rows.record(record)


def read(path, statement):
    connection = sqlite3.connect(database_path(path))
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def verified(path):
    return verify_file(database_path(path))


def test_row_holds_everything_that_is_recorded(tmp_path, database):
    store(database, a_record(7, map_max=0.75))
    names = "acquisition_id, part_id, sensors, engine, score, map_max, verdict, recipe_id, bundle_digest, timings_ms"
    (row,) = read(tmp_path, f"SELECT {names} FROM results")
    timings = canonical({"acquired": 2.0, "inspected": 9.5})
    assert row == (7, "part 7", '{"camera":"serial 7"}', "cpu", 0.5, 0.75, "OK", "gear", "ab" * 32, timings)


def test_chain_spans_all_tables(tmp_path, database):
    store(database, a_record(1), a_rejected(2))
    with database.transaction() as rows:
        rows.judge(2, "eve", "good", "dust")
        rows.override(2, "eve", "OK", "")
        rows.correct(Correct(acquisition_id=1, verdict="NG", reason="deadline", message="late"))
        rows.audit("eve", "threshold", "gear", {"before": 1.0, "after": 1.2})
    result = verified(tmp_path)
    assert result.problem == ""
    assert result.rows == {"results": 2, "corrections": 1, "judgements": 1, "overrides": 1, "audit": 2}
    assert result.head.sequence == 7


@pytest.mark.parametrize(
    ("change", "row"),
    [
        ("UPDATE results SET verdict = 'OK' WHERE acquisition_id = 2", 3),
        ("UPDATE results SET score = 0.9 WHERE acquisition_id = 1", 2),
        ("DELETE FROM results WHERE acquisition_id = 2", 4),
        ("DELETE FROM audit WHERE sequence = 4", 5),
        ("UPDATE audit SET details = '{}' WHERE sequence = 4", 4),
        ("UPDATE audit SET user = 'adam', hash = hash WHERE sequence = 4", 4),
        ("UPDATE judgements SET judgement = 'defect'", 5),
        ("DELETE FROM judgements", 4),
    ],
)
def test_verification_names_the_first_row_that_does_not_fit(tmp_path, database, change, row):
    store(database, a_record(1), a_rejected(2))
    with database.transaction() as rows:
        rows.audit("eve", "threshold", "gear", {"after": 1.2})
        rows.judge(2, "eve", "good", "")
    database.close()
    connection = sqlite3.connect(database_path(tmp_path))
    connection.execute(change)
    connection.commit()
    connection.close()
    result = verified(tmp_path)
    assert f"ow {row}" in result.problem or f"is {row}" in result.problem
    with pytest.raises(DamagedRecordsError, match="cmdiad-line renew"):
        Database(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO audit VALUES ('2026-11-26', 'eve', 'threshold', '', '{}', -1, '')",
        "INSERT INTO overrides VALUES (1, '2026-11-26', 'eve', 'OK', '', 0, '')",
        "DROP VIEW published; CREATE VIEW published AS SELECT *, '' AS judgement, '' AS override FROM results",
        "CREATE TRIGGER quiet AFTER INSERT ON overrides BEGIN DELETE FROM overrides; END",
        "DELETE FROM head",
        "UPDATE results SET score = 9e999",
        "UPDATE audit SET action = 'records-continued', details = 'x' WHERE sequence = 1",
        "UPDATE audit SET action = 'records-continued', details = '[]' WHERE sequence = 1",
    ],
)
def test_verification_notices_every_change_by_hand(tmp_path, database, change):
    store(database, a_record(1), a_rejected(2))
    database.close()
    connection = sqlite3.connect(database_path(tmp_path))
    connection.executescript(change)
    connection.close()
    assert verified(tmp_path).problem


def test_missing_end_of_the_chain_is_damage_with_the_remedy(tmp_path, database):
    with database.transaction():
        database._connection.execute("DELETE FROM head")
    with pytest.raises(sqlite3.DatabaseError) as caught:
        store(database, a_record(1))
    assert is_damage(caught.value)
    with pytest.raises(DamagedRecordsError, match="cmdiad-line renew"):
        Database(tmp_path)


def test_verification_of_a_running_station_sees_one_moment(tmp_path, database, monkeypatch):
    store(database, a_record(1), a_record(2))
    compare = verifying._mismatch

    def compare_and_write(head, row):
        if row[0] == 2:
            store(database, a_record(3))
        return compare(head, row)

    monkeypatch.setattr(verifying, "_mismatch", compare_and_write)
    assert verifying.verify_file(database_path(tmp_path)).problem == ""


def test_rows_cut_off_at_the_end_are_noticed(tmp_path, database):
    store(database, a_record(1), a_record(2))
    database.close()
    connection = sqlite3.connect(database_path(tmp_path))
    connection.execute("DELETE FROM results WHERE acquisition_id = 2")
    connection.commit()
    connection.close()
    assert "the chain ends at 3" in verified(tmp_path).problem


def test_same_row_again_changes_nothing(tmp_path, database):
    store(database, a_record(1), a_rejected(2))
    store(database, a_record(1), a_rejected(2))
    assert verified(tmp_path).rows["results"] == 2
    assert verified(tmp_path).rows["corrections"] == 0


def test_published_verdict_is_never_better_than_the_last_word(tmp_path, database):
    store(database, a_record(1), a_rejected(2))
    store(database, a_rejected(1, "records-died"))
    assert read(tmp_path, "SELECT verdict, reason FROM published WHERE acquisition_id = 1") == [("NG", "records-died")]
    with pytest.raises(RefusedError, match="NG already"):
        store(database, a_record(2))
    with pytest.raises(RefusedError, match="NG already"):
        store(database, a_record(1))
    assert verified(tmp_path).rows["results"] == 2


def test_correction_is_stored_once(tmp_path, database):
    store(database, a_record(1))
    correction = Correct(acquisition_id=1, verdict="NG", reason="deadline", message="late")
    for _ in range(2):
        with database.transaction() as rows:
            rows.correct(correction)
    assert read(tmp_path, "SELECT verdict, reason, message FROM published") == [("NG", "deadline", "late")]
    assert verified(tmp_path).rows["corrections"] == 1


def test_correction_without_row_is_noted(tmp_path, database):
    with database.transaction() as rows:
        rows.correct(Correct(acquisition_id=9, verdict="NG", reason="deadline", message="late"))
    assert ("correction-without-row", "9") in read(tmp_path, "SELECT action, subject FROM audit")


@pytest.mark.parametrize(("number", "judgement"), [(9, "good"), (1, "fine")])
def test_judgement_of_nothing_is_refused(database, number, judgement):
    store(database, a_record(1))
    with pytest.raises(RefusedError), database.transaction() as rows:
        rows.judge(number, "eve", judgement, "")


def test_second_writer_continues_the_chain(tmp_path, database):
    store(database, a_record(1))
    other = Database(tmp_path)
    with other.transaction() as rows:
        rows.audit("eve", "recipe-added", "gear-2", {})
    other.close()
    store(database, a_record(2))
    assert verified(tmp_path).problem == ""
    assert verified(tmp_path).head.sequence == 4


def test_locked_file_is_reported_within_the_wait(tmp_path, database, monkeypatch):
    holder = sqlite3.connect(database_path(tmp_path), isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError) as caught:
        store(database, a_record(1))
    assert failure(caught.value)[0] == "not-recorded"
    holder.execute("ROLLBACK")
    holder.close()
    store(database, a_record(1))
    assert verified(tmp_path).rows["results"] == 1


def test_full_database_keeps_all_rows_and_recovers(tmp_path, database):
    store(database, a_record(1))
    (pages,) = database._connection.execute("PRAGMA page_count").fetchone()
    database._connection.execute(f"PRAGMA max_page_count = {pages}")
    stored = 1
    with pytest.raises(sqlite3.OperationalError) as caught:
        for number in range(2, 5000):
            store(database, a_record(number))
            stored = number
    assert failure(caught.value)[0] == "disk-full"
    assert verified(tmp_path).rows["results"] == stored
    database._connection.execute(f"PRAGMA max_page_count = {pages + 1000}")
    store(database, a_record(stored + 1))
    assert verified(tmp_path).problem == ""


WRITER = """
import resource, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from record_rows import a_record
from cmdiad_line.records.database import Database, failure
import sqlite3
if {limit}:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
database = Database(Path({state!r}))
database.reserve_log()
number = database.last_id
while True:
    number += 1
    try:
        with database.transaction() as rows:
            rows.record(a_record(number))
    except sqlite3.Error as error:
        print(failure(error)[0], flush=True)
        break
    print(number, flush=True)
database.close()
"""


def writer(state, limit=0):
    code = WRITER.format(tests=str(TESTS), limit=limit, state=str(state))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_full_disk_loses_nothing_that_was_stored(tmp_path):
    """The system refuses writes beyond a size of the file, as a full disk does."""
    with writer(tmp_path, limit=600_000) as process:
        assert process.stdout is not None
        lines = process.stdout.read().split()
    assert lines[-1] in ("disk-full", "not-recorded")
    assert verified(tmp_path).problem == ""
    assert verified(tmp_path).rows["results"] == len(lines) - 1 > 10


@pytest.mark.parametrize("after", [1, 17, 40])
def test_killed_writer_loses_no_row_that_it_reported(tmp_path, after):
    with writer(tmp_path) as process:
        assert process.stdout is not None
        for _ in range(after):
            last = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        last = max([last, *(int(line) for line in process.stdout.read().split())])
    Database(tmp_path).close()
    result = verified(tmp_path)
    assert result.problem == ""
    assert result.rows["results"] in (last, last + 1)


def test_log_never_grows_while_it_is_tidied(tmp_path, database):
    """A commit that makes the file larger waits for the journal of the file system."""
    database.reserve_log()
    log, sizes = tmp_path / f"{FILE_NAME}-wal", set()
    for number in range(1, UNTIDY_COMMITS + 20):
        store(database, a_record(number))
        sizes.add(log.stat().st_size)
        if database.is_untidy:
            database.tidy()
            assert not database.is_untidy
    assert sizes == {LOG_BYTES}
    assert verified(tmp_path).rows["results"] == UNTIDY_COMMITS + 19


def test_reserved_log_leaves_no_trace_on_a_full_disk(tmp_path, database, monkeypatch):
    def no_room(descriptor):
        raise OSError(errno.ENOSPC, "no space left")

    store(database, a_record(1))
    log = tmp_path / f"{FILE_NAME}-wal"
    before = log.stat().st_size
    monkeypatch.setattr(os, "fsync", no_room)
    database.reserve_log()
    assert log.stat().st_size == before
    store(database, a_record(2))
    assert verified(tmp_path).rows["results"] == 2


def test_damaged_page_is_refused_with_the_remedy(tmp_path, database):
    for number in range(1, 400):
        store(database, a_record(number))
    database.tidy()
    database.close()
    path = database_path(tmp_path)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2 // 4096 * 4096
    content[middle : middle + 4096] = b"\xa5" * 4096
    path.write_bytes(content)
    with pytest.raises(DamagedRecordsError, match="cmdiad-line renew"):
        Database(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not a database " * 400])
def test_other_content_is_never_replaced_in_silence(tmp_path, database, content):
    AcquisitionIds(tmp_path, 0)
    database.close()
    for path in tmp_path.glob("records.sqlite*"):
        path.unlink()
    database_path(tmp_path).write_bytes(content)
    with pytest.raises(DamagedRecordsError):
        Database(tmp_path)


def test_records_that_are_gone_are_never_replaced_in_silence(tmp_path, database):
    AcquisitionIds(tmp_path, 0)
    database.close()
    database_path(tmp_path).unlink()
    with pytest.raises(DamagedRecordsError, match="has inspected parts before"):
        Database(tmp_path)


def test_newer_version_is_refused(tmp_path, database):
    database._connection.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(RecordsError, match="Update cmdiad"):
        Database(tmp_path)


def test_old_library_is_refused_with_the_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr(sqlite3, "sqlite_version_info", (3, 34, 1))
    with pytest.raises(RecordsError, match=r"3\.37 or later"):
        Database(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_large_file_is_opened_without_checking_every_page(tmp_path, database, monkeypatch):
    for number in range(1, 400):
        store(database, a_record(number))
    database.close()
    monkeypatch.setattr(records_database, "_CHECK_SECONDS", -1.0)
    monkeypatch.setattr(records_database, "_INSTRUCTIONS", 1)
    Database(tmp_path).close()


def test_ids_are_never_used_twice(tmp_path):
    used: list[int] = []
    for _ in range(3):
        ids = AcquisitionIds(tmp_path, 0)
        used += range(ids.first, ids.reserved + 1)
    assert len(used) == len(set(used)) == 3 * BLOCK
    assert min(used) == 1


def test_ids_continue_after_the_rows(tmp_path):
    assert AcquisitionIds(tmp_path, 4321).first == 4322


@pytest.mark.parametrize("content", ["", "{}", '{"reserved": "5"}', '{"reserved": 4294967296}', '{"reserved": true}'])
def test_damaged_ids_are_refused(tmp_path, content):
    (tmp_path / "ids.json").write_text(content)
    with pytest.raises(OutputError, match="larger than every id"):
        AcquisitionIds(tmp_path, 0)


def test_the_last_ids_are_refused_and_not_repeated(tmp_path):
    with pytest.raises(OutputError, match="no free acquisition id"):
        AcquisitionIds(tmp_path, 2**31 - 5)
