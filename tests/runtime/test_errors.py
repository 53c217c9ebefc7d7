"""The messages of errors: whole sentences, on one line."""

from __future__ import annotations

import pytest

from cmdiad_runtime.errors import InputError, RunError


@pytest.mark.parametrize("cause", ["no such file", "no such file.", "no such\nfile. ", "no such file..."])
def test_cause_with_a_full_stop_gives_one(cause: str) -> None:
    error = RunError("run.json", found=cause, expected="a run.", action="check the path.")
    assert str(error) == "run.json: found no such file. Expected a run. Check the path."


def test_without_a_subject_the_finding_is_a_sentence() -> None:
    assert str(InputError("", found="nothing is there", action="look again")) == "Nothing is there. Look again."


def test_spaces_of_a_name_are_kept() -> None:
    """A reader of the message finds the name in it."""
    assert str(InputError("  a  b.png", found="no\n file", action="look")) == "  a  b.png: found no file. Look."
