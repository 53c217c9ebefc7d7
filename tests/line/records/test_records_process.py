"""The records process as the supervisor sees it: ids, rows, commands, pictures, and its end."""

from __future__ import annotations

import sqlite3
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

from cmdiad_line.records.database import Database, database_path
from cmdiad_line.records.ids import BLOCK, AcquisitionIds, reserved_ids
from cmdiad_line.records.process import _Process, serve
from cmdiad_line.records.verifying import verify_file
from cmdiad_line.station_file.pictures import Pictures
from cmdiad_line.transport.frames import FramePool, frames_path
from cmdiad_line.transport.link import Link, LinkClosedError, link_pair
from cmdiad_line.transport.mailbox import Mailbox
from cmdiad_line.transport.messages import (
    Alive,
    Answer,
    Command,
    Correct,
    End,
    Failed,
    KeepPicture,
    NotRecorded,
    Opened,
    PictureDone,
    Recorded,
    Reserve,
)
from cmdiad_runtime.errors import CmdiadError, OutputError
from patience import LIMIT_S, wait_until
from record_rows import a_record, a_rejected


class Supervisor:
    """The other end of the process's link."""

    def __init__(self, link, thread):
        self.link = link
        self.thread = thread
        self.alive = 0

    def ask(self, *messages, answers=1):
        for message in messages:
            self.link.send(message)
        return self.wait(answers)

    def wait(self, answers=1):
        received = []
        end = time.monotonic() + LIMIT_S
        while len(received) < answers:
            assert time.monotonic() < end, received
            for message in self.link.receive():
                self.alive += isinstance(message, Alive)
                if not isinstance(message, Alive):
                    received.append(message)
            time.sleep(0.001)
        return received[0] if answers == 1 else received


def work(link, station):
    """Serve as a process of the station does, see `cmdiad_line.worker`."""
    try:
        serve(link, station)
    except LinkClosedError:
        pass
    except CmdiadError as error:
        link.send(Failed(message=str(error)))


@contextmanager
def running(state, **changes):
    """Run the process in a thread, connected by a link as a process is."""
    defaults = {"state": state, "pictures": Pictures(least_free_gigabytes=0), "frame_slots": 8, "max_in_work": 2}
    station = SimpleNamespace(**{**defaults, **changes})
    here, socket = link_pair()
    there = Link(socket)
    thread = threading.Thread(target=work, args=(there, station))
    thread.start()
    try:
        yield Supervisor(here, thread)
    finally:
        here.close()
        thread.join(LIMIT_S)
        there.close()
        assert not thread.is_alive()


def rows(state, statement):
    connection = sqlite3.connect(database_path(state))
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def test_ids_are_on_the_disk_before_they_are_used(tmp_path):
    with running(tmp_path) as supervisor:
        assert supervisor.wait() == Opened(next_id=1, reserved=BLOCK)
        assert reserved_ids(tmp_path) == BLOCK
        assert supervisor.ask(Reserve()) == Opened(next_id=BLOCK + 1, reserved=2 * BLOCK)
        assert reserved_ids(tmp_path) == 2 * BLOCK
    with running(tmp_path) as supervisor:
        assert supervisor.wait() == Opened(next_id=2 * BLOCK + 1, reserved=3 * BLOCK)


def test_recorded_means_that_another_process_reads_the_row(tmp_path):
    with running(tmp_path) as supervisor:
        supervisor.wait()
        assert supervisor.ask(a_record(1)) == Recorded(acquisition_id=1)
        assert rows(tmp_path, "SELECT acquisition_id, verdict FROM results") == [(1, "OK")]


def test_rows_that_wait_together_are_all_answered(tmp_path):
    with running(tmp_path) as supervisor:
        supervisor.wait()
        answers = supervisor.ask(*[a_record(number) for number in range(1, 40)], answers=39)
        assert answers == [Recorded(acquisition_id=number) for number in range(1, 40)]


def test_ok_after_ng_is_not_recorded(tmp_path):
    with running(tmp_path) as supervisor:
        supervisor.wait()
        answers = supervisor.ask(a_rejected(1), a_record(1), a_record(2), answers=3)
        assert [type(answer) for answer in answers] == [Recorded, NotRecorded, Recorded]
        assert rows(tmp_path, "SELECT verdict FROM published ORDER BY 1") == [("NG",), ("OK",)]


def test_locked_database_is_answered_and_later_rows_are_stored(tmp_path):
    with running(tmp_path) as supervisor:
        supervisor.wait()
        holder = sqlite3.connect(database_path(tmp_path), isolation_level=None)
        holder.execute("BEGIN IMMEDIATE")
        answer = supervisor.ask(a_record(1))
        holder.execute("ROLLBACK")
        holder.close()
        assert isinstance(answer, NotRecorded)
        assert answer.reason == "not-recorded"
        assert supervisor.ask(a_rejected(1, "not-recorded")) == Recorded(acquisition_id=1)


def test_correction_is_published(tmp_path):
    with running(tmp_path) as supervisor:
        supervisor.wait()
        supervisor.ask(a_record(1))
        supervisor.link.send(Correct(acquisition_id=1, verdict="NG", reason="deadline", message="late"))
        supervisor.ask(a_record(2))
        assert rows(tmp_path, "SELECT verdict, reason FROM published") == [("NG", "deadline"), ("OK", "")]


@pytest.mark.parametrize(
    ("name", "arguments", "done"),
    [
        ("judge", {"acquisition_id": 1, "judgement": "good", "note": "dust"}, True),
        ("judge", {"acquisition_id": 1, "judgement": "good"}, True),
        ("override", {"acquisition_id": 1, "verdict": "OK"}, True),
        ("note", {"action": "threshold", "subject": "gear", "details": {"after": 1.5}}, True),
        ("judge", {"acquisition_id": 2, "judgement": "good"}, False),
        ("judge", {"acquisition_id": "1", "judgement": "good"}, False),
        ("judge", {"acquisition_id": 1, "judgement": "perfect"}, False),
        ("override", {"acquisition_id": 1}, False),
        ("note", {}, False),
        ("start", {}, False),
    ],
)
def test_command_is_stored_or_refused(tmp_path, name, arguments, done):
    with running(tmp_path) as supervisor:
        supervisor.wait()
        supervisor.ask(a_rejected(1))
        answer = supervisor.ask(Command(token=5, name=name, user="eve", arguments=arguments))
        assert isinstance(answer, Answer)
        assert (answer.token, answer.done) == (5, done)
        written = "SELECT (SELECT count(*) FROM judgements) + (SELECT count(*) FROM overrides) + "
        assert rows(tmp_path, f"{written}(SELECT count(*) FROM audit WHERE user = 'eve')") == [(int(done),)]


def test_process_says_that_it_is_alive(tmp_path):
    with running(tmp_path) as supervisor:
        supervisor.wait()
        end = time.monotonic() + LIMIT_S
        while supervisor.alive < 3:
            assert time.monotonic() < end
            supervisor.alive += sum(isinstance(message, Alive) for message in supervisor.link.receive())
            time.sleep(0.01)


def test_process_ends_when_asked(tmp_path):
    with running(tmp_path) as supervisor:
        supervisor.wait()
        supervisor.ask(a_record(1), End())
        supervisor.thread.join(LIMIT_S)
        assert not supervisor.thread.is_alive()
        assert rows(tmp_path, "SELECT count(*) FROM results") == [(1,)]


def test_damaged_database_is_reported_with_the_remedy(tmp_path):
    Database(tmp_path).close()
    database_path(tmp_path).write_bytes(b"not a database" * 400)
    with running(tmp_path) as supervisor:
        answer = supervisor.wait()
        assert isinstance(answer, Failed)
        assert "cmdiad-line renew" in answer.message


def test_pictures_are_kept_from_the_frame(tmp_path):
    image = np.arange(48 * 64 * 3, dtype=np.uint8).reshape(48, 64, 3)
    with FramePool.create(frames_path(tmp_path), 4, image.nbytes) as pool, running(tmp_path) as supervisor:
        supervisor.wait()
        places = pool.write(2, 1, {"rgb": image})
        order = KeepPicture(slot=2, arrays=places, result=a_rejected(1).result, inspected=None)
        assert supervisor.ask(order) == PictureDone(slot=2, kept=True)
        other = KeepPicture(slot=2, arrays=places, result=a_rejected(3).result, inspected=None)
        assert supervisor.ask(other) == PictureDone(slot=2, kept=False, skipped=True)
        passed = KeepPicture(slot=1, arrays=places, result=a_record(2).result, inspected=None)
        assert supervisor.ask(passed) == PictureDone(slot=1, kept=False)
    assert [path.name for path in tmp_path.glob("pictures/*/*")] == ["0000000001"]


def test_damage_while_running_ends_the_process_with_the_remedy(tmp_path, monkeypatch):
    with running(tmp_path) as supervisor:
        supervisor.wait()

        def damaged(self, **options):
            raise sqlite3.DatabaseError("database disk image is malformed")

        monkeypatch.setattr(Database, "transaction", damaged)
        answer = supervisor.ask(a_record(1))
        assert isinstance(answer, Failed)
        assert "cmdiad-line renew" in answer.message
        supervisor.thread.join(LIMIT_S)
        assert not supervisor.thread.is_alive()


def test_full_disk_is_the_reason_of_the_part(tmp_path, monkeypatch):
    with running(tmp_path) as supervisor:
        supervisor.wait()
        whole = Database.transaction

        def full(self, **options):
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(Database, "transaction", full)
        answer = supervisor.ask(a_record(1))
        assert isinstance(answer, NotRecorded)
        assert answer.reason == "disk-full"
        supervisor.link.send(a_rejected(1, "disk-full"))
        supervisor.link.send(Correct(acquisition_id=3, verdict="NG", reason="deadline", message="late"))
        supervisor.link.send(Command(token=8, name="note", user="station", arguments={"action": "stop"}))
        refused = supervisor.ask(Command(token=9, name="judge", user="eve", arguments={"acquisition_id": 1}))
        assert refused == Answer(token=9, done=False, message=refused.message)
        assert "no room" in refused.message
        monkeypatch.setattr(Database, "transaction", whole)
        answers = supervisor.ask(a_record(2), answers=3)
        assert [type(answer) for answer in answers] == [Recorded, Answer, Recorded]
    assert rows(tmp_path, "SELECT acquisition_id, reason FROM published ORDER BY 1") == [(1, "disk-full"), (2, "")]
    assert rows(tmp_path, "SELECT action FROM audit ORDER BY sequence")[1:] == [("correction-without-row",), ("stop",)]


def test_rows_that_wait_are_stored_without_another_message(tmp_path, monkeypatch):
    with running(tmp_path) as supervisor:
        supervisor.wait()
        whole, tries = Database.transaction, []

        def full(self, **options):
            tries.append(1)
            raise sqlite3.OperationalError("database or disk is full")

        monkeypatch.setattr(Database, "transaction", full)
        supervisor.link.send(a_rejected(1))
        wait_until(lambda: len(tries) >= 2)
        monkeypatch.setattr(Database, "transaction", whole)
        assert supervisor.wait() == Recorded(acquisition_id=1)


@pytest.mark.parametrize("text", ["half \ud83d of a pair", "zero \0 byte", "'; DROP TABLE results; --"])
def test_any_text_of_the_plant_is_stored(tmp_path, text):
    with running(tmp_path) as supervisor:
        supervisor.wait()
        assert supervisor.ask(a_record(1, part_id=text)) == Recorded(acquisition_id=1)
    assert verify_file(database_path(tmp_path)).problem == ""


def test_impossible_numbers_are_refused_and_later_rows_are_stored(tmp_path):
    with running(tmp_path) as supervisor:
        supervisor.wait()
        arguments = {"acquisition_id": 1 << 70, "judgement": "good"}
        assert supervisor.ask(Command(token=1, name="judge", user="eve", arguments=arguments)).done is False
        assert supervisor.ask(a_record(1)) == Recorded(acquisition_id=1)


def test_ids_that_cannot_be_reserved_are_not_promised(tmp_path, monkeypatch):
    with running(tmp_path) as supervisor:
        supervisor.wait()

        def full(self):
            raise OutputError("ids.json", found="a full disk", action="free some space")

        monkeypatch.setattr(AcquisitionIds, "extend", full)
        assert supervisor.ask(Reserve()) == Opened(next_id=1, reserved=BLOCK)
        assert reserved_ids(tmp_path) == BLOCK


def test_a_finished_picture_is_no_pause_to_tidy_the_database():
    here, other_end = link_pair()
    supervisor, answers, tidied = Link(other_end), Mailbox(), []
    answers.put(PictureDone(slot=3, kept=True))

    def done():
        supervisor.send(End())
        return answers.take()

    pictures = SimpleNamespace(fileno=answers.fileno, done=done)
    database = SimpleNamespace(is_untidy=False, tidy=lambda: tidied.append(True))
    try:
        _Process(here, database, SimpleNamespace(first=1, reserved=1000), pictures).run()
        assert PictureDone(slot=3, kept=True) in supervisor.receive()
    finally:
        answers.close()
        here.close()
        supervisor.close()
    assert tidied == []
