"""State and results that the supervisor has sent, and requests that wait for an answer. For one asyncio loop."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

from cmdiad_line.transport.in_time import in_time, late_note
from cmdiad_line.transport.link import LinkClosedError, LinkFullError
from cmdiad_line.transport.messages import Alive, Answer, Command, Message, Result, StationState, Trigger, Triggered

SILENCE_S = 2.0
"""Seconds without any message after which the supervisor counts as gone. It sends a sign of life every 0.4 s."""
KEPT_RESULTS = 200
"""Number of results in memory."""
_ANSWER_S = 330.0
"""Longest wait for the answer to a command; loading a recipe and its self-test take a while."""


class NoAnswerError(TimeoutError):
    """The supervisor did not answer in time. The command may still be carried out."""


class NotTakenError(NoAnswerError):
    """The supervisor did not receive the request, so nothing changes."""


@dataclass(frozen=True, kw_only=True)
class SeenResult:
    """Result and the time of its arrival.

    Attributes:
        result: The result.
        at: Time of arrival in seconds of a monotonic clock.
    """

    result: Result
    at: float


class Desk:
    """State and last results of the station, and open requests to the supervisor.

    Args:
        send: Function that sends a message to the supervisor.
        deadline_s: Seconds from a trigger to its result.
        clock: Monotonic clock in seconds; for tests.

    Attributes:
        results: Last results by acquisition id, oldest arrival first. Results that were sent again do not count twice.
        version: Number that grows with every message.
    """

    def __init__(
        self, send: Callable[[Message], None], deadline_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._state: StationState | None = None
        self.results: OrderedDict[int, SeenResult] = OrderedDict()
        self.version = 0
        self.clock = clock
        self._heard = clock()
        self._send = send
        self._patience_s = deadline_s + 5.0
        self._tokens = count(1)
        # A request is removed with its last reference, when no caller waits for it any more.
        self._waiting: WeakValueDictionary[tuple[str, int], asyncio.Future[Any]] = WeakValueDictionary()
        self._listeners: list[Callable[[Result], None]] = []
        self._changed = asyncio.Event()

    def on_result(self, listener: Callable[[Result], None]) -> None:
        """Call a function with every new result."""
        self._listeners.append(listener)

    def receive(self, message: Message) -> None:
        """Process a message of the supervisor."""
        self._heard = self.clock()
        if isinstance(message, Alive):
            return
        if isinstance(message, StationState):
            self._state = message
        elif isinstance(message, Result):
            self._take(message)
        elif isinstance(message, Triggered):
            self._resolve("trigger", message.token, message)
        elif isinstance(message, Answer):
            self._resolve("command", message.token, message)
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    @property
    def state(self) -> StationState | None:
        """Present state of the station; None before the first one, and while the supervisor is silent."""
        return self._state if self.clock() - self._heard <= SILENCE_S else None

    async def wait_for_change(self, version: int, seconds: float) -> None:
        """Return as soon as there is a newer version, or after this number of seconds."""
        if self.version != version:
            return
        try:
            await asyncio.wait_for(self._changed.wait(), seconds)
        except asyncio.TimeoutError:
            return

    async def trigger(self, part_id: str) -> Result:
        """Trigger an inspection and return its one result.

        Raises:
            NoAnswerError: The supervisor did not answer. The part counts as NG.
        """
        order = Trigger(token=next(self._tokens), part_id=part_id, sent_ns=time.monotonic_ns())
        triggered: Triggered = await self._request("trigger", order, self._patience_s)
        return await self.result(triggered.acquisition_id)

    async def result(self, acquisition_id: int) -> Result:
        """Return the result of a trigger as soon as it is published. An OK after its deadline becomes NG.

        Raises:
            NoAnswerError: There was no result. The part counts as NG.
        """
        result: Result
        if acquisition_id in self.results:
            result = self.results[acquisition_id].result
        else:
            result = await self._wait(self._expect("result", acquisition_id), self._patience_s)
        shown = in_time(result, time.monotonic_ns())
        if shown is not result:
            with contextlib.suppress(LinkClosedError, LinkFullError):
                self._send(late_note(shown, "web"))
        return shown

    async def command(self, name: str, user: str, arguments: dict[str, Any]) -> Answer:
        """Send a command in the name of a person, and return the answer.

        Raises:
            NotTakenError: The supervisor does not read, or is gone.
            NoAnswerError: The supervisor did not answer in time.
        """
        order = Command(token=next(self._tokens), name=name, user=user, arguments=arguments)
        answer: Answer = await self._request("command", order, _ANSWER_S)
        return answer

    def newest(self) -> SeenResult | None:
        """Return the result of the newest part, or None. A replayed result is never the newest."""
        return self.results[max(self.results)] if self.results else None

    def _take(self, result: Result) -> None:
        if result.acquisition_id in self.results:
            return
        self._resolve("result", result.acquisition_id, result)
        if result.replayed:
            return
        self.results[result.acquisition_id] = SeenResult(result=result, at=self.clock())
        while len(self.results) > KEPT_RESULTS:
            self.results.popitem(last=False)
        for listener in self._listeners:
            listener(result)

    async def _request(self, kind: str, order: Trigger | Command, seconds: float) -> Any:
        """Send an order and return its answer.

        Raises:
            NotTakenError: The supervisor does not read, or is gone.
            NoAnswerError: The supervisor did not answer in time.
        """
        answer = self._expect(kind, order.token)
        try:
            self._send(order)
        except (LinkClosedError, LinkFullError) as error:
            raise NotTakenError("The station takes no requests now. Look at the state of the station.") from error
        return await self._wait(answer, seconds)

    def _expect(self, kind: str, number: int) -> asyncio.Future[Any]:
        """Return a future that `_resolve` completes; several callers may wait for the same result."""
        future = self._waiting.get((kind, number))
        if future is None:
            future = asyncio.get_running_loop().create_future()
            self._waiting[kind, number] = future
        return future

    def _resolve(self, kind: str, number: int, message: Message) -> None:
        future = self._waiting.pop((kind, number), None)
        if future is not None and not future.done():
            future.set_result(message)

    @staticmethod
    async def _wait(future: asyncio.Future[Any], seconds: float) -> Any:
        done, _ = await asyncio.wait({future}, timeout=seconds)
        if not done:
            raise NoAnswerError("The station did not answer in time. Look at the state of the station.")
        return future.result()
