"""The accounts of a station: one SQLite file in the state folder, which several processes may use at the same time.

Every change of an account is also a row of `changes`. The web process copies these rows into the station's audit log,
so that a change on the command line appears there too.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from cmdiad_line.accounts.account import Account, AccountError, check_name, check_password, check_role
from cmdiad_line.accounts.lock_out import is_locked
from cmdiad_line.accounts.passwords import hash_password, matches, unknown_hash
from cmdiad_runtime.printable import cause_of

FILE_NAME = "accounts.sqlite"
"""Name of the file in the state folder."""
_WAIT_S = 5.0
_TABLES = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS accounts (
    name TEXT PRIMARY KEY COLLATE NOCASE,
    role TEXT NOT NULL CHECK (role IN ('operator', 'engineer', 'admin')),
    password_hash TEXT NOT NULL,
    disabled INTEGER NOT NULL DEFAULT 0,
    revision INTEGER NOT NULL DEFAULT 1,
    failures INTEGER NOT NULL DEFAULT 0,
    last_failure_s REAL NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE IF NOT EXISTS changes (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    time TEXT NOT NULL,
    author TEXT NOT NULL,
    action TEXT NOT NULL,
    name TEXT NOT NULL,
    details TEXT NOT NULL,
    noted INTEGER NOT NULL DEFAULT 0
) STRICT;
COMMIT;
"""
"""Statements that create all tables in one transaction, so that no process finds a file with only one of them."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """Change of an account.

    Attributes:
        number: Number of the change, from 1.
        time: Time in UTC, ISO 8601.
        author: Name of the account that made the change, or "command line".
        action: "account add", "account role", "account password", "account disable", "account enable" or
            "account locked".
        name: Name of the changed account.
        details: One line for people, or "".
    """

    number: int
    time: str
    author: str
    action: str
    name: str
    details: str


class AccountStore:
    """Accounts in one SQLite file, which is created when first used, readable by its owner only.

    Args:
        path: File.
        now: Clock that returns wall-clock seconds; for tests.
    """

    def __init__(self, path: Path, now: Callable[[], float] = time.time) -> None:
        self.path = path
        self._now = now

    def accounts(self) -> list[Account]:
        """Return all accounts, by name."""
        with self._transaction("DEFERRED") as database:
            rows = database.execute("SELECT name, role, disabled, revision FROM accounts ORDER BY name").fetchall()
        return [_account(row) for row in rows]

    def account(self, name: str) -> Account | None:
        """Return an account, or None if there is none of this name."""
        with self._transaction("DEFERRED") as database:
            return _read(database, name)

    def add(self, name: str, role: str, password: str, *, author: str) -> None:
        """Create an account.

        Raises:
            AccountError: Name, role or password is refused, or the name is taken.
        """
        check_name(name)
        check_role(role)
        check_password(name, password)
        password_hash = hash_password(password)
        with self._transaction() as database:
            if _read(database, name) is not None:
                raise AccountError("name", found=f"{name!r}, which exists", action="choose another name")
            values = (name, role, password_hash)
            database.execute("INSERT INTO accounts (name, role, password_hash) VALUES (?, ?, ?)", values)
            self._note(database, author, "account add", name, f"role {role}")

    def set_password(self, name: str, password: str, *, author: str) -> None:
        """Change the password of an account, end its sign-ins and its lock.

        Raises:
            AccountError: There is no such account, or the password is refused.
        """
        check_password(name, password)
        password_hash = hash_password(password)
        with self._transaction() as database:
            account = _existing(database, name)
            update = "UPDATE accounts SET password_hash = ?, revision = revision + 1, failures = 0 WHERE name = ?"
            database.execute(update, (password_hash, account.name))
            self._note(database, author, "account password", account.name, "")

    def set_role(self, name: str, role: str, *, author: str) -> None:
        """Change the role of an account, and end its sign-ins.

        Raises:
            AccountError: There is no such account or role, or no admin would be left.
        """
        check_role(role)
        with self._transaction() as database:
            account = _existing(database, name)
            update = "UPDATE accounts SET role = ?, revision = revision + 1 WHERE name = ?"
            database.execute(update, (role, account.name))
            _require_admin(database, account)
            self._note(database, author, "account role", account.name, f"{account.role} -> {role}")

    def set_disabled(self, name: str, disabled: bool, *, author: str) -> None:
        """Disable or enable an account. Disabling ends its sign-ins.

        Raises:
            AccountError: There is no such account, or no admin would be left.
        """
        with self._transaction() as database:
            account = _existing(database, name)
            update = "UPDATE accounts SET disabled = ?, revision = revision + 1 WHERE name = ?"
            database.execute(update, (int(disabled), account.name))
            _require_admin(database, account)
            self._note(database, author, "account disable" if disabled else "account enable", account.name, "")

    def sign_in(self, name: str, password: str) -> Account | None:
        """Return the account if name and password are right and the account is neither locked nor disabled.

        Every attempt takes the time of one hash. An attempt counts as a failure until its password was verified, so
        guesses made at the same time are all counted.
        """
        with self._transaction() as database:
            password_hash = self._begin_attempt(database, name)
        right = matches(password_hash or unknown_hash(), password[:1000])
        if password_hash is None or not right:
            return None
        with self._transaction() as database:
            # A password or state that was changed while the hash was computed counts.
            check = "UPDATE accounts SET failures = 0 WHERE name = ? AND password_hash = ? AND disabled = 0"
            done = database.execute(check, (name, password_hash)).rowcount == 1
            return _read(database, name) if done else None

    def unnoted(self) -> list[Change]:
        """Return the changes that are not in the station's audit log yet, oldest first."""
        columns = "number, time, author, action, name, details"
        with self._transaction("DEFERRED") as database:
            rows = database.execute(f"SELECT {columns} FROM changes WHERE noted = 0 ORDER BY number").fetchall()  # noqa: S608
        return [
            Change(number=number, time=moment, author=author, action=action, name=name, details=details)
            for number, moment, author, action, name, details in rows
        ]

    def mark_noted(self, number: int) -> None:
        """Store that a change is in the station's audit log."""
        with self._transaction() as database:
            database.execute("UPDATE changes SET noted = 1 WHERE number = ?", (number,))

    def _begin_attempt(self, database: sqlite3.Connection, name: str) -> str | None:
        """Count an attempt to sign in; return the hash to verify, or None if the attempt is refused."""
        now = self._now()
        select = "SELECT password_hash, disabled, failures, last_failure_s FROM accounts WHERE name = ?"
        row = database.execute(select, (name,)).fetchone()
        if row is None:
            return None
        password_hash, disabled, failures, last_failure_s = row
        if last_failure_s > now:
            database.execute("UPDATE accounts SET last_failure_s = ? WHERE name = ?", (now, name))
        if disabled or is_locked(failures, last_failure_s, now):
            return None
        count = "UPDATE accounts SET failures = failures + 1, last_failure_s = ? WHERE name = ?"
        database.execute(count, (now, name))
        if is_locked(failures + 1, now, now):
            self._note(database, "station", "account locked", name, f"{failures + 1} attempts to sign in")
        return str(password_hash)

    def _note(self, database: sqlite3.Connection, author: str, action: str, name: str, details: str) -> None:
        moment = datetime.fromtimestamp(self._now(), timezone.utc).isoformat(timespec="seconds")
        insert = "INSERT INTO changes (time, author, action, name, details) VALUES (?, ?, ?, ?, ?)"
        database.execute(insert, (moment, author, action, name, details))

    @contextmanager
    def _transaction(self, kind: str = "IMMEDIATE") -> Iterator[sqlite3.Connection]:
        """Yield the open database inside a transaction, which is undone if the block raises.

        Args:
            kind: "IMMEDIATE" to write, "DEFERRED" to read next to a writer.
        """
        database = None
        try:
            os.close(os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
            database = sqlite3.connect(self.path, timeout=_WAIT_S, isolation_level=None)
            if database.execute("SELECT count(*) FROM sqlite_master").fetchone() == (0,):
                database.executescript(_TABLES)
            database.execute(f"BEGIN {kind}")
            yield database
            database.execute("COMMIT")
        except (OSError, sqlite3.Error) as error:
            raise AccountError(
                self.path,
                found=f"a file of accounts that cannot be used ({cause_of(error)})",
                action="check the state folder, its owner and the free space",
            ) from error
        finally:
            if database is not None:
                database.close()  # This undoes a transaction that was not committed.


def _account(row: tuple[str, str, int, int]) -> Account:
    name, role, disabled, revision = row
    return Account(name=name, role=role, disabled=bool(disabled), revision=revision)  # type: ignore[arg-type]


def _read(database: sqlite3.Connection, name: str) -> Account | None:
    select = "SELECT name, role, disabled, revision FROM accounts WHERE name = ?"
    row = database.execute(select, (name,)).fetchone()
    return None if row is None else _account(row)


def _existing(database: sqlite3.Connection, name: str) -> Account:
    account = _read(database, name)
    if account is None:
        raise AccountError("account", found=f"no account {name[:60]!r}", action="list the accounts")
    return account


def _require_admin(database: sqlite3.Connection, changed: Account) -> None:
    """Raise AccountError, which undoes the transaction, if the last admin who could sign in was changed."""
    count = database.execute("SELECT count(*) FROM accounts WHERE role = 'admin' AND disabled = 0").fetchone()[0]
    if count == 0 and changed.may("admin"):
        raise AccountError(
            "account", found="no other admin who could sign in", action="add another admin before this change"
        )
