"""Progress on stderr: one rewritten line on a terminal, sparse lines in a log."""

from __future__ import annotations

import io
import time
from contextlib import redirect_stderr

import pytest

from cmdiad_runtime.support.progress import LOG_SECONDS, TerminalReporter, about


@pytest.fixture
def log() -> io.StringIO:
    return io.StringIO()


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", clock)
    return clock


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Text that is written to a terminal; install with `redirect_stderr` in the test, where pytest captures too."""
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    return terminal


def test_terminal_rewrites_one_line_for_one_step(terminal: io.StringIO) -> None:
    with redirect_stderr(terminal):
        reporter = TerminalReporter()
        for done in (0, 5, 10):
            reporter.step("reading", done, 10)
    text = terminal.getvalue()
    assert text.count("\n") == 0
    assert text.count("\r\x1b[2K") == 3
    last = text.rsplit("\x1b[2K", maxsplit=1)[1]
    assert last == f"{'reading':<40} {'█' * 20} 10/10"
    assert f"{'█' * 10:<20} 5/10" in text


def test_time_of_the_same_step_starts_again_for_the_next_bundle(log: io.StringIO, clock: Clock) -> None:
    with redirect_stderr(log):
        reporter = TerminalReporter()
        for _ in range(3):
            for done in range(1, 9):
                clock.now += 1
                reporter.step("inspect test samples", done, 8)
            clock.now += 100  # other work
    assert log.getvalue() == "inspect test samples: 8/8 (7 s)\n" * 3


def test_terminal_starts_a_new_line_for_a_new_step(terminal: io.StringIO) -> None:
    with redirect_stderr(terminal):
        reporter = TerminalReporter()
        reporter.step("reading", 1, 1)
        reporter.step("epochs", 0, 3)
    assert terminal.getvalue().count("\n") == 1


def test_text_in_brackets_is_detail_of_one_step(terminal: io.StringIO) -> None:
    with redirect_stderr(terminal):
        reporter = TerminalReporter()
        reporter.step("engine (parsing)", 1, 100)
        reporter.step("engine (writing)", 100, 100)
    assert "\n" not in terminal.getvalue()


def test_line_of_text_ends_the_rewritten_line(terminal: io.StringIO) -> None:
    with redirect_stderr(terminal):
        reporter = TerminalReporter()
        reporter.step("reading", 1, 2)
        reporter.say("note")
        reporter.step("reading", 2, 2)
        reporter.close()
        reporter.close()
    lines = terminal.getvalue().split("\n")
    assert len(lines) == 4
    assert lines[1] == "note"
    assert lines[2].endswith("2/2")
    assert lines[3] == ""


def test_empty_step_is_shown_without_a_division_by_zero(terminal: io.StringIO) -> None:
    with redirect_stderr(terminal):
        TerminalReporter().step("reading", 0, 0)
    assert terminal.getvalue().endswith("0/0")


def test_log_has_the_end_of_a_step_only(log: io.StringIO, clock: Clock) -> None:
    with redirect_stderr(log):
        reporter = TerminalReporter()
        for done in range(5):
            clock.now = float(done)
            reporter.step("reading", done, 4)
        reporter.close()
    assert log.getvalue() == "reading: 4/4 (4 s)\n"


def test_log_of_a_long_step_has_sparse_lines(log: io.StringIO, clock: Clock) -> None:
    with redirect_stderr(log):
        reporter = TerminalReporter()
        for done in range(4):
            clock.now = done * (LOG_SECONDS + 1)
            reporter.step("reading", done, 100)
            reporter.step("reading", done, 100)
    assert log.getvalue().splitlines() == [
        "reading: 1/100 (11 s)",
        "reading: 2/100 (22 s, about 18 min left)",
        "reading: 3/100 (33 s, about 18 min left)",
    ]


def test_slow_first_parts_give_no_estimate(log: io.StringIO, clock: Clock) -> None:
    """The first of many parts take longer than the others: two percent must be measured, and the later half counts."""
    with redirect_stderr(log):
        reporter = TerminalReporter()
        for now, done in ((0, 0), (11, 42), (12, 400), (13, 800), (40, 25000)):
            clock.now = float(now)
            reporter.step("choose main bank", done, 25000)
    assert log.getvalue().splitlines() == [
        "choose main bank: 42/25000 (11 s)",
        "choose main bank: 800/25000 (13 s, about 1 min left)",
        "choose main bank: 25000/25000 (40 s)",
    ]


def test_log_has_lines_of_text_at_once(log: io.StringIO) -> None:
    with redirect_stderr(log):
        TerminalReporter().say("note")
    assert log.getvalue() == "note\n"


def test_log_has_an_estimate_of_long_work_as_soon_as_two_parts_are_measured(log: io.StringIO, clock: Clock) -> None:
    """The first part took place before the step was reported, so only the later ones are measured."""
    with redirect_stderr(log):
        reporter = TerminalReporter()
        for done in range(1, 6):
            clock.now = 2.0 * done
            reporter.step("reading", done, 100)
    assert log.getvalue() == "reading: 3/100 (4 s, about 3 min left)\n"


def test_terminal_shows_the_time_left(terminal: io.StringIO, clock: Clock) -> None:
    with redirect_stderr(terminal):
        reporter = TerminalReporter()
        for done in range(11):
            clock.now = 3.0 * done
            reporter.step("reading", done, 10)
    shown = [text.split("/10")[1] for text in terminal.getvalue().split("\r")[1:]]
    assert shown[:3] == ["", "", ", about 20 s left"]
    assert shown[-2:] == ["", ""]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (6, "about 10 s"),
        (44, "about 40 s"),
        (70, "about 1 min"),
        (250, "about 4 min"),
        (3570, "about 1 h"),
        (7900, "about 2 h 10 min"),
    ],
)
def test_estimates_claim_no_more_than_they_know(seconds: float, text: str) -> None:
    assert about(seconds) == text
