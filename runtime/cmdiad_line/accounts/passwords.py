"""Argon2id hashes of passwords. One is computed at a time, because each needs 64 MiB of memory."""

from __future__ import annotations

import secrets
import threading
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argon2 import PasswordHasher

_ONE_AT_A_TIME = threading.Lock()


@cache
def _hasher() -> PasswordHasher:
    from argon2 import PasswordHasher

    return PasswordHasher()  # The second recommended option of RFC 9106: 64 MiB, three passes.


def hash_password(password: str) -> str:
    """Return the hash of a password, with salt and parameters, as text."""
    with _ONE_AT_A_TIME:
        return _hasher().hash(password)


def matches(password_hash: str, password: str) -> bool:
    """Return True if a password has this hash. A damaged hash matches nothing."""
    from argon2.exceptions import InvalidHashError, VerificationError

    with _ONE_AT_A_TIME:
        try:
            return _hasher().verify(password_hash, password)
        except (InvalidHashError, VerificationError):
            return False


@cache
def unknown_hash() -> str:
    """Return the hash of a random password, to verify against for unknown names, so that they take the same time."""
    return hash_password(secrets.token_urlsafe())
