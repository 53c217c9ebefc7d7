"""Copies of account changes in the station's audit log, including changes from the command line."""

from __future__ import annotations

import asyncio
import contextlib

from cmdiad_line.accounts.account import AccountError
from cmdiad_line.web.desk import NoAnswerError
from cmdiad_line.web.services import Services

_PERIOD_S = 2.0


async def copy_changes(services: Services) -> None:
    """Copy new changes every two seconds until the process ends; a change that was not stored is tried again."""
    while not services.ending:
        with contextlib.suppress(AccountError):  # The page that needs the accounts reports the problem.
            await copy_once(services)
        await asyncio.sleep(_PERIOD_S)


async def copy_once(services: Services) -> None:
    """Copy the changes that are not in the audit log yet, in their order, until one is refused or not answered."""
    for change in await asyncio.to_thread(services.accounts.unnoted):
        details = {"details": change.details, "changed_at": change.time}
        arguments = {"action": change.action, "subject": change.name, "details": details}
        try:
            answer = await services.desk.command("note", change.author, arguments)
        except NoAnswerError:
            return
        if not answer.done:
            return
        await asyncio.to_thread(services.accounts.mark_noted, change.number)
