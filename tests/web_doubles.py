"""Doubles for the web process: a supervisor that answers at once, and recorded results in memory."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from fastapi.testclient import TestClient
from PIL import Image

from cmdiad_line.accounts.account import Account
from cmdiad_line.accounts.store import AccountStore
from cmdiad_line.accounts.tokens import new_token
from cmdiad_line.recipes.store import RecipeStore
from cmdiad_line.records.database import Database
from cmdiad_line.records.picture_places import OVERLAY, RGB, part_folder
from cmdiad_line.records.rows import Rows
from cmdiad_line.station_file.records import Records
from cmdiad_line.station_file.web import Web
from cmdiad_line.transport.link import LinkFullError
from cmdiad_line.transport.messages import Answer, Command, Message, Record, Result, Trigger, Triggered
from cmdiad_line.web.application import make_application
from cmdiad_line.web.desk import Desk
from cmdiad_line.web.guard import Guard
from cmdiad_line.web.history import History
from cmdiad_line.web.services import Services
from cmdiad_line.web.sessions import Sessions
from cmdiad_line.web.shift import ShiftCounter
from station_messages import part_result, station_state

PASSWORD = "four random words"

READY = station_state(
    processes={"acquisition": "running", "inspection": "running"},
    counters={"triggers": 3, "missed": 1, "late": 0, "restarts": 0, "reconnects": 0, "pictures_skipped": 0},
)


def make_result(number: int, verdict: str = "OK", reason: str = "", **changes: Any) -> Result:
    """Return a result of part `number`."""
    passed = verdict == "OK"
    values: dict[str, Any] = {
        "reason": reason,
        "message": "" if passed else "The score 1.2 exceeds the threshold 1.",
        "score": 0.8 if passed else 1.2,
        "part_id": f"P{number}",
        "time": "2026-11-26T10:00:00+00:00",
        "timings_ms": {"acquired": 5.0, "inspected": 12.0, "recorded": 13.0, "published": 14.0},
    }
    return part_result(number, "OK" if passed else "NG", **{**values, **changes})


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class StationRecords:
    """The records of a station, as its records process would write them."""

    def __init__(self, state: Path) -> None:
        self.state = state
        Database(state).close()
        self.history = History(state, near_share=0.1)

    def add(self, result: Result) -> None:
        self._write(lambda rows: rows.record(make_record(result)))

    def judge(self, acquisition_id: int, user: str, judgement: str, note: str = "") -> None:
        self._write(lambda rows: rows.judge(acquisition_id, user, judgement, note))

    def audit(self, user: str, action: str, subject: str, details: dict[str, Any]) -> None:
        self._write(lambda rows: rows.audit(user, action, subject, details))

    def keep_picture(self, acquisition_id: int, picture: bytes) -> Path:
        """Store a picture of a recorded part, and return its folder."""
        result = self.history.result(acquisition_id)
        assert result is not None
        folder = part_folder(self.state, acquisition_id, result.time)
        folder.mkdir(parents=True)
        for name in (RGB, OVERLAY):
            (folder / name).write_bytes(picture)
        return folder

    def _write(self, change: Callable[[Rows], None]) -> None:
        database = Database(self.state)
        try:
            with database.transaction() as rows:
                change(rows)
        finally:
            database.close()


def make_record(result: Result) -> Record:
    """Return the order to store a result."""
    return Record(result=result, sensors={"camera": "S1"}, engine="onnxruntime", triggered_ns=1)


class Supervisor:
    """Answers triggers and commands of a desk at once, in the loop of the caller."""

    def __init__(self) -> None:
        self.desk = Desk(self.send, 0.1, Clock())
        self.sent: list[Message] = []
        self.verdict: Callable[[int], Result | None] = make_result
        self.refusal = ""
        self.full = False
        self.silent = False
        self.number = 0

    @property
    def commands(self) -> list[Command]:
        return [message for message in self.sent if isinstance(message, Command)]

    def send(self, message: Message) -> None:
        if self.full:
            raise LinkFullError
        self.sent.append(message)
        if isinstance(message, Trigger):
            self.number += 1
            self.desk.receive(Triggered(token=message.token, acquisition_id=self.number, accepted=True))
            result = self.verdict(self.number)
            if result is not None:
                self.desk.receive(replace(result, part_id=message.part_id, channel="web"))
        elif isinstance(message, Command) and not self.silent:
            self.desk.receive(Answer(token=message.token, done=not self.refusal, message=self.refusal or "Done."))


class WebStation:
    """The application of a station with doubles around it."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.supervisor = Supervisor()
        self.records = StationRecords(folder)
        self.clock = Clock()
        self.accounts = AccountStore(folder / "accounts.sqlite", lambda: self.clock.now)
        self.tokens = {role: new_token(f"{role}-program", role) for role in ("operator", "engineer", "admin")}
        self.services = Services(
            name="Line 7",
            state_folder=folder,
            settings=Web(**settings),
            desk=self.supervisor.desk,
            history=self.records.history,
            recipes=RecipeStore(folder),
            records=Records(),
            accounts=self.accounts,
            sessions=Sessions(1800, 43200, self.clock),
            shift=ShiftCounter(("06:00", "14:00", "22:00")),
            tokens=tuple(token for _, token in self.tokens.values()),
        )
        self.application: Guard = make_application(self.services)

    def client(self, role: str = "") -> TestClient:
        """Return a browser without cookies, or a program if `role` is given."""
        headers = {"Authorization": f"Bearer {self.tokens[role][0]}"} if role else {"Accept": "text/html"}
        return TestClient(self.application, base_url="http://localhost", headers=headers, follow_redirects=False)

    def signed_in(self, role: str) -> TestClient:
        """Return a browser in which a person with a role is signed in, without hashing a password."""
        store = self.accounts
        if store.account(role) is None:
            store.add(role, role, PASSWORD, author="test")
        account = store.account(role)
        assert isinstance(account, Account)
        client = self.client()
        client.cookies.set("cmdiad", self.services.sessions.begin(account))
        return client


def form_token(page: str) -> str:
    """Return the secret of the first form of a page."""
    return page.split('name="form_token" value="')[1].split('"', maxsplit=1)[0]


def png(shade: int = 120) -> bytes:
    """Return a small picture."""
    buffer = io.BytesIO()
    Image.new("RGB", (32, 24), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()
