"""Test `cmdiad_bench.failures`: failures of single rows, and the files of unforeseen errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cmdiad_bench.failures import result_or_failure
from cmdiad_runtime.errors import RunError
from helpers import RecordingReporter


def failing(error: Exception) -> Any:
    def work() -> dict[str, Any]:
        raise error

    return work


@pytest.mark.parametrize(
    "work", [dict, failing(RunError("recipe", found="no bank", expected="a bank", action="Train"))]
)
def test_the_file_of_an_earlier_error_is_removed(tmp_path: Path, work: Any) -> None:
    file, reporter = tmp_path / "failures" / "row.txt", RecordingReporter()
    result_or_failure("row", file, failing(ValueError("shapes differ")), reporter)
    assert file.read_text().rstrip().endswith("ValueError: shapes differ")
    result_or_failure("row", file, work, reporter)
    assert not file.exists()


def test_an_error_without_text_is_named(tmp_path: Path) -> None:
    file = tmp_path / "row.txt"
    failed = result_or_failure("row", file, failing(MemoryError()), RecordingReporter())
    assert failed["failed"].startswith(f"Unforeseen error: MemoryError. The traceback is in {file}.")
