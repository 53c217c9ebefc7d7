"""Names of files as one line of valid Unicode that cannot forge another line."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cmdiad_runtime.support.printable import printable, single_line


def original(printed: str) -> str:
    """Recover a name from its printed form."""
    short = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\"}

    def one(match: re.Match[str]) -> str:
        code = match[1]
        if code in short:
            return short[code]
        value = int(code[1:], 16)
        return chr(value + 0xDC00 if code[0] == "x" and value >= 0x80 else value)

    return re.sub(r"\\(\\|[nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})", one, printed)


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("photos/part 17 (left).png", "photos/part 17 (left).png"),
        ("größe 部品.png", "größe 部品.png"),
        ("a\nOK\t0.1\tb.png", r"a\nOK\t0.1\tb.png"),
        (r"a\nb.png", r"a\\nb.png"),
        ("red\x1b[31m.png", r"red\x1b[31m.png"),
        ("a\u202egnp.exe", r"a\u202egnp.exe"),
        ("a\u2028b\x85c", r"a\u2028b\u0085c"),
        (os.fsdecode(b"teil_\xfc.png"), r"teil_\xfc.png"),
    ],
)
def test_names(name: str, printed: str) -> None:
    assert printable(name) == printed
    assert printable(Path(name)) == printed


def test_text_keeps_its_backslashes_and_can_be_cleaned_twice() -> None:
    assert single_line("a\\b\nc") == "a\\b\\nc"
    assert single_line(single_line("a\\b\nc")) == "a\\b\\nc"


@given(st.binary(max_size=40).map(os.fsdecode) | st.text(max_size=40))
@example("\U000e0001a")
def test_any_name_is_one_line_of_valid_unicode_and_can_be_recovered(name: str) -> None:
    printed = printable(name)
    assert len(f"x{printed}x".splitlines()) == 1
    assert "\t" not in printed
    printed.encode("utf-8")
    assert original(printed) == name


@given(st.lists(st.text(max_size=8), min_size=2, max_size=2, unique=True))
def test_two_names_never_look_equal(names: list[str]) -> None:
    assert printable(names[0]) != printable(names[1])
