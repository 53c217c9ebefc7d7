"""The queue from a thread to a loop: it wakes the loop, loses nothing and never blocks the thread."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest

from cmdiad_line.transport.mailbox import Mailbox


@pytest.fixture
def mailbox() -> Iterator[Mailbox[int]]:
    mailbox: Mailbox[int] = Mailbox()
    yield mailbox
    mailbox.close()


def is_readable(mailbox: Mailbox[int]) -> bool:
    return bool(select.select([mailbox.fileno()], [], [], 0)[0])


def test_loop_is_woken_until_it_has_taken_everything(mailbox):
    assert not is_readable(mailbox)
    mailbox.put(1)
    mailbox.put(2)
    assert is_readable(mailbox)
    assert mailbox.take() == [1, 2]
    assert not is_readable(mailbox)
    assert mailbox.take() == []


def test_thread_is_not_blocked_by_a_loop_that_takes_nothing(mailbox):
    count = 100_000
    for number in range(count):
        mailbox.put(number)
    assert is_readable(mailbox)
    assert mailbox.take() == list(range(count))


def test_thread_may_put_after_the_end(mailbox):
    mailbox.close()
    mailbox.put(1)
