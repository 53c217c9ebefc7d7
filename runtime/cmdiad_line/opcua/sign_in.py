"""Sign-in of OPC UA clients with the accounts of the station."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from cmdiad_line.accounts.account import Account
from cmdiad_line.accounts.store import AccountStore
from cmdiad_line.opcua.sessions import StationUser
from cmdiad_runtime.errors import CmdiadError

FAILURES = 5
"""Number of failed attempts in `WINDOW_S` after which no attempt is checked."""
WINDOW_S = 10.0
"""Seconds for which a failed attempt counts."""

log = logging.getLogger("cmdiad.line.opcua")


class SignIn:
    """A check of names and passwords that limits failed attempts.

    A check computes an Argon2 hash in the loop that also answers the other clients. The limit prevents an attacker who
    tries passwords from blocking the loop. Clients that are signed in are not affected.

    Args:
        store: Accounts of the station.
        now: Clock in seconds; for tests.
    """

    def __init__(self, store: AccountStore, now: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._now = now
        self._failures: deque[float] = deque(maxlen=FAILURES)

    def get_user(
        self, iserver: object, username: str | None = None, password: str | None = None, certificate: Any = None
    ) -> StationUser | None:
        """Return the user if name and password are right, else None. The name of the method is asyncua's."""
        if not username or not password or self._busy():
            return None
        account = self._account(username, password)
        if account is None:
            self._failures.append(self._now())
            log.warning("refused the sign-in of %r over OPC UA", username[:60])
            return None
        return StationUser(account)

    def present(self, account: Account) -> Account | None:
        """Return the account if nobody has changed or disabled it since its client signed in, else None."""
        try:
            return account if self._store.account(account.name) == account and not account.disabled else None
        except CmdiadError as error:
            log.error("%s", error)
            return None

    def _busy(self) -> bool:
        return len(self._failures) == FAILURES and self._now() - self._failures[0] < WINDOW_S

    def _account(self, username: str, password: str) -> Account | None:
        try:
            return self._store.sign_in(username, password)
        except CmdiadError as error:
            log.error("%s", error)
            return None
