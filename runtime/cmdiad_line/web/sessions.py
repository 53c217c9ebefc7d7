"""Sign-ins of people, kept in memory. A restart of the process signs everybody out."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from cmdiad_line.accounts.account import Account

LARGEST_NUMBER = 200
"""Largest number of sign-ins; a further one ends the one that was not used for the longest time."""


@dataclass(kw_only=True)
class Session:
    """Sign-in of a person in one browser.

    Attributes:
        name: Name of the account.
        revision: Revision of the account when the person signed in.
        form_token: Secret that every form of this session contains, against forged requests.
        began: Time of signing in, monotonic seconds.
        used: Time of the last request of the person, monotonic seconds.
    """

    name: str
    revision: int
    form_token: str
    began: float
    used: float


class Sessions:
    """All sign-ins. Several threads may use one object.

    Args:
        idle_s: Seconds without a request after which engineers and admins are signed out.
        longest_s: Seconds after signing in after which anybody is signed out.
        clock: Monotonic clock in seconds; for tests.
    """

    def __init__(self, idle_s: float, longest_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._idle_s = idle_s
        self._longest_s = longest_s
        self._clock = clock
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}
        self._secret = secrets.token_bytes(32)

    def begin(self, account: Account) -> str:
        """Begin a session and return its id, for the cookie. Only the hash of the id is kept."""
        identifier, now = secrets.token_urlsafe(32), self._clock()
        form_token = secrets.token_urlsafe(32)
        session = Session(name=account.name, revision=account.revision, form_token=form_token, began=now, used=now)
        with self._lock:
            while len(self._sessions) >= LARGEST_NUMBER:
                del self._sessions[min(self._sessions, key=lambda key: self._sessions[key].used)]
            self._sessions[_key(identifier)] = session
        return identifier

    def find(self, identifier: str) -> Session | None:
        """Return the session of a cookie, or None if there is none."""
        with self._lock:
            return self._sessions.get(_key(identifier))

    def keep(self, session: Session, account: Account, *, touch: bool) -> bool:
        """Return True if a session is still valid for an account.

        Args:
            session: The session.
            account: Present state of the account.
            touch: True for a request of the person, False for a page that updates itself.
        """
        now = self._clock()
        if account.disabled or account.revision != session.revision:
            return False
        if now - session.began > self._longest_s:
            return False
        if account.role != "operator" and now - session.used > self._idle_s:
            return False
        if touch:
            session.used = now
        return True

    def end(self, identifier: str) -> None:
        """End a session. Idempotent."""
        with self._lock:
            self._sessions.pop(_key(identifier), None)

    def token_before_sign_in(self, nonce: str) -> str:
        """Return the secret of the sign-in form for the random cookie of a browser that has no session yet."""
        return hmac.new(self._secret, nonce.encode(), hashlib.sha256).hexdigest()


def _key(identifier: str) -> str:
    return hashlib.sha256(identifier.encode()).hexdigest()
