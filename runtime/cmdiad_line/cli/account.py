"""`cmdiad-line account`: accounts of people and tokens of programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cmdiad_line.accounts.account import ROLES, AccountError, check_name, check_password
from cmdiad_line.cli.state_argument import present_user
from cmdiad_runtime.support.command_line import CommandGroup, option_group

if TYPE_CHECKING:
    from cmdiad_line.accounts.account import Role
    from cmdiad_line.accounts.store import AccountStore

HELP = """Manage the accounts of a station, next to the running station or before the first start.

An operator runs the station and judges parts, an engineer also changes recipes and thresholds, an admin also manages
accounts. There is no default password: the first admin is made with this command. Passwords are read from the terminal,
or from the first line of stdin. Changes appear in the audit log of the station.
"""
EXIT_CODES = {3: "account, password or token refused", 10: "mistakes in the station file"}

_STATION = option_group(
    "Station",
    click.option(
        "--station",
        "file",
        type=click.Path(path_type=Path),
        default="station.toml",
        help="Station file, or state folder.",
    ),
)
_ROLE = click.option("--role", type=click.Choice(ROLES), default="operator", help="Role of the account or token.")


@click.group(
    "account",
    cls=CommandGroup,
    help=HELP,
    exit_codes=EXIT_CODES,
    examples=("cmdiad-line account add ada --role admin", "cmdiad-line account list"),
)
def account() -> None:
    """See HELP."""


def _command(name: str, text: str, *examples: str) -> Callable[[Callable[..., Any]], click.Command]:
    """Return a decorator that adds a subcommand with examples and the exit codes of all of them."""
    attributes: dict[str, Any] = {"examples": examples, "exit_codes": EXIT_CODES}
    return account.command(name, help=text, **attributes)


@_command(
    "add",
    "Add the account NAME.",
    "cmdiad-line account add ada --role admin",
    "# in a script",
    "cmdiad-line account add ben --role operator --station line7.toml < password.txt",
)
@click.argument("name")
@_ROLE
@_STATION
def add(name: str, role: str, file: Path) -> None:
    """Add an account."""
    store = _store(file)
    check_name(name)
    if store.account(name) is not None:
        raise AccountError("name", found=f"{name!r}, which exists", action="choose another name")
    store.add(name, role, _new_password(name), author=present_user())
    click.echo(f"added: {name}, {role}")


@_command(
    "list",
    "List accounts with role and state.",
    "cmdiad-line account list",
    "cmdiad-line account list --station line7.toml",
)
@_STATION
def list_accounts(file: Path) -> None:
    """List accounts."""
    for entry in _store(file).accounts():
        click.echo(f"{entry.name}\t{entry.role}\t{'disabled' if entry.disabled else 'active'}")


@_command(
    "disable",
    "Disable the account NAME and sign this person out; --enable allows signing in again.",
    "cmdiad-line account disable ben",
    "cmdiad-line account disable ben --enable",
)
@click.argument("name")
@click.option("--enable", is_flag=True, help="Enable the account instead.")
@_STATION
def disable(name: str, enable: bool, file: Path) -> None:
    """Disable or enable an account."""
    _store(file).set_disabled(name, not enable, author=present_user())
    click.echo(f"{'enabled' if enable else 'disabled'}: {name}")


@_command(
    "password",
    "Set a new password for the account NAME, end all sign-ins and the lock.",
    "cmdiad-line account password ben",
    "cmdiad-line account password ben --station line7.toml < password.txt",
)
@click.argument("name")
@_STATION
def password(name: str, file: Path) -> None:
    """Set a password."""
    store = _store(file)
    existing = store.account(name)
    if existing is None:
        raise AccountError("account", found=f"no account {name[:60]!r}", action="list the accounts")
    store.set_password(existing.name, _new_password(existing.name), author=present_user())
    click.echo(f"password changed: {existing.name}")


@_command(
    "token",
    "Make a token for the program NAME. stdout receives the token, once; the token file receives a hash. The station "
    "reads the file at the next start of the web process.",
    "cmdiad-line account token mes --file tokens.txt",
    "cmdiad-line account token prometheus --role operator --file tokens.txt > prometheus.token",
)
@click.argument("name")
@_ROLE
@click.option(
    "--file",
    "tokens",
    type=click.Path(path_type=Path),
    required=True,
    help="Token file, as in the key token_file of the section [web]; created if missing.",
)
def token(name: str, role: Role, tokens: Path) -> None:
    """Make a token."""
    from cmdiad_line.accounts.tokens import add_token

    click.echo(add_token(tokens, name, role))


def _store(file: Path) -> AccountStore:
    from cmdiad_line.accounts.store import FILE_NAME, AccountStore
    from cmdiad_line.station_file.read import read_station

    state = file if file.is_dir() else read_station(file, running=True).state
    state.mkdir(parents=True, exist_ok=True)
    return AccountStore(state / FILE_NAME)


def _new_password(name: str) -> str:
    """Return a new password from the terminal, typed twice, or from the first line of stdin."""
    if sys.stdin.isatty():
        text: str = click.prompt("Password", hide_input=True, confirmation_prompt=True)
    else:
        text = sys.stdin.readline(1000).rstrip("\r\n")
    check_password(name, text)
    return text
