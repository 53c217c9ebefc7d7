"""Text from outside, such as file names, as text that is printed and stored: one line of valid Unicode.

A file name may contain newlines, control characters, characters that reverse the direction of text, and bytes that
are not UTF-8. Printed as they are, such names could forge a line of results or hide a part of a name.
"""

from __future__ import annotations

import unicodedata
from os import PathLike, fspath

_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
_UNSAFE = frozenset(["Cc", "Cf", "Cs", "Zl", "Zp"])
"""Unicode categories of control characters, invisible formats, surrogates, and separators of lines and paragraphs."""
_FIRST_BYTE, _LAST_BYTE = 0xDC80, 0xDCFF
"""Surrogates by which Python represents the bytes 0x80 to 0xFF of a file name that is not UTF-8 (PEP 383)."""


def printable(name: str | PathLike[str]) -> str:
    r"""Return a file name as one line of valid Unicode, from which the name can be recovered.

    A newline becomes `\n`, a tab `\t`, a byte that is not UTF-8 `\xfc`, any other unsafe character `\x1b` or
    `\u202e`, and a backslash `\\`. All other characters stay.
    """
    return single_line(fspath(name).replace("\\", "\\\\"))


def single_line(text: str) -> str:
    """Return text with unsafe characters escaped as in `printable`. Backslashes stay, so calling twice is harmless."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(map(_escaped, text))


def _escaped(character: str) -> str:
    if unicodedata.category(character) not in _UNSAFE:
        return character
    code = ord(character)
    if _FIRST_BYTE <= code <= _LAST_BYTE:
        return f"\\x{code - 0xDC00:02x}"
    # A code from 0x80 to 0xFF is written with four digits, because two digits stand for a byte there.
    long = f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x80 else long)
