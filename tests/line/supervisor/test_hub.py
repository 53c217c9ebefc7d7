"""The hub never blocks, and notices the end of every process."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from cmdiad_line.supervisor.child import Child, start_child
from cmdiad_line.supervisor.hub import Gone, Hub
from cmdiad_line.transport.link import Link, LinkClosedError, link_pair
from cmdiad_line.transport.messages import Alive, End, Failed, Message
from patience import LIMIT_S
from stations import NoProcess


class HubOfLinks(Hub):
    """A hub whose processes are links of the test."""

    def __init__(self) -> None:
        super().__init__(*[None, None])  # type: ignore[arg-type]
        self.ends: dict[str, Link] = {}
        self.processes: dict[str, NoProcess] = {}

    def start(self, name: str) -> None:
        link, other_end = link_pair()
        process: Any = NoProcess()
        self.ends[name], self.processes[name] = Link(other_end), process
        self._children[name] = Child(name=name, process=process, link=link, heard_ns=0)
        self._selector.register(link, 1, name)

    def wait(self) -> list[tuple[str, Message | Gone]]:
        limit = time.monotonic() + LIMIT_S
        while time.monotonic() < limit:
            if events := self.receive(0.01):
                return events
        raise AssertionError("nothing came")


@pytest.fixture
def hub() -> Iterator[HubOfLinks]:
    hub = HubOfLinks()
    hub.start("web")
    yield hub
    hub.end(0)
    for end in hub.ends.values():
        end.close()


def test_messages_come_with_the_name_of_the_process(hub):
    hub.ends["web"].send(Alive())
    assert hub.wait() == [("web", Alive())]
    child = hub.child("web")
    assert child is not None
    assert child.heard_ns > 0


def test_last_words_come_before_the_end(hub):
    hub.ends["web"].send(Failed(message="no port"))
    hub.ends["web"].close()
    assert hub.wait() == [("web", Failed(message="no port"))]
    assert hub.wait() == [("web", Gone("The process has ended."))]
    assert hub.child("web") is None


def test_last_words_are_read_although_sending_notices_the_end(hub):
    hub.ends["web"].send(Failed(message="no port"))
    hub.ends["web"].close()
    hub.send("web", Alive())
    assert hub.child("web") is None
    assert hub.wait() == [("web", Failed(message="no port")), ("web", Gone("The process has ended."))]


def test_last_words_are_read_although_the_system_reports_the_end_first(hub):
    """The process sends and ends between the wait for messages and the check whether it has ended."""

    def ended_after_last_words() -> bool:
        hub.ends["web"].send(Failed(message="no port"))
        hub.child("web").ended = hub.processes["web"].kill
        hub.processes["web"].killed = True
        return True

    hub.child("web").ended = ended_after_last_words
    assert hub.wait() == [("web", Failed(message="no port")), ("web", Gone("The process has ended."))]


def test_process_that_does_not_read_is_killed(hub):
    for _ in range(1 << 20):
        hub.send("web", Failed(message="x" * 1000))
        if hub.child("web") is None:
            break
    assert hub.processes["web"].killed
    assert [event for _, event in hub.wait()] == [Gone("it did not read its messages")]


def test_nonsense_ends_a_process(hub):
    hub.ends["web"]._socket.send(b"nonsense")
    ((name, event),) = hub.wait()
    assert (name, isinstance(event, Gone)) == ("web", True)
    assert hub.processes["web"].killed


def test_end_is_noticed_although_another_process_holds_the_link(hub):
    hub.processes["web"].killed = True
    assert hub.wait() == [("web", Gone("The process has ended."))]


def test_process_is_started_again_only_after_its_end(hub):
    process = hub.processes["web"]
    process.kill = lambda: None  # type: ignore[method-assign]
    hub.lose("web", "hung")
    assert not hub.may_start("web")
    process.killed = True
    assert not hub.may_start("web"), "its end would be taken for that of the next one"
    assert hub.wait() == [("web", Gone("hung"))]
    assert hub.may_start("web")


def test_message_to_a_process_that_does_not_run_is_dropped(hub):
    hub.send("mqtt", Alive())


def test_end_asks_first(hub):
    hub.end(0.05)
    assert hub.ends["web"].receive() == [End()]
    with pytest.raises(LinkClosedError):
        hub.ends["web"].receive()


def test_process_imports_nothing_from_the_present_folder(tmp_path, monkeypatch):
    """A file in the folder where a person starts the station must not run as part of the station."""
    (tmp_path / "selectors.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    (tmp_path / "click.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.chdir(tmp_path)
    child = start_child("records", tmp_path / "missing.toml", tmp_path, time.monotonic_ns())
    try:
        child.process.wait()
        messages = child.link.receive()
    finally:
        child.link.close()
    assert [type(message) for message in messages] == [Failed]
    assert not (tmp_path / "ran").exists()
