"""`cmdiad-line account`, with passwords from stdin."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from cmdiad_line.accounts.store import FILE_NAME, AccountStore
from cmdiad_line.accounts.tokens import find_token, read_tokens
from cmdiad_line.cli.line import cli
from cmdiad_runtime.errors import CmdiadError

PASSWORD = "green kettle on tuesday"


def run(*arguments: str | Path, given: str = "") -> tuple[int, str]:
    """Run a command; return the exit code, and the output or the message of a deliberate error."""
    result = CliRunner().invoke(cli, ["account", *map(str, arguments)], input=given, standalone_mode=False)
    if isinstance(result.exception, CmdiadError):
        return result.exception.exit_code, str(result.exception)
    if result.exception is not None:
        raise result.exception
    return result.exit_code, result.output


def test_the_first_admin_is_made_before_the_first_start(tmp_path: Path) -> None:
    (tmp_path / "gear.cmdiad").mkdir()
    station = tmp_path / "station.toml"
    station.write_text(
        '[station]\nname = "Line 7"\nstate = "state"\n[recipe]\nbundle = "gear.cmdiad"\n'
        '[[source]]\nkind = "simulated"\n',
        encoding="utf-8",
    )
    code, text = run("add", "ada", "--role", "admin", "--station", station, given=f"{PASSWORD}\n")
    assert (code, text) == (0, "added: ada, admin\n")
    account = AccountStore(tmp_path / "state" / FILE_NAME).sign_in("ada", PASSWORD)
    assert account is not None
    assert account.role == "admin"


def test_accounts_are_listed_disabled_and_get_new_passwords(tmp_path: Path) -> None:
    for name, role in (("ada", "admin"), ("ben", "operator")):
        assert run("add", name, "--role", role, "--station", tmp_path, given=f"{PASSWORD}\n")[0] == 0
    assert run("disable", "ben", "--station", tmp_path) == (0, "disabled: ben\n")
    assert run("list", "--station", tmp_path) == (0, "ada\tadmin\tactive\nben\toperator\tdisabled\n")
    assert run("disable", "ben", "--enable", "--station", tmp_path)[0] == 0
    assert run("password", "ben", "--station", tmp_path, given="another password\n")[0] == 0
    store = AccountStore(tmp_path / FILE_NAME)
    assert store.sign_in("ben", PASSWORD) is None
    assert store.sign_in("ben", "another password") is not None
    assert all(change.author.startswith("command line") for change in store.unnoted())


@pytest.mark.parametrize(
    ("arguments", "given", "message"),
    [
        (("add", "ada"), f"{PASSWORD}\n", "which exists"),
        (("add", "ben"), "short\n", "10 to 200 characters"),
        (("add", "ben"), "", "10 to 200 characters"),
        (("add", "plc"), f"{PASSWORD}\n", "no name of a process"),
        (("disable", "ada"), "", "no other admin"),
        (("password", "eve"), f"{PASSWORD}\n", "no account"),
    ],
)
def test_refusals_say_why_and_change_nothing(
    tmp_path: Path, arguments: tuple[str, ...], given: str, message: str
) -> None:
    run("add", "ada", "--role", "admin", "--station", tmp_path, given=f"{PASSWORD}\n")
    code, text = run(*arguments, "--station", tmp_path, given=given)
    assert code == 3
    assert message in text
    assert PASSWORD not in text
    assert run("list", "--station", tmp_path) == (0, "ada\tadmin\tactive\n")


def test_a_token_is_shown_once_and_its_hash_is_stored(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    code, text = run("token", "mes", "--file", file)
    run("token", "prometheus", "--file", file)
    assert code == 0
    assert text.strip() not in file.read_text(encoding="utf-8")
    token = find_token(read_tokens(file), text.strip())
    assert token is not None
    assert (token.name, token.role, len(read_tokens(file))) == ("mes", "operator", 2)
    assert run("token", "mes", "--file", file)[0] == 3


def test_a_missing_station_file_is_explained(tmp_path: Path) -> None:
    code, text = run("list", "--station", tmp_path / "missing.toml")
    assert code == 10
    assert "missing.toml" in text
