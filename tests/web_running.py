"""A web process that really runs, in a thread, with a scripted supervisor at the other end of its link."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cmdiad_line.station_file.recipe import Recipe
from cmdiad_line.station_file.source import PushSource, SimulatedSource
from cmdiad_line.station_file.station import Station
from cmdiad_line.station_file.web import Web
from cmdiad_line.transport.link import Link, LinkClosedError, link_pair
from cmdiad_line.transport.messages import Alive, Answer, Command, End, Message, Ready, StationState, Trigger, Triggered
from cmdiad_line.web import connections, desk, process
from cmdiad_line.web.address_file import ADDRESS_FILE
from patience import LIMIT_S, wait_until
from web_doubles import READY, StationRecords, make_result


class RunningWeb:
    """A running web process. The test plays the supervisor."""

    def __init__(self, link: Link, state: Path, records: StationRecords) -> None:
        self.link = link
        self.state = state
        self.records = records
        self.received: list[Message] = []
        self.answers = True
        self.lives = True
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._supervise)
        self._thread.start()

    @property
    def url(self) -> str:
        """Address of the pages, without a slash at the end."""
        file = self.state / ADDRESS_FILE
        wait_until(file.exists, "the file with the address")
        return str(json.loads(file.read_text(encoding="utf-8"))["url"]).rstrip("/")

    def send(self, message: Message) -> None:
        with self._lock:
            self.link.send(message)

    def publish(
        self, number: int, verdict: str = "OK", reason: str = "", *, picture: bytes | None = None, **changes: Any
    ) -> None:
        """Inspect a part: in work, recorded, with its picture if there is one, published."""
        result = make_result(number, verdict, reason, **changes)
        self.send(replace(READY, in_work=1))
        self.records.add(result)
        if picture is not None:
            self.records.keep_picture(number, picture)
        self.send(result)
        self.send(READY)

    def state_is(self, **changes: Any) -> None:
        """Send a state of the station."""
        state: StationState = replace(READY, **changes)
        self.send(state)

    def commands(self) -> list[Command]:
        return [message for message in self.received if isinstance(message, Command)]

    def stop_supervising(self) -> None:
        """End the thread that reads the link; the link stays open."""
        self._stop.set()
        self._thread.join()

    def _supervise(self) -> None:
        number = 1000
        while not self._stop.is_set():
            try:
                messages = self.link.receive()
            except LinkClosedError:
                return
            for message in messages:
                self.received.append(message)
                if isinstance(message, Command) and self.answers:
                    if message.name == "judge":
                        self.records.judge(user=message.user, **message.arguments)
                    self.send(Answer(token=message.token, done=True, message="Done."))
                elif isinstance(message, Trigger):
                    number += 1
                    self.send(Triggered(token=message.token, acquisition_id=number, accepted=True))
                    self.send(make_result(number, part_id=message.part_id, channel="web"))
            if self.lives:
                self.send(Alive())
            time.sleep(0.02)


def make_station(folder: Path, **settings: Any) -> Station:
    """Return a station with a section `[web]` on a free port."""
    state = folder / "state"
    state.mkdir(exist_ok=True)
    bundle = folder / "gear.cmdiad"
    bundle.mkdir(exist_ok=True)
    source = PushSource(kind="push") if settings.pop("push", False) else SimulatedSource(kind="simulated")
    return Station(
        name="Line 7",
        state=state,
        file=folder / "station.toml",
        recipe=Recipe(bundle=bundle, id="gear"),
        sources=(source,),
        web=Web(port=0, **settings),
    )


@contextmanager
def running_web(
    folder: Path, *, silence_s: float = LIMIT_S, request_s: float = LIMIT_S, **settings: Any
) -> Iterator[RunningWeb]:
    """Run a web process until the block ends.

    Args:
        folder: Folder of the station.
        silence_s: Seconds without a message after which the supervisor counts as gone.
        request_s: Longest time in seconds in which a request must come.
        settings: Keys of the section `[web]`, and `push`; see `make_station`.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(desk, "SILENCE_S", silence_s)
        patch.setattr(connections, "REQUEST_S", request_s)
        with _running(folder, **settings) as web:
            yield web


@contextmanager
def _running(folder: Path, **settings: Any) -> Iterator[RunningWeb]:
    station = make_station(folder, **settings)
    records = StationRecords(station.state)
    here, there = link_pair()
    thread = threading.Thread(target=process.serve, args=(Link(there), station))
    thread.start()
    web = RunningWeb(here, station.state, records)
    try:
        wait_until(lambda: any(isinstance(message, Ready) for message in web.received), "Ready")
        web.send(READY)
        yield web
    finally:
        with suppress(LinkClosedError):
            web.send(End())
        thread.join(LIMIT_S)
        web.stop_supervising()
        here.close()
        there.close()
        assert not thread.is_alive()
