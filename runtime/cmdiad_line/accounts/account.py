"""An account of a person, the roles, and the rules for names and passwords."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from cmdiad_runtime.errors import CmdiadError

Role = Literal["operator", "engineer", "admin"]
"""Role of an account; each role may do all that the roles before it may do."""
ROLES: tuple[Role, ...] = get_args(Role)

SHORTEST_PASSWORD = 10
"""Smallest number of characters of a password."""
LONGEST_PASSWORD = 200
"""Largest number of characters of a password."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,39}")
_CHANNELS = frozenset(["plc", "opcua", "mqtt", "web", "acquisition", "records", "inspection", "supervisor", "station"])
"""Names of processes, which appear as users in the audit log."""


class AccountError(CmdiadError):
    """An account cannot be created, changed or used."""

    exit_code = 3


@dataclass(frozen=True, kw_only=True)
class Account:
    """Account of a person.

    Attributes:
        name: Name of the account.
        role: Role of the account.
        disabled: True if nobody can sign in with this account.
        revision: Number that grows with every change of password, role or state, so that older sign-ins end.
    """

    name: str
    role: Role
    disabled: bool
    revision: int

    def may(self, role: Role) -> bool:
        """Return True if the account may do what a role may do."""
        return not self.disabled and includes(self.role, role)


def includes(role: Role, needed: Role) -> bool:
    """Return True if a role may do what another role may do."""
    return ROLES.index(role) >= ROLES.index(needed)


def check_name(name: str) -> None:
    """Raise AccountError unless a text can be the name of an account."""
    if not _NAME.fullmatch(name) or name.lower() in _CHANNELS:
        raise AccountError(
            "name",
            found=repr(name[:60]),
            expected="1 to 40 letters, digits, dots, hyphens or underscores, and no name of a process",
            action="choose another name",
        )


def check_role(role: str) -> None:
    """Raise AccountError unless a text is a role."""
    if role not in ROLES:
        raise AccountError("role", found=repr(role[:60]), expected=f"one of {', '.join(ROLES)}", action="choose a role")


def check_password(name: str, password: str) -> None:
    """Raise AccountError unless a text can be the password of an account. The message never contains the password."""
    long_enough = SHORTEST_PASSWORD <= len(password) <= LONGEST_PASSWORD
    if not long_enough or password.lower() == name.lower() or len(set(password)) < 4:
        raise AccountError(
            "password",
            found=f"{len(password)} characters" if not long_enough else "a password that is easy to guess",
            expected=f"{SHORTEST_PASSWORD} to {LONGEST_PASSWORD} characters, at least 4 different ones, not the name",
            action="choose another password, for example four random words",
        )
