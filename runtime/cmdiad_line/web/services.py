"""The parts of the web process in one object, which the application passes to each request."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import cast

from fastapi import Request

from cmdiad_line.accounts.store import AccountStore
from cmdiad_line.accounts.tokens import Token
from cmdiad_line.recipes.store import RecipeStore
from cmdiad_line.station_file.records import Records
from cmdiad_line.station_file.web import Web
from cmdiad_line.web.desk import Desk
from cmdiad_line.web.history import History
from cmdiad_line.web.push import Push
from cmdiad_line.web.sessions import Sessions
from cmdiad_line.web.shift import ShiftCounter


@dataclass(kw_only=True)
class Services:
    """Parts of the web process.

    Attributes:
        name: Name of the station.
        state_folder: State folder of the station.
        settings: Section `[web]` of the station file.
        desk: State of the station and requests to the supervisor.
        history: Recorded results.
        recipes: Recipes of the station.
        records: Section `[records]` of the station file.
        accounts: Accounts of people.
        sessions: Sign-ins of people.
        tokens: Tokens of programs.
        shift: Counters of the present shift.
        push: Sender of uploads to the acquisition, or None if no source takes uploads.
        ending: True when the process ends, so that open streams end too.
    """

    name: str
    state_folder: Path
    settings: Web
    desk: Desk
    history: History
    recipes: RecipeStore
    records: Records
    accounts: AccountStore
    sessions: Sessions
    shift: ShiftCounter
    tokens: tuple[Token, ...] = ()
    push: Push | None = None
    ending: bool = False


def services_of(request: Request) -> Services:
    """Return the services of the application that serves a request."""
    return cast("Services", request.app.state.services)
