"""How every command ends: exit code, one line on stderr, no traceback."""

from __future__ import annotations

import errno
from collections.abc import Callable

import click
import pytest

from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.support.command_line import run_command


def _end(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[], object], arguments: tuple[str, ...] = ()
) -> int | str | None:
    """Exit code of a command that does `act`."""

    @click.command()
    @click.option("--number", type=int)
    def command(number: int | None) -> object:
        return act()

    monkeypatch.setattr("sys.argv", ["tool", *arguments])
    with pytest.raises(SystemExit) as ended:
        run_command(command, "tool")
    return ended.value.code


def _raiser(error: BaseException) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


@pytest.mark.parametrize(("result", "code"), [(None, 0), ("text", 0), (True, 0), (4, 4)])
def test_result_decides_exit_code(monkeypatch: pytest.MonkeyPatch, result: object, code: int) -> None:
    assert _end(monkeypatch, lambda: result) == code


def test_help_ends_with_zero(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert _end(monkeypatch, lambda: None, ("--help",)) == 0
    assert "Usage: tool" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [("--numbr", "1"), ("--number", "one"), ("extra",)])
def test_wrong_command_line_ends_with_two(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    assert _end(monkeypatch, lambda: None, arguments) == 2
    assert "Usage: tool" in capsys.readouterr().err


def test_deliberate_error_is_one_line_with_its_own_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = EngineError("tensorrt", found="nothing", expected="a package", action="install it")
    assert _end(monkeypatch, _raiser(error)) == 5
    captured = capsys.readouterr()
    assert captured.err == f"error: {error}\n"
    assert captured.out == ""


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()])
def test_interruption_ends_with_130(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException
) -> None:
    assert _end(monkeypatch, _raiser(error)) == 130
    assert capsys.readouterr().err.strip() == "interrupted"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/a/b.png"), "error: /a/b.png: permission denied\n"),
        (OSError(errno.ENOSPC, "No space left on device", b"/a/c"), "error: /a/c: no space left on device\n"),
        (OSError(errno.EXDEV, "Cross-device", "/a", None, "/b"), "error: /a -> /b: cross-device\n"),
        (OSError("two\nlines"), "error: input or output failed: two lines\n"),
    ],
)
def test_system_error_names_the_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, line: str
) -> None:
    assert _end(monkeypatch, _raiser(error)) == 6
    assert capsys.readouterr().err == line


def test_a_defect_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sys.argv", ["tool"])
    with pytest.raises(ZeroDivisionError):
        run_command(click.command()(command), "tool")
