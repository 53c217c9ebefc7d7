"""Accounts: rules, lock-out, revisions and the list of changes."""

from __future__ import annotations

import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from cmdiad_line.accounts import store as store_module
from cmdiad_line.accounts.account import AccountError
from cmdiad_line.accounts.lock_out import FIRST_LOCK_S, FREE_FAILURES, LONGEST_LOCK_S, is_locked, lock_seconds
from cmdiad_line.accounts.store import AccountStore
from patience import LIMIT_S

GOOD = "four random words"


class Now:
    def __init__(self) -> None:
        self.seconds = 1_800_000_000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def now() -> Now:
    return Now()


@pytest.fixture
def store(tmp_path: Path, now: Now, monkeypatch: pytest.MonkeyPatch) -> AccountStore:
    """A store with a fast hash; test_passwords.py covers the real one."""
    monkeypatch.setattr(store_module, "hash_password", lambda password: f"hash of {password}")
    monkeypatch.setattr(store_module, "matches", lambda hashed, password: hashed == f"hash of {password}")
    monkeypatch.setattr(store_module, "unknown_hash", lambda: "hash of nothing")
    store = AccountStore(tmp_path / "accounts.sqlite", now)
    store.add("ada", "admin", GOOD, author="command line")
    return store


def test_the_right_password_signs_in_and_others_do_not(store: AccountStore) -> None:
    account = store.sign_in("ada", GOOD)
    assert account is not None
    assert (account.name, account.role) == ("ada", "admin")
    assert store.sign_in("ada", "wrong password") is None
    assert store.sign_in("eve", GOOD) is None
    assert store.sign_in("eve", "nothing") is None


def test_there_is_no_account_at_first(tmp_path: Path) -> None:
    store = AccountStore(tmp_path / "new.sqlite")
    assert store.accounts() == []
    assert stat.S_IMODE((tmp_path / "new.sqlite").stat().st_mode) == 0o600


def test_a_new_file_has_all_tables_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process that opens a file with some of them would never make the others."""
    connect = sqlite3.connect

    def refuse_the_last(*arguments: object, **options: object) -> sqlite3.Connection:
        database = connect(*arguments, **options)  # type: ignore[call-overload]
        refused = (sqlite3.SQLITE_CREATE_TABLE, "changes")
        database.set_authorizer(lambda *what: sqlite3.SQLITE_DENY if what[:2] == refused else sqlite3.SQLITE_OK)
        return database  # type: ignore[no-any-return]

    store = AccountStore(tmp_path / "new.sqlite")
    with monkeypatch.context() as patch, pytest.raises(AccountError, match="not authorized"):
        patch.setattr(sqlite3, "connect", refuse_the_last)
        store.accounts()
    assert store.accounts() == []
    assert store.unnoted() == []


def test_five_wrong_passwords_lock_the_account_for_the_right_one_too(store: AccountStore, now: Now) -> None:
    for _ in range(FREE_FAILURES):
        assert store.sign_in("ada", "wrong password") is None
    assert store.sign_in("ada", GOOD) is None
    now.seconds += FIRST_LOCK_S - 1
    assert store.sign_in("ada", GOOD) is None
    now.seconds += 1
    assert store.sign_in("ada", GOOD) is not None
    assert store.sign_in("ada", "wrong password") is None
    assert store.sign_in("ada", GOOD) is not None, "the failures before were forgiven"


def test_a_lock_survives_a_restart_and_is_recorded(store: AccountStore, now: Now) -> None:
    for _ in range(FREE_FAILURES):
        store.sign_in("ada", "wrong password")
    assert AccountStore(store.path, now).sign_in("ada", GOOD) is None
    assert [change.action for change in store.unnoted()] == ["account add", "account locked"]


def test_locks_grow_up_to_a_limit() -> None:
    assert lock_seconds(FREE_FAILURES - 1) == 0
    assert [lock_seconds(FREE_FAILURES + n) for n in range(3)] == [30, 60, 120]
    assert lock_seconds(10_000) == LONGEST_LOCK_S


def test_a_clock_that_is_set_back_neither_opens_a_lock_nor_keeps_it_for_ever(store: AccountStore, now: Now) -> None:
    for _ in range(FREE_FAILURES):
        store.sign_in("ada", "wrong password")
    now.seconds -= 1_000_000
    assert is_locked(FREE_FAILURES, now.seconds + 1_000_000, now.seconds)
    assert store.sign_in("ada", GOOD) is None
    now.seconds += FIRST_LOCK_S
    assert store.sign_in("ada", GOOD) is not None


def test_guesses_at_the_same_time_are_all_counted(store: AccountStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check of the password waits until all attempts have begun; only the first five may reach it."""
    begun = threading.Barrier(FREE_FAILURES)
    checked: list[str] = []

    def check(hashed: str, password: str) -> bool:
        if hashed != "hash of nothing":
            begun.wait(LIMIT_S)
            checked.append(password)
        return False

    monkeypatch.setattr(store_module, "matches", check)
    threads = [threading.Thread(target=store.sign_in, args=("ada", f"guess {n}")) for n in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(checked) == FREE_FAILURES


def test_a_disabled_account_cannot_sign_in(store: AccountStore) -> None:
    store.add("ben", "operator", GOOD, author="ada")
    store.set_disabled("ben", True, author="ada")
    assert store.sign_in("ben", GOOD) is None
    store.set_disabled("ben", False, author="ada")
    assert store.sign_in("ben", GOOD) is not None


def test_the_last_admin_stays(store: AccountStore) -> None:
    with pytest.raises(AccountError, match="no other admin"):
        store.set_disabled("ada", True, author="ada")
    with pytest.raises(AccountError, match="no other admin"):
        store.set_role("ada", "operator", author="ada")
    account = store.account("ada")
    assert account is not None
    assert (account.disabled, account.role, account.revision) == (False, "admin", 1)
    assert len(store.unnoted()) == 1


def test_every_change_raises_the_revision(store: AccountStore) -> None:
    store.add("ben", "operator", GOOD, author="ada")
    store.set_password("ben", "another password", author="ben")
    store.set_role("ben", "engineer", author="ada")
    store.set_disabled("ben", True, author="ada")
    account = store.account("BEN")
    assert account is not None
    assert account.revision == 4


def test_changes_are_listed_until_they_are_noted(store: AccountStore) -> None:
    store.add("ben", "operator", GOOD, author="ada")
    first, second = store.unnoted()
    assert (first.author, second.author, second.name, second.details) == ("command line", "ada", "ben", "role operator")
    store.mark_noted(first.number)
    assert store.unnoted() == [second]


@pytest.mark.parametrize("name", ["", "plc", "OPCUA", "a b", "../x", "a" * 41, "é", "-a", "a\n"])
def test_names_that_could_mislead_are_refused(store: AccountStore, name: str) -> None:
    with pytest.raises(AccountError, match="another name"):
        store.add(name, "operator", GOOD, author="ada")


@pytest.mark.parametrize("password", ["", "short", "benbenbenben", "aaaaaaaaaaaaaa", "x" * 201])
def test_bad_passwords_are_refused_and_not_repeated(store: AccountStore, password: str) -> None:
    with pytest.raises(AccountError) as caught:
        store.add("benbenbenben", "operator", password, author="ada")
    assert not password or password not in str(caught.value)


def test_a_name_is_taken_in_any_case(store: AccountStore) -> None:
    with pytest.raises(AccountError, match="exists"):
        store.add("ADA", "operator", GOOD, author="ada")


def test_unknown_accounts_and_roles_are_refused(store: AccountStore) -> None:
    with pytest.raises(AccountError, match="List the accounts"):
        store.set_password("eve", GOOD, author="ada")
    with pytest.raises(AccountError, match="one of operator, engineer, admin"):
        store.add("eve", "root", GOOD, author="ada")


def test_a_damaged_file_ends_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "accounts.sqlite"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(AccountError, match="Check the state folder"):
        AccountStore(path).sign_in("ada", GOOD)
