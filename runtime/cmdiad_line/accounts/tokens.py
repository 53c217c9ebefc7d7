"""Bearer tokens of programs. The token file has one line for each token, with the hash of the token.

A line reads `NAME ROLE HASH`, for example `mes operator 6b86b2…`; lines that start with `#` are comments. A token is
256 random bits, so a plain SHA-256 cannot be reversed by guessing.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path

from cmdiad_line.accounts.account import AccountError, Role, check_name, check_role
from cmdiad_runtime.printable import cause_of


@dataclass(frozen=True, kw_only=True)
class Token:
    """Access of a program.

    Attributes:
        name: Name of the program, for the audit log.
        role: Role, as of an account.
        digest: SHA-256 of the token as 64 hexadecimal digits.
    """

    name: str
    role: Role
    digest: str

    @property
    def line(self) -> str:
        """Line of the token file."""
        return f"{self.name} {self.role} {self.digest}"


def new_token(name: str, role: Role) -> tuple[str, Token]:
    """Return a new token as text, and its entry for the token file."""
    check_name(name)
    check_role(role)
    text = secrets.token_urlsafe(32)
    return text, Token(name=name, role=role, digest=_digest(text))


def add_token(path: Path, name: str, role: Role) -> str:
    """Add a new token to a token file, which is created if missing, readable by its owner only; return the token.

    Raises:
        AccountError: The file has a token of this name, is no token file, or cannot be written.
    """
    text, token = new_token(name, role)
    if path.exists() and any(entry.name == name for entry in read_tokens(path)):
        raise AccountError(path, found=f"a token named {name!r}", action="choose another name, or remove its line")
    try:
        # An editor may have left the last line without its end.
        begin = "\n" if path.exists() and not path.read_bytes().endswith(b"\n") else ""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(f"{begin}{token.line}\n")
    except OSError as error:
        problem = f"a file that cannot be written ({cause_of(error)})"
        raise AccountError(path, found=problem, action="check the folder") from error
    return text


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Return the tokens of a token file.

    Raises:
        AccountError: The file cannot be read, or a line is no token.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AccountError(path, found=f"no token file ({cause_of(error)})", action="check the file") from error
    entries = [(number, line.split()) for number, line in enumerate(lines, start=1)]
    return tuple(_token(path, number, words) for number, words in entries if words and not words[0].startswith("#"))


def find_token(tokens: tuple[Token, ...], text: str) -> Token | None:
    """Return the token with this text, or None. The time does not depend on the text."""
    digest = _digest(text)
    matching = [token for token in tokens if hmac.compare_digest(token.digest, digest)]
    return matching[0] if matching else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _token(path: Path, number: int, words: list[str]) -> Token:
    if len(words) != 3 or not re.fullmatch("[0-9a-f]{64}", words[2]):
        raise AccountError(
            f"{path}, line {number}",
            found="no token",
            expected="NAME ROLE HASH, with the hash as 64 hexadecimal digits",
            action="create tokens with cmdiad-line account token",
        )
    check_name(words[0])
    check_role(words[1])
    return Token(name=words[0], role=words[1], digest=words[2])  # type: ignore[arg-type]
