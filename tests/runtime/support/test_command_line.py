"""Shared behaviour of commands: help, version, log level, exit codes, one line on stderr and no traceback."""

from __future__ import annotations

import errno
import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version

import click
import pytest
from click.testing import CliRunner

from cmdiad_runtime.errors import EngineError
from cmdiad_runtime.support import command_line
from cmdiad_runtime.support.command_line import CommandGroup, GroupedCommand, option_group, run_command
from cmdiad_runtime.support.signals import EndingSignal


@pytest.fixture(autouse=True)
def same_log_level() -> Iterator[None]:
    """Restore the level of the logger, which other tests capture."""
    logger = logging.getLogger("cmdiad")
    level = logger.level
    yield
    logger.setLevel(level)


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


def test_signal_after_the_work_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @contextmanager
    def late() -> Iterator[EndingSignal]:
        ending = EndingSignal()
        yield ending
        ending.receive(signal.SIGTERM, None)  # as while the handlers are restored

    monkeypatch.setattr(command_line, "ending_signals", late)
    with pytest.raises(SystemExit) as ended:
        run_command(click.Command("work", callback=lambda: None), "work", [])
    assert ended.value.code == 143
    assert capsys.readouterr().err == "interrupted by SIGTERM\n"


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


def test_error_line_cannot_be_forged_by_a_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = EngineError("a\x1b[2K\udcfc.png", found="nothing", expected="a package", action="install it")
    assert _end(monkeypatch, _raiser(error)) == 5
    assert capsys.readouterr().err == "error: a\\x1b[2K\\xfc.png: found nothing. Expected a package. Install it.\n"


def test_missing_package_names_the_extra_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")
    assert _end(monkeypatch, _raiser(error)) == 5
    line = "error: tool needs the package 'torch', which is not installed. Run: pip install \"cmdiad[train]\".\n"
    assert capsys.readouterr().err == line


def test_missing_module_of_ours_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def command() -> None:
        raise ModuleNotFoundError("No module named 'cmdiad_typo'", name="cmdiad_typo")

    monkeypatch.setattr("sys.argv", ["tool"])
    with pytest.raises(ModuleNotFoundError):
        run_command(click.command()(command), "tool")


@click.command(
    "tool",
    cls=GroupedCommand,
    help="Do the work.",
    examples=["# explain " + "a long line that must stay whole " * 3, "tool --size 3"],
    exit_codes={0: "all done", 4: "bundle unusable"},
)
@option_group(
    "Input",
    click.option("--size", type=int, default=7, help="Number of things."),
    click.option("--name", help="Name of things."),
)
@option_group("Output", click.option("--out", help="Folder."))
@click.option("--loud", is_flag=True, help="More text.")
def grouped(size: int, name: str | None, out: str | None, loud: bool) -> None:
    click.echo(f"{size} {name} {out} {loud}")


def test_grouped_help_has_sections_in_order() -> None:
    text = CliRunner().invoke(grouped, ["-h"]).output
    lines = text.splitlines()
    headings = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert headings == ["Input:", "Output:", "Other options:", "Examples:", "Exit codes:"]
    inputs = lines[lines.index("Input:") : lines.index("Output:")]
    assert [line.split()[0] for line in inputs[1:] if line.strip()] == ["--size", "--name"]
    assert "[default: 7]" in text
    assert "  # explain " + "a long line that must stay whole " * 3 in lines
    codes = lines[lines.index("Exit codes:") + 1 :]
    assert [line.split(maxsplit=1) for line in codes if line.strip()] == [
        ["0", "all done"],
        ["2", "wrong command line"],
        ["4", "bundle unusable"],
        ["129", "interrupted by SIGHUP (the terminal was closed)"],
        ["130", "interrupted"],
        ["143", "interrupted by SIGTERM"],
    ]


def test_grouped_command_takes_its_options() -> None:
    assert CliRunner().invoke(grouped, ["--name", "a", "--loud"]).output == "7 a None True\n"


def test_command_without_groups_has_one_section() -> None:
    @click.command(cls=GroupedCommand)
    @click.argument("file")
    @click.option("--size", help="Number.")
    def plain(file: str, size: str) -> None: ...

    text = CliRunner().invoke(plain, ["--help"]).output
    assert "Options:" in text
    assert "Other options:" not in text
    assert "  FILE" not in text
    assert "Exit codes:" not in text


def test_version_names_the_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", ["anything", "--version"])
    with pytest.raises(SystemExit) as ended:
        run_command(grouped, "cmdiad-tool")
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"cmdiad-tool {version('cmdiad')}\n"


def test_group_of_commands_lists_them_and_has_a_version() -> None:
    @click.group("tools", cls=CommandGroup, help="Tools.", examples=["tools hammer"])
    def tools() -> None: ...

    @tools.command(examples=["tools hammer --hard"])
    @option_group("Force", click.option("--hard", is_flag=True, help="Hit hard."))
    def hammer(hard: bool) -> None:
        """Hit a nail."""

    text = CliRunner().invoke(tools, ["--help"]).output
    assert text.index("--version") < text.index("Commands:") < text.index("Hit a nail.") < text.index("Examples:")
    assert "Force:" in CliRunner().invoke(tools, ["hammer", "--help"]).output
    assert CliRunner().invoke(tools, ["hammer", "--version"]).output == f"tools {version('cmdiad')}\n"


@pytest.mark.parametrize(
    ("level", "shown"),
    [(None, ["warning: w 1"]), ("debug", ["debug: d", "warning: w 1"]), ("error", [])],
)
def test_log_level_comes_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], level: str | None, shown: list[str]
) -> None:
    if level is None:
        monkeypatch.delenv("CMDIAD_LOG", raising=False)
    else:
        monkeypatch.setenv("CMDIAD_LOG", level)

    def act() -> None:
        logger = logging.getLogger("cmdiad.runtime.test")
        logger.debug("d")
        logger.warning("w %d", 1)

    assert _end(monkeypatch, act) == 0
    assert _end(monkeypatch, act) == 0  # a second command in one process must not add a second handler
    assert capsys.readouterr().err.splitlines() == 2 * shown


def test_unknown_log_level_is_a_wrong_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CMDIAD_LOG", "loud")
    assert _end(monkeypatch, lambda: None) == 2
    assert "CMDIAD_LOG is 'loud'. Expected one of debug, info, warning, error." in capsys.readouterr().err
