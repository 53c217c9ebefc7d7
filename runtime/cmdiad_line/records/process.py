"""The process that stores results, judgements and the audit log, and reserves acquisition ids.

The process ends with an error if the database cannot be used; the supervisor restarts it, and gives up if that repeats.
Without records no part is OK, so a damaged database stops the station until a person sets it aside.
"""

from __future__ import annotations

import select
import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from typing import Any

from cmdiad_line.records.database import Database, damaged_records, failure, is_damage
from cmdiad_line.records.ids import AcquisitionIds
from cmdiad_line.records.pictures import PictureKeeper
from cmdiad_line.records.rows import RefusedError, Rows
from cmdiad_line.station_file.station import Station
from cmdiad_line.transport.frames import FramePool, frames_path
from cmdiad_line.transport.link import Link
from cmdiad_line.transport.messages import (
    Alive,
    Answer,
    Command,
    Correct,
    End,
    KeepPicture,
    Message,
    NotRecorded,
    Opened,
    Record,
    Recorded,
    Reserve,
)
from cmdiad_runtime.errors import OutputError

ALIVE_S = 0.25
"""Time between signs of life, and longest time to wait for a message, seconds."""

Stored = Record | Correct | Command
"""Messages that add rows."""


def serve(link: Link, station: Station) -> None:
    """Store the messages of the supervisor, until it ends the process.

    Args:
        link: Link to the supervisor.
        station: The station file.

    Raises:
        LinkClosedError: The supervisor has ended.
        OutputError: The records cannot be opened or are damaged, or no ids can be reserved.
    """
    state = station.state
    with closing(Database(state)) as database:
        database.reserve_log()
        ids = AcquisitionIds(state, database.last_id)
        most_waiting = station.frame_slots - station.max_in_work - 1
        frames = partial(FramePool.attach, frames_path(state))
        with PictureKeeper(state, station.pictures, frames, most_waiting) as pictures:
            _Process(link, database, ids, pictures).run()


class _Process:
    def __init__(self, link: Link, database: Database, ids: AcquisitionIds, pictures: PictureKeeper) -> None:
        self._link, self._database, self._ids, self._pictures = link, database, ids, pictures
        self._waiting: list[Stored] = []
        self._alive_s = 0.0

    def run(self) -> None:
        """Work until the supervisor ends the process.

        Raises:
            LinkClosedError: The supervisor has ended.
            DamagedRecordsError: The database is damaged.
        """
        self._link.send(Opened(next_id=self._ids.first, reserved=self._ids.reserved))
        while True:
            self._send_alive()
            ready, _, _ = select.select([self._link.fileno(), self._pictures.fileno()], [], [], ALIVE_S)
            for done in self._pictures.done():
                self._link.send(done)
            messages = self._link.receive() if self._link.fileno() in ready else []
            self._store([message for message in messages if isinstance(message, Stored)])
            for message in messages:
                self._handle(message)
            if any(isinstance(message, End) for message in messages):
                return
            # A picture that is finished is no pause: the row of the next part may be on its way.
            if not ready or self._database.is_untidy:
                self._database.tidy()

    def _send_alive(self) -> None:
        if time.monotonic() - self._alive_s >= ALIVE_S:
            self._alive_s = time.monotonic()
            self._link.send(Alive())

    def _handle(self, message: Message) -> None:
        if isinstance(message, Reserve):
            self._reserve()
        elif isinstance(message, KeepPicture):
            answer = self._pictures.keep(message)
            if answer is not None:
                self._link.send(answer)

    def _store(self, messages: Sequence[Stored]) -> None:
        """Store the content of messages, and answer each of them.

        All of them are one transaction, so a burst costs one flush of the disk. If that fails, messages for whose
        answer somebody waits are refused; the others are tried again together with the next ones.
        """
        waiting = [*self._waiting, *messages]
        if not waiting:
            return
        try:
            with self._database.transaction() as rows:
                refusals = [_apply(rows, message) for message in waiting]
        except sqlite3.Error as error:
            if is_damage(error):
                raise damaged_records(self._database.path, f"a damaged database ({error})") from error
            self._waiting = [message for message in waiting if not _is_urgent(message)]
            for message in filter(_is_urgent, waiting):
                self._answer(message, *failure(error))
            return
        self._waiting = []
        for message, refusal in zip(waiting, refusals, strict=True):
            self._answer(message, "not-recorded" if refusal else "", refusal)

    def _answer(self, message: Stored, reason: str, problem: str) -> None:
        """Answer a message; `problem` is the reason why it was not stored, or ""."""
        if isinstance(message, Command):
            self._link.send(Answer(token=message.token, done=not problem, message=problem or "Stored."))
        elif isinstance(message, Record):
            number = message.result.acquisition_id
            if problem:
                self._link.send(NotRecorded(acquisition_id=number, reason=reason, message=problem))
            else:
                self._link.send(Recorded(acquisition_id=number))

    def _reserve(self) -> None:
        """Reserve ids. On a full disk the answer names the ids that are reserved already."""
        first = self._ids.reserved + 1
        try:
            self._ids.extend()
        except OutputError:
            first = self._ids.first
        self._link.send(Opened(next_id=first, reserved=self._ids.reserved))


def _is_urgent(message: Stored) -> bool:
    """Return True if a part or a person waits for the answer."""
    if isinstance(message, Record):
        return message.result.verdict == "OK"
    return isinstance(message, Command) and message.name != "note"


def _apply(rows: Rows, message: Stored) -> str:
    """Store the content of a message, and return why it was refused, or ""."""
    try:
        if isinstance(message, Record):
            rows.record(message)
        elif isinstance(message, Correct):
            rows.correct(message)
        else:
            _obey(rows, message)
    except (ValueError, OverflowError, sqlite3.IntegrityError) as error:
        return str(error)
    return ""


def _obey(rows: Rows, command: Command) -> None:
    """Store the content of a command.

    Raises:
        RefusedError: The command is unknown, or an argument is missing or wrong.
    """
    arguments = command.arguments
    if command.name == "judge":
        number, judgement = _argument(arguments, "acquisition_id", int), _argument(arguments, "judgement", str)
        rows.judge(number, command.user, judgement, _argument(arguments, "note", str, ""))
    elif command.name == "override":
        number, verdict = _argument(arguments, "acquisition_id", int), _argument(arguments, "verdict", str)
        rows.override(number, command.user, verdict, _argument(arguments, "note", str, ""))
    elif command.name == "note":
        action, subject = _argument(arguments, "action", str), _argument(arguments, "subject", str, "")
        rows.audit(command.user, action, subject, _argument(arguments, "details", dict, {}))
    else:
        raise RefusedError(f"The records store no command {command.name!r:.40}.")


def _argument(arguments: dict[str, Any], name: str, kind: type, default: Any = None) -> Any:
    value = arguments.get(name, default)
    if type(value) is not kind:
        raise RefusedError(f"The argument {name} is {value!r:.60}, expected {kind.__name__}.")
    return value
