"""The vision system, which follows the messages of the supervisor and executes the methods of clients.

One consumer receives the messages of the supervisor and does everything that depends on their order. A method sends a
request and waits until the consumer has received its answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any, Protocol

from cmdiad_line.opcua.job import Job
from cmdiad_line.opcua.results import Entry, ResultStore
from cmdiad_line.opcua.state import Step, VisionState, steps, vision_state
from cmdiad_line.transport.in_time import in_time, late_note
from cmdiad_line.transport.link import LinkFullError
from cmdiad_line.transport.messages import (
    AcquisitionDone,
    Answer,
    Command,
    Message,
    Result,
    StationState,
    Trigger,
    Triggered,
)

ANSWER_S = 30.0
"""Seconds to wait for the answer to a request. The supervisor answers a trigger within milliseconds."""


class WrongStateError(Exception):
    """The state of the vision system does not allow a method."""


class Shown(Protocol):
    """Receiver of what clients see; `events.Publisher` in a running server."""

    async def show(self, state: VisionState) -> None:
        """Show the present state."""

    async def changed(self, step: Step, cause: str, message: str) -> None:
        """Report one transition."""

    async def ready(self, job: str) -> None:
        """Report that a job has ended."""

    async def job_started(self, job: str) -> None:
        """Report that a job has started."""

    async def acquisition_done(self, job: str) -> None:
        """Report that a part may move."""

    async def recipe_prepared(self, recipe: str) -> None:
        """Report that a recipe is loaded."""

    async def result_ready(self, entry: Entry) -> None:
        """Report a result."""


class VisionSystem:
    """The vision system behind the address space.

    Args:
        send: Function that sends a message to the supervisor.
        shown: Receiver of states, events and results.
        results: Store of the newest results.
    """

    def __init__(self, send: Callable[[Message], None], shown: Shown, results: ResultStore) -> None:
        self._send = send
        self._shown = shown
        self.results = results
        self.station: StationState | None = None
        self.job: Job | None = None
        self.state = VisionState("Preoperational")
        self._tokens = count(1)
        self._waiting: dict[int, asyncio.Future[Triggered | Answer]] = {}
        self._job_ids: OrderedDict[int, str] = OrderedDict()
        self._turn = asyncio.Lock()

    async def receive(self, message: Message) -> None:
        """Follow one message of the supervisor; call in the order of arrival."""
        if isinstance(message, StationState):
            await self._follow(message)
        elif isinstance(message, Triggered):
            await self._start_single(message)
            self._resolve(message)
        elif isinstance(message, AcquisitionDone):
            await self._shown.acquisition_done(self._job_id(message.acquisition_id))
        elif isinstance(message, Result):
            await self._publish(message)
        elif isinstance(message, Answer):
            self._resolve(message)

    async def start_single_job(self, user: str, part_id: str, meas_id: str, recipe_id: str) -> Triggered:
        """Trigger one part, and return the answer of the station.

        If the client asks for a recipe that is not active, it is activated first.

        Raises:
            WrongStateError: The automatic mode is not Ready, or the recipe cannot be activated.
        """
        self.require_mode("Ready")
        self.job = job = Job(kind="single", recipe_id=recipe_id)
        try:
            await self._activate(user, recipe_id)
            token = next(self._tokens)
            answer = await self._ask(
                Trigger(token=token, part_id=part_id, meas_id=meas_id, sent_ns=time.monotonic_ns()), token
            )
        except BaseException:  # Also if the client disconnects while it waits.
            if self.job is job and not job.running:
                self.job = None
            raise
        assert isinstance(answer, Triggered)
        return answer

    async def start_continuous(self, user: str, recipe_id: str) -> str:
        """Open a job for all parts that other channels trigger until `stop`, and return its id.

        Raises:
            WrongStateError: The automatic mode is not Ready, or the recipe cannot be activated.
        """
        self.require_mode("Ready")
        self.job = job = Job(kind="continuous", recipe_id=recipe_id, job_id=f"continuous-{uuid.uuid4().hex[:12]}")
        try:
            await self._activate(user, recipe_id)
        except BaseException:
            self.job = None
            raise
        job.running = True
        await self._shown.job_started(job.job_id)
        await self._update("StartContinuous")
        return job.job_id

    async def stop(self) -> None:
        """End a continuous job. A single job ends by itself, at its deadline at the latest.

        Raises:
            WrongStateError: No job is running.
        """
        self.require_mode("SingleExecution", "ContinuousExecution")
        if self.job is not None and self.job.kind == "continuous":
            await self._end_job("Stop")

    async def abort(self, user: str) -> Answer:
        """Answer all parts in work with NG, end the job, and accept triggers again.

        Raises:
            WrongStateError: No job is running.
        """
        self.require_mode("SingleExecution", "ContinuousExecution")
        return await self._abort(user)

    async def reset(self, user: str) -> Answer:
        """Leave Halted or Error; in Operational, abort the parts in work.

        Raises:
            WrongStateError: The system is Preoperational.
        """
        if self.state.system == "Preoperational":
            raise WrongStateError("the station starts")
        if self.state.system == "Operational":
            return await self._abort(user)
        return await self.command("reset" if self.state.system == "Error" else "start", user)

    async def command(self, name: str, user: str, arguments: dict[str, Any] | None = None) -> Answer:
        """Send a command and return its answer.

        Raises:
            TimeoutError: There is no answer within `ANSWER_S`. The command may still take effect.
        """
        token = next(self._tokens)
        answer = await self._ask(Command(token=token, name=name, user=user, arguments=arguments or {}), token)
        assert isinstance(answer, Answer)
        return answer

    def require_mode(self, *modes: str) -> None:
        """Raise WrongStateError unless the automatic mode is one of these and no other method starts a job."""
        starting = self.job is not None and not self.job.running
        if self.state.mode not in modes or starting:
            raise WrongStateError(f"{self.state.system} {self.state.mode}, expected {' or '.join(modes)}")

    async def _abort(self, user: str) -> Answer:
        job = self.job
        answer = await self.command("abort", user)
        if answer.done:
            answer = await self.command("start", user)
        if job is not None and job is self.job:
            await self._end_job("Abort")
        return answer

    async def _activate(self, user: str, recipe_id: str) -> None:
        if recipe_id and self.station is not None and recipe_id != self.station.recipe_id:
            answer = await self.command("activate", user, {"recipe_id": recipe_id})
            if not answer.done:
                raise WrongStateError(answer.message)

    async def _ask(self, message: Message, token: int) -> Triggered | Answer:
        """Send a message and return the answer with its token."""
        self._waiting[token] = asyncio.get_running_loop().create_future()
        try:
            self._send(message)
            return await asyncio.wait_for(self._waiting[token], ANSWER_S)
        finally:
            del self._waiting[token]

    def _resolve(self, answer: Triggered | Answer) -> None:
        future = self._waiting.get(answer.token)
        if future is not None and not future.done():
            future.set_result(answer)

    async def _follow(self, station: StationState) -> None:
        """Follow a state of the station."""
        known = set(self.station.prepared) if self.station is not None else set()
        self.station = station
        for recipe in station.prepared:
            if recipe not in known:
                await self._shown.recipe_prepared(recipe)
        if station.phase != "ready" and self.job is not None and self.job.running and self.job.kind == "continuous":
            self.job = None
        await self._update("")

    async def _start_single(self, triggered: Triggered) -> None:
        """Show that the single job has started. The trigger's result may already be the next message."""
        if self.job is None or self.job.kind != "single" or triggered.token not in self._waiting:
            return
        self.job.acquisition_id = triggered.acquisition_id
        self.job.job_id = str(triggered.acquisition_id)
        self.job.running = True
        await self._shown.job_started(self.job.job_id)
        await self._update("StartSingleJob")

    async def _publish(self, result: Result) -> None:
        """Store and report a result; the job of a single part ends with it."""
        job = self.job
        ends = job is not None and job.acquisition_id == result.acquisition_id
        shown = in_time(result, time.monotonic_ns())
        if shown is not result:
            with contextlib.suppress(LinkFullError):  # The log lacks an entry; the plant has its NG.
                self._send(late_note(shown, "opcua"))
        entry = Entry(result=_checked(shown, job), job_id=self._job_id(result.acquisition_id))
        if self.results.add(entry):
            await self._shown.result_ready(entry)
        if ends:
            await self._end_job("")

    async def _end_job(self, cause: str) -> None:
        job, self.job = self.job, None
        assert job is not None
        await self._update(cause)
        await self._shown.ready(job.job_id)

    async def _update(self, cause: str) -> None:
        """Show the state that follows from the station and the job, with every transition on the way."""
        async with self._turn:
            kind = self.job.kind if self.job is not None and self.job.running else None
            before, after = self.state, vision_state(self.station, kind)
            if after == before:
                return
            self.state = after
            await self._shown.show(after)
            message = self.station.message if self.station is not None and after.system != "Operational" else ""
            for step in steps(before, after):
                await self._shown.changed(step, cause, message)

    def _job_id(self, acquisition_id: int) -> str:
        """Return the id of the job that a part belongs to; the same for all messages about the part."""
        if acquisition_id not in self._job_ids:
            job = self.job
            continuous = job is not None and job.running and job.kind == "continuous"
            self._job_ids[acquisition_id] = job.job_id if continuous and job is not None else str(acquisition_id)
            while len(self._job_ids) > self.results.keep:
                self._job_ids.popitem(last=False)
        return self._job_ids[acquisition_id]


def _checked(result: Result, job: Job | None) -> Result:
    """Return the result, as NG if the client asked for another recipe than the one that was used.

    Another channel may activate a recipe between the request and the trigger. An OK of that recipe is not an OK for
    the client's job.
    """
    asked = job.recipe_id if job is not None and job.running else ""
    other = asked and result.recipe_id != asked
    mine = job is not None and (job.kind == "continuous" or job.acquisition_id == result.acquisition_id)
    if result.verdict != "OK" or not other or not mine:
        return result
    message = f"The job asked for recipe {asked}, and the part was inspected with {result.recipe_id}."
    return replace(result, verdict="NG", reason="recipe-changed", message=message)
