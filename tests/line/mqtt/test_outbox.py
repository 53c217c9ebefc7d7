"""The store of results for the broker: order, bounds, restarts, damage."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmdiad_line.mqtt.outbox import FILE_NAME, Outbox


def open_outbox(folder, *, count=100, size=10_000):
    return Outbox(folder, largest_count=count, largest_bytes=size)


@pytest.fixture
def outbox(tmp_path):
    outbox = open_outbox(tmp_path)
    yield outbox
    outbox.close()


def test_messages_keep_their_order_over_a_restart(tmp_path, outbox):
    for number in range(5):
        outbox.add(b"%d" % number)
    outbox.remove(outbox.after(0, 1)[0][0])
    outbox.close()
    again = open_outbox(tmp_path)
    assert [payload for _, payload in again.after(0, 10)] == [b"1", b"2", b"3", b"4"]
    assert (again.count, again.size, again.dropped) == (4, 4, 0)
    again.add(b"5")
    assert [payload for _, payload in again.after(again.after(0, 2)[1][0], 10)] == [b"3", b"4", b"5"]
    again.close()


def test_oldest_messages_are_dropped_and_counted(tmp_path):
    outbox = open_outbox(tmp_path, count=3)
    for number in range(5):
        outbox.add(b"%d" % number)
    assert [payload for _, payload in outbox.after(0, 10)] == [b"2", b"3", b"4"]
    outbox.close()
    again = open_outbox(tmp_path, count=3)
    assert again.dropped == 2
    again.close()


def test_size_is_bounded_too(tmp_path):
    outbox = open_outbox(tmp_path, size=10)
    for letter in (b"a", b"b", b"c"):
        outbox.add(letter * 4)
    assert [payload for _, payload in outbox.after(0, 10)] == [b"bbbb", b"cccc"]
    outbox.add(b"d" * 11)
    assert outbox.dropped == 2 and outbox.count == 2, "a message that can never fit removes no other"
    outbox.close()


def test_dropped_message_can_be_confirmed(tmp_path):
    outbox = open_outbox(tmp_path, count=1)
    outbox.add(b"a")
    number = outbox.after(0, 1)[0][0]
    outbox.add(b"b")
    outbox.remove(number)
    assert (outbox.count, outbox.size) == (1, 1)
    outbox.close()


def test_damaged_file_is_set_aside(tmp_path):
    (tmp_path / FILE_NAME).write_bytes(b"no database, but longer than a header" * 100)
    outbox = open_outbox(tmp_path)
    outbox.add(b"a")
    assert outbox.count == 1
    assert (tmp_path / f"{FILE_NAME}.damaged").read_bytes().startswith(b"no database")
    outbox.close()


def test_file_that_cannot_be_opened_now_is_kept(tmp_path, outbox):
    outbox.add(b"a")
    outbox.close()
    obstacle = tmp_path / f"{FILE_NAME}-wal"
    obstacle.mkdir()
    with pytest.raises(sqlite3.OperationalError):
        open_outbox(tmp_path)
    obstacle.rmdir()
    again = open_outbox(tmp_path)
    assert [payload for _, payload in again.after(0, 10)] == [b"a"]
    again.close()


def test_full_disk_drops_the_message_but_nothing_else(tmp_path, outbox):
    outbox.add(b"a")
    outbox._database.execute("PRAGMA max_page_count = 1")  # The same error as a full disk.
    for _ in range(3):
        outbox.add(b"b" * 9000)
    assert outbox.dropped == 3 and outbox.count == 1
    assert [payload for _, payload in outbox.after(0, 10)] == [b"a"]


def test_full_store_on_a_full_disk_keeps_what_it_has(tmp_path):
    outbox = open_outbox(tmp_path, count=2)
    for payload in (b"a", b"b"):
        outbox.add(payload)
    outbox._database.execute("PRAGMA max_page_count = 1")
    for _ in range(3):
        outbox.add(b"c" * 9000)
    assert (outbox.count, outbox.size, outbox.dropped) == (2, 2, 3)
    assert [payload for _, payload in outbox.after(0, 10)] == [b"a", b"b"]
    outbox.close()


@pytest.mark.failure_mode("A full disk while results wait for the MQTT broker")
def test_confirmed_message_on_a_full_disk_is_removed_later(tmp_path, outbox, caplog):
    for payload in (b"a", b"b", b"c"):
        outbox.add(payload)
    outbox._database.execute("PRAGMA query_only = 1")  # Every change fails, as on a full disk.
    numbers = [number for number, _ in outbox.after(0, 10)]
    for number in numbers[:2]:
        outbox.remove(number)
    assert (outbox.count, outbox.size) == (3, 3)
    assert caplog.text.count("cannot be stored") == 1, "reported once, not for every part"
    outbox._database.execute("PRAGMA query_only = 0")
    outbox.remove(numbers[2])
    assert (outbox.count, outbox.size, outbox.after(0, 10)) == (0, 0, [])
    assert "can be stored again" in caplog.text


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 10), max_size=20),
    removed=st.sets(st.integers(0, 19)),
    bounds=st.tuples(st.integers(1, 6), st.integers(12, 40)),
)
def test_totals_agree_with_the_content(tmp_path_factory, sizes, removed, bounds):
    outbox = Outbox(tmp_path_factory.mktemp("outbox"), largest_count=bounds[0], largest_bytes=bounds[1])
    confirmed = 0
    for step, size in enumerate(sizes):
        outbox.add(b"%02d" % step + b"x" * size)
        if step in removed:
            outbox.remove(outbox.after(0, 1)[0][0])
            confirmed += 1
        kept = [payload for _, payload in outbox.after(0, 100)]
        assert (len(kept), sum(map(len, kept))) == (outbox.count, outbox.size)
        assert outbox.count <= bounds[0] and outbox.size <= bounds[1]
        assert kept == sorted(kept)
        assert len(kept) + outbox.dropped + confirmed == step + 1
    outbox.close()
