"""Argon2 hashes, and tokens of programs."""

from __future__ import annotations

from pathlib import Path

import pytest

from cmdiad_line.accounts.account import AccountError
from cmdiad_line.accounts.passwords import hash_password, matches, unknown_hash
from cmdiad_line.accounts.tokens import add_token, find_token, new_token, read_tokens


@pytest.fixture(scope="module", autouse=True)
def weak_hashes() -> None:
    """Keep the real hash."""


def test_hashes_are_argon2id_with_a_salt() -> None:
    first, second = hash_password("four random words"), hash_password("four random words")
    assert first.startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    assert first != second
    assert matches(first, "four random words")
    assert not matches(first, "Four random words")
    assert not matches("damaged", "four random words")
    assert not matches(unknown_hash(), "")


def test_a_token_file_contains_no_token(tmp_path: Path) -> None:
    text, token = new_token("mes", "operator")
    other_text, other = new_token("prometheus", "operator")
    path = tmp_path / "tokens"
    path.write_text(f"# programs\n\n{token.line}\n{other.line}\n", encoding="utf-8")
    assert text not in path.read_text(encoding="utf-8")
    tokens = read_tokens(path)
    assert find_token(tokens, text) == token
    assert find_token(tokens, other_text) == other
    assert find_token(tokens, token.digest) is None
    assert find_token(tokens, "") is None


def test_a_token_file_without_a_last_line_end_stays_readable(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    path.write_text(new_token("mes", "operator")[1].line, encoding="utf-8")
    text = add_token(path, "prometheus", "operator")
    added = find_token(read_tokens(path), text)
    assert added is not None
    assert [token.name for token in read_tokens(path)] == ["mes", "prometheus"]


@pytest.mark.parametrize(
    "line", ["mes operator", "mes root " + "0" * 64, "mes operator " + "0" * 63, "plc operator " + "0" * 64]
)
def test_a_wrong_token_file_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "tokens"
    path.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(AccountError):
        read_tokens(path)
    with pytest.raises(AccountError, match="Check the file"):
        read_tokens(tmp_path / "missing")
