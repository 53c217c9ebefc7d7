"""The running processes of a station and their links. Only `receive` and `end` wait."""

from __future__ import annotations

import selectors
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cmdiad_line.supervisor.child import Child, start_child
from cmdiad_line.transport.codec import MessageError
from cmdiad_line.transport.link import LinkClosedError, LinkFullError
from cmdiad_line.transport.messages import End, Message


@dataclass(frozen=True)
class Gone:
    """The end of a process. It ended by itself or was killed.

    Attributes:
        message: Reason as one line for people.
    """

    message: str


class Hub:
    """The running processes.

    Args:
        station_file: Copy of the station file for the processes.
        folder: Folder that relative paths in the file refer to.
    """

    def __init__(self, station_file: Path, folder: Path) -> None:
        self._station_file, self._folder = station_file, folder
        self._children: dict[str, Child] = {}
        self._dying: list[Child] = []
        self._lost: dict[str, str] = {}
        self._last: list[tuple[str, Message | Gone]] = []
        self._selector = selectors.DefaultSelector()

    def watch(self, descriptor: int) -> None:
        """Have `receive` return early when a descriptor becomes readable."""
        self._selector.register(descriptor, selectors.EVENT_READ, None)

    def start(self, name: str) -> None:
        """Start a process. A process of this name that was killed must have ended; see `may_start`."""
        child = start_child(name, self._station_file, self._folder, time.monotonic_ns())
        self._children[name] = child
        self._selector.register(child.link, selectors.EVENT_READ, name)

    def may_start(self, name: str) -> bool:
        """Return True if there is no process of this name, not even one that is being killed.

        The end of a process must have been reported, so that it is not taken for the end of the next one.
        """
        self._dying = [child for child in self._dying if not child.ended()]
        present = {*self._children, *self._lost, *(child.name for child in self._dying)}
        return name not in present

    def child(self, name: str) -> Child | None:
        """Return a process that runs or starts, or None."""
        return self._children.get(name)

    @property
    def children(self) -> Iterable[Child]:
        """Return the processes that run or start."""
        return tuple(self._children.values())

    def send(self, name: str, message: Message) -> None:
        """Send a message to a process, if there is one. One that does not read its messages is killed."""
        child = self._children.get(name)
        if child is None:
            return
        try:
            child.link.send(message)
        except LinkFullError:
            self.lose(name, "it did not read its messages")
        except LinkClosedError:
            self._part_with(child)

    def lose(self, name: str, message: str) -> None:
        """Kill a process. `receive` reports the end. Messages that were not read are dropped."""
        child = self._children.pop(name, None)
        if child is None:
            return
        self._selector.unregister(child.link)
        child.link.close()
        child.kill()
        self._dying.append(child)
        self._lost[name] = message

    def receive(self, timeout_s: float) -> list[tuple[str, Message | Gone]]:
        """Wait for messages, and return those that have arrived with the name of the process."""
        events: list[tuple[str, Message | Gone]] = []
        for key, _ in self._selector.select(0 if self._lost else timeout_s):
            child = self._children.get(key.data) if key.data else None
            if child is None or child.link is not key.fileobj:
                continue
            try:
                messages = child.link.receive()
            except LinkClosedError:
                self._part_with(child)
            except MessageError as error:
                self.lose(child.name, f"it sent a wrong message ({error})")
            else:
                child.heard_ns = time.monotonic_ns()
                events.extend((child.name, message) for message in messages)
        for child in self.children:
            if child.ended():  # Another process may have inherited its link.
                self._part_with(child)
        events.extend(self._last)
        self._last.clear()
        events.extend((name, Gone(message)) for name, message in self._lost.items())
        self._lost.clear()
        return events

    def _part_with(self, child: Child) -> None:
        """Keep the last messages of a process that has ended by itself, for `receive`, and lose the process."""
        with suppress(LinkClosedError, MessageError):
            while messages := child.link.receive():
                self._last.extend((child.name, message) for message in messages)
        self.lose(child.name, "The process has ended.")

    def end(self, seconds: float) -> None:
        """End all processes: ask first, and kill what has not ended in time."""
        for child in self.children:
            self.send(child.name, End())
        limit = time.monotonic() + seconds
        while time.monotonic() < limit and not all(child.ended() for child in self.children):
            time.sleep(0.01)
        for child in self.children:
            self.lose(child.name, "the station ends")
        for child in self._dying:
            child.process.wait()
        self._lost.clear()
        self._selector.close()
