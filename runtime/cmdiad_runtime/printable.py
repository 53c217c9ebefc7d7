"""Text of file names and errors for messages, results and JSON, whatever bytes a name is made of."""

from __future__ import annotations

import os


def printable(name: str | os.PathLike[str]) -> str:
    r"""Return a file name or other text with every character that cannot be printed replaced by an escape.

    The result contains no line break, no control character and no lone surrogate, so it can be encoded as UTF-8 and
    cannot forge a line of a result. Bytes of a name that is not UTF-8 become `\xfc`, control characters `\n` or
    `\x1b`, and invisible characters such as a change of the writing direction `\u202e`.

    Args:
        name: Path or text, with `surrogateescape` for bytes that are not UTF-8, as in `os.fsdecode`.
    """
    text = os.fspath(name)
    return text if text.isprintable() else "".join(map(_escaped, text))


def cause_of(error: Exception) -> str:
    """Return the cause of an error in lower case, for messages: the text of the system for an OSError."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()


def _escaped(character: str) -> str:
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # A byte that `os.fsdecode` could not decode.
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
