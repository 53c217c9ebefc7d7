"""A running station for tests, with real processes for sensors, inspection and records, and the test as its PLC."""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import cmdiad_line.supervisor.start as start_module
import cmdiad_line.supervisor.supervisor as supervisor_module
from cmdiad_line.station_file.read import read_station
from cmdiad_line.supervisor.child import Child
from cmdiad_line.supervisor.hub import Hub
from cmdiad_line.supervisor.supervisor import Supervisor
from cmdiad_line.transport.link import Link, LinkClosedError, LinkFullError, link_pair
from cmdiad_line.transport.messages import (
    Acknowledge,
    AcquisitionDone,
    Alive,
    Answer,
    Command,
    Message,
    Ready,
    Result,
    StationState,
    Trigger,
    Triggered,
)
from patience import LIMIT_S, wait_until


def write_station_file(folder: Path, bundle: Path, data: Path, **changes: Mapping[str, Any]) -> Path:
    """Write a station file with a simulated sensor. Keywords are sections, with the keys to add.

    The times are the longest ones: a test may freeze a process, and other programs may occupy the machine.
    """
    sections: dict[str, dict[str, Any]] = {
        "station": {
            "name": "test",
            "state": str(folder / "state"),
            "frame_megapixels": 0.1,
            "restarts_per_minute": 1000,
            "deadline_ms": 600_000,
            "hang_ms": 600_000,
        },
        "recipe": {"bundle": str(bundle), "id": "gear"},
        "[source]": {
            "kind": "simulated",
            "data": str(data),
            "fault_file": str(folder / "faults"),
            "timeout_ms": 60_000,
        },
        "modbus": {"port": 0, "silent_ms": 60_000},
    }
    for name, keys in changes.items():
        section = sections.setdefault("[source]" if name == "source" else name, {})
        section.update(keys)
    text = "\n".join(
        f"[{name}]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
        for name, keys in sections.items()
    )
    file = folder / "station.toml"
    file.write_text(text, encoding="utf-8")
    return file


class NoProcess:
    """A process of the system that does nothing, and ends when it is killed."""

    pid = -1

    def __init__(self) -> None:
        self.killed = False

    def kill(self) -> None:
        self.killed = True

    def poll(self) -> int | None:
        return 0 if self.killed else None

    def wait(self) -> int:
        return 0


class Plc:
    """The test in the place of the PLC process."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._link: Link | None = None
        self._token = 0
        self.ids: dict[int, Triggered] = {}
        self.results: dict[int, list[Result]] = {}
        self.arrived: dict[int, float] = {}
        self.answers: dict[int, Answer] = {}
        self.done: list[int] = []
        self.states: list[StationState] = []
        self.starts = 0
        self.acknowledges = True
        self._ending = False
        threading.Thread(target=self._listen, daemon=True).start()

    def connect(self, link: Link) -> None:
        with self._changed:
            self._link = link
            self.starts += 1
            link.send(Ready())
            self._changed.notify_all()

    def close(self) -> None:
        self._ending = True

    def send(self, message: Message) -> None:
        """Send a message, after a restart as soon as the new link is there."""
        with self._changed:
            self.wait_for(lambda: self._link is not None)
            assert self._link is not None
            self._link.send(message)

    def drop(self) -> None:
        """End like a process that is killed: the supervisor starts another one."""
        with self._changed:
            assert self._link is not None
            self._link.close()
            self._link = None

    def trigger(self, part_id: str = "") -> int:
        """Trigger, and return the acquisition id."""
        with self._changed:
            self._token += 1
            token = self._token
        self.send(Trigger(token=token, part_id=part_id))
        self.wait_for(lambda: token in self.ids)
        return self.ids[token].acquisition_id

    def result(self, part: int) -> Result:
        """Wait for the result of a part."""
        self.wait_for(lambda: part in self.results)
        return self.results[part][0]

    def inspect(self) -> Result:
        """Trigger, and return the result."""
        return self.result(self.trigger())

    def wait_captured(self, part: int) -> None:
        """Wait until the sensor is free for the next part."""
        self.wait_for(lambda: part in self.done)

    def forget(self, part: int) -> None:
        """Drop the messages about a part and those before, so that a long run needs no more memory."""
        with self._changed:
            del self.results[part], self.arrived[part], self.states[:-1]
            self.done = [entry for entry in self.done if entry > part]
            self.ids = {token: answer for token, answer in self.ids.items() if answer.acquisition_id > part}

    def command(self, name: str, **arguments: Any) -> Answer:
        """Send a command, and return the answer."""
        with self._changed:
            self._token += 1
            token = self._token
        self.send(Command(token=token, name=name, user="test", arguments=arguments))
        self.wait_for(lambda: token in self.answers)
        return self.answers[token]

    def wait_for(self, condition: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(condition, LIMIT_S), "this has not happened in time"

    def wait_ready(self) -> None:
        self.wait_for(lambda: bool(self.states) and self.states[-1].phase == "ready")

    def state(self) -> StationState:
        return self.states[-1]

    def _listen(self) -> None:
        while not self._ending:
            with self._changed:
                link = self._link
            if link is None:
                time.sleep(0.002)
                continue
            with suppress(OSError, ValueError):  # The link was closed meanwhile.
                select.select([link.fileno()], [], [], 0.1)
            with self._changed:
                if link is self._link:
                    self._receive(link)
        if self._link is not None:
            self._link.close()

    def _receive(self, link: Link) -> None:
        """Take the messages that have arrived, also the last ones of a station that has ended; give a sign of life."""
        try:
            for message in link.receive():
                self._take(message, link)
            link.send(Alive())
        except (LinkClosedError, LinkFullError):
            link.close()
            self._link = None
        self._changed.notify_all()

    def _take(self, message: Message, link: Link) -> None:
        if isinstance(message, Triggered):
            self.ids[message.token] = message
        elif isinstance(message, Result):
            self.results.setdefault(message.acquisition_id, []).append(message)
            self.arrived.setdefault(message.acquisition_id, time.perf_counter())
            if self.acknowledges:
                with suppress(LinkClosedError, LinkFullError):
                    link.send(Acknowledge(acquisition_id=message.acquisition_id))
        elif isinstance(message, AcquisitionDone):
            self.done.append(message.acquisition_id)
        elif isinstance(message, Answer):
            self.answers[message.token] = message
        elif isinstance(message, StationState):
            self.states.append(message)


class RunningStation:
    """A station whose supervisor runs in a thread of the test."""

    def __init__(self, file: Path, plc: Plc) -> None:
        self.plc = plc
        self.station = read_station(file)
        self.faults = file.parent / "faults"
        self.supervisor: Supervisor | None = None
        self.exit_code: int | None = None
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def end(self) -> int | None:
        """End the station in order, and return its exit code."""
        if self.supervisor is not None:
            self.supervisor.end()
        return self.wait()

    def wait(self) -> int | None:
        self._thread.join(LIMIT_S)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.exit_code

    def pid(self, name: str) -> int:
        child = self.hub.child(name)
        assert child is not None
        return child.process.pid

    def runs(self, name: str, *, but: int = 0) -> bool:
        """Return True if a process takes orders, and is another one than that with the id `but`."""
        child = self.hub.child(name)
        return child is not None and child.ready and child.process.pid != but

    @property
    def hub(self) -> Hub:
        assert self.supervisor is not None
        return self.supervisor._hub

    def stage(self, part: int) -> str:
        """Return the stage of a part in work."""
        assert self.supervisor is not None
        entry = self.supervisor._dispatch._parts.get(part)
        return "done" if entry is None else entry.stage

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        os.kill(self.pid(name), number)

    @contextmanager
    def frozen(self, name: str) -> Iterator[int]:
        """Stop a process where it is, like a call into native code that does not return; yield its process id."""
        process = self.pid(name)
        os.kill(process, signal.SIGSTOP)
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGCONT)

    def wait_ok(self) -> None:
        """Wait until the station is ready and finds a good part OK."""
        self.plc.wait_ready()
        wait_until(lambda: self.plc.inspect().verdict == "OK")

    def wait_stage(self, part: int, stage: str) -> None:
        wait_until(lambda: self.stage(part) == stage)

    def _run(self) -> None:
        try:
            self.exit_code = start_module.run_station(self.station)
        except BaseException as error:
            self.error = error


@contextmanager
def running_station(file: Path) -> Iterator[RunningStation]:
    """Run a station with the test as its PLC process, and end it afterwards."""
    plc = Plc()
    running = RunningStation(file, plc)

    class TestHub(Hub):
        def start(self, name: str) -> None:
            if name != "plc":
                super().start(name)
                return
            link, other_end = link_pair()
            process: Any = NoProcess()
            child = Child(name=name, process=process, link=link, heard_ns=time.monotonic_ns())
            self._children[name] = child
            self._selector.register(link, 1, name)
            plc.connect(Link(other_end))

    class TestSupervisor(Supervisor):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            running.supervisor = self

    start_limit_ns = supervisor_module._START_LIMIT_NS
    supervisor_module.Hub = TestHub  # type: ignore[misc]
    supervisor_module._START_LIMIT_NS = int(LIMIT_S * 1e9)
    start_module.Supervisor = TestSupervisor  # type: ignore[misc, assignment]
    try:
        running.start()
        yield running
    finally:
        running.end()
        plc.close()
        supervisor_module.Hub = Hub  # type: ignore[misc]
        supervisor_module._START_LIMIT_NS = start_limit_ns
        start_module.Supervisor = Supervisor  # type: ignore[misc]


def main(arguments: list[str]) -> None:
    """Run a station in this process, trigger without a pause, and print "ID VERDICT" for every result.

    For tests that kill the whole station. The argument is the station file; a second one limits the number of triggers.
    """
    with running_station(Path(arguments[0])) as station:
        station.plc.wait_ready()
        print("ready", flush=True)
        for _ in range(int(arguments[1]) if len(arguments) > 1 else 1 << 40):
            result = station.plc.inspect()
            print(result.acquisition_id, result.verdict, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
