"""`--category all`: one failing category does not stop the others, and the table has all of them."""

from __future__ import annotations

import pytest

from cmdiad_runtime.cli.each import KEPT, for_each, table
from cmdiad_runtime.errors import BundleError, RunError


def work(name: str) -> dict[str, str]:
    if name == "broken":
        raise RunError(name, found="no samples", action="add some")
    if name == "missing":
        raise BundleError(name, found="no bundle", action="export one")
    return {"image AUROC": "0.987", "result": KEPT if name == "old" else "trained"}


def test_a_failing_category_does_not_stop_the_others(capsys: pytest.CaptureFixture[str]) -> None:
    assert for_each(["old", "broken", "missing", "new"], work) == RunError.exit_code
    printed = capsys.readouterr()
    assert printed.out.splitlines() == [
        "category  image AUROC  result",
        "old       0.987        kept",
        "broken    -            failed, exit code 7: broken: found no samples. Add some.",
        "missing   -            failed, exit code 4: missing: found no bundle. Export one.",
        "new       0.987        trained",
    ]
    assert "error: broken: found no samples. Add some." in printed.err
    assert "[4/4] new" in printed.err


def test_an_interruption_shows_what_is_finished(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted(name: str) -> dict[str, str]:
        if name == "second":
            raise KeyboardInterrupt
        return {"result": "trained"}

    with pytest.raises(KeyboardInterrupt):
        for_each(["first", "second"], interrupted)
    assert capsys.readouterr().out == "category  result\nfirst     trained\n"


def test_the_next_command_follows_the_table(capsys: pytest.CaptureFixture[str]) -> None:
    for_each(["old", "broken"], work, following="cmdiad-export --category all")
    assert capsys.readouterr().err.endswith("next: cmdiad-export --category all\n")
    for_each(["broken"], work, following="cmdiad-export --category all")
    assert "next:" not in capsys.readouterr().err


def test_table_without_rows_is_empty() -> None:
    assert table([]) == ""
