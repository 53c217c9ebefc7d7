"""Names of files in messages: printable, encodable and on one line, whatever bytes they are made of."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.printable import printable


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (b"plain name.png", "plain name.png"),
        ("Überzug-検査.png".encode(), "Überzug-検査.png"),
        (b"teil_\xfc.png", r"teil_\xfc.png"),
        (b"a\nOK\t0.1\tb.png", r"a\nOK\t0.1\tb.png"),
        (b"\x1b[31mred", r"\x1b[31mred"),
        ("gnp.\u202eb".encode(), r"gnp.\u202eb"),
        (b"", ""),
    ],
)
def test_names(name: bytes, text: str) -> None:
    assert printable(os.fsdecode(name)) == text
    assert printable(Path(os.fsdecode(name))) == (text or ".")


def test_every_byte_can_be_encoded_and_stays_on_one_line() -> None:
    text = printable(os.fsdecode(bytes(range(256))))
    assert len(text.encode("utf-8").splitlines()) == 1
    assert json.loads(json.dumps(text)) == text


def test_lone_surrogates_of_other_origin() -> None:
    assert printable("a\ud800b") == r"a\ud800b"


def test_errors_can_be_printed() -> None:
    path = Path(os.fsdecode(b"teil_\xfc\n.png"))
    error = InputError(path, found=f"nothing in {path}", action="rename \x1b[1m it")
    assert error.subject == r"teil_\xfc\n.png"
    assert str(error).encode("utf-8").decode().isprintable()
