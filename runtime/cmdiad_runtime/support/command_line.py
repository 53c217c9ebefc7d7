"""Shared behaviour of all commands: help with option groups, `--version`, logging and exit codes.

A command uses it like this::

    @click.command("cmdiad-run", cls=GroupedCommand, help=HELP, examples=EXAMPLES, exit_codes=EXIT_CODES)
    @click.argument("bundle")
    @option_group(
        "Decision",
        click.option("--threshold", type=float, help="Raw score above which a sample is NG."),
    )
    def cli(bundle: str, threshold: float | None) -> int: ...


    def main() -> None:
        run_command(cli, "cmdiad-run")

`GroupedCommand` adds `-h`, `--help` and `--version`, and the help text states every default. A command with
subcommands takes `cls=CommandGroup`, or `cls=LazyGroup` to import them late; they are then `GroupedCommand` by
themselves.

Results go to stdout, messages to stderr, one line for each foreseen problem and never a traceback. The exit codes are
0 for success, 2 for a wrong command line, 130 for an interruption (143 by SIGTERM, 129 by SIGHUP), and those of
`cmdiad_runtime.errors`.

Libraries log to children of the logger `cmdiad` and never print. `run_command` shows warnings and errors; the
environment variable CMDIAD_LOG (debug, info, warning or error) selects another level.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, TypeVar

import click

from cmdiad_runtime.errors import CmdiadError, EngineError, OutputError
from cmdiad_runtime.printable import cause_of, printable
from cmdiad_runtime.support.output import occupy_standard_streams, say
from cmdiad_runtime.support.signals import INTERRUPTED, EndingSignal, ending_signals

LOG_VARIABLE = "CMDIAD_LOG"
EXTRAS = {
    "torch": "train",
    "timm": "train",
    "sklearn": "train",
    "safetensors": "train",
    "yaml": "train",
    "matplotlib": "train",
    "jinja2": "bench",
    "onnx": "export",
    "onnx_ir": "export",
    "onnxscript": "export",
    "argon2": "line",
    "asyncua": "line",
    "cryptography": "signature",
    "fastapi": "line",
    "fsspec": "fleet",
    "google": "line",
    "oras": "fleet",
    "pyarrow": "fleet",
    "ray": "fleet",
    "requests": "fleet",
    "tritonclient": "triton",
    "multipart": "line",
    "paho": "line",
    "prometheus_client": "line",
    "pymodbus": "line",
    "python_multipart": "line",
    "tomli": "line",
    "urllib3": "fleet",
    "uvicorn": "line",
}
"""Extra of the distribution that installs a package, by the package's import name."""
COMMAND_EXTRAS = {"cmdiad-export": "export", "cmdiad-bench": "bench", "cmdiad-line": "line", "cmdiad-fleet": "fleet"}
"""Extra that installs everything that a command needs, where this is more than one of EXTRAS."""

Function = TypeVar("Function", bound=Callable[..., Any])

_GROUP = "cmdiad_option_group"
_LEVELS = ("debug", "info", "warning", "error")
_ALWAYS = {
    0: "success",
    2: "wrong command line",
    129: "interrupted by SIGHUP (the terminal was closed)",
    INTERRUPTED: "interrupted",
    143: "interrupted by SIGTERM",
}


def option_group(name: str, *options: Callable[[Any], Any]) -> Callable[[Function], Function]:
    """Return a decorator that adds options to a command function and shows them under one heading.

    Args:
        name: Heading, for example "Output".
        *options: Decorators from `click.option`, in the order of the help text.
    """

    def decorate(function: Function) -> Function:
        before = list(getattr(function, "__click_params__", ()))
        for option in reversed(options):
            option(function)
        for parameter in getattr(function, "__click_params__", ()):
            if parameter not in before:
                setattr(parameter, _GROUP, name)
        return function

    return decorate


def collect_options(*groups: Callable[[Any], Any]) -> tuple[click.Option, ...]:
    """Return the options of some option groups, for a command that takes options from a table.

    Args:
        *groups: Decorators from `option_group`, in the order of the help text.
    """

    def holder() -> None: ...

    for group in reversed(groups):
        group(holder)
    return tuple(reversed(getattr(holder, "__click_params__", [])))


class _Helpful(click.Command):
    """Help text with option groups, examples and exit codes; adds `--version`.

    Args:
        *args: Positional arguments of `click.Command`.
        examples: Lines that a user can type, shown as they are. A line that starts with "#" explains the next one.
        exit_codes: Meaning of each exit code that this command has in addition to 0, 2 and those of interruptions; a
            code listed here replaces the standard text.
        **attributes: Keyword arguments of `click.Command`.
    """

    def __init__(
        self,
        *args: Any,
        examples: Sequence[str] = (),
        exit_codes: Mapping[int, str] | None = None,
        **attributes: Any,
    ) -> None:
        defaults = {"help_option_names": ["-h", "--help"], "show_default": True}
        attributes["context_settings"] = {**defaults, **(attributes.get("context_settings") or {})}
        super().__init__(*args, **attributes)
        click.version_option(package_name="cmdiad", message="%(prog)s %(version)s")(self)
        self.examples = tuple(examples)
        self.exit_codes = exit_codes

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section for each group of options; ungrouped options come last."""
        groups: dict[str, list[tuple[str, str]]] = {}
        others: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            # Recent versions of click also return a record for an argument; the usage line already shows its name.
            if record is not None and isinstance(parameter, click.Option):
                name = getattr(parameter, _GROUP, None)
                (others if name is None else groups.setdefault(name, [])).append(record)
        for name, records in groups.items():
            with formatter.section(name):
                formatter.write_dl(records)
        with formatter.section("Other options" if groups else "Options"):
            formatter.write_dl(others)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, the exit codes and click's epilog."""
        if self.examples:
            with formatter.section("Examples"):
                for line in self.examples:
                    formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
        if self.exit_codes is not None:
            codes = sorted({**_ALWAYS, **self.exit_codes}.items())
            with formatter.section("Exit codes"):
                formatter.write_dl([(str(code), meaning) for code, meaning in codes])
        super().format_epilog(ctx, formatter)


class GroupedCommand(_Helpful):
    """A command; see the docstring of this module."""


class CommandGroup(_Helpful, click.Group):
    """A command with subcommands; see the docstring of this module."""

    command_class = GroupedCommand

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options and the list of subcommands."""
        super().format_options(ctx, formatter)
        self.format_commands(ctx, formatter)


class LazyGroup(CommandGroup):
    """A group that imports a subcommand when it is used: the help of the group loads no server and no engine.

    Attributes:
        places: For each subcommand, where it is (`module:name`) and its purpose in one line.
    """

    def __init__(self, *args: Any, places: Mapping[str, tuple[str, str]], **options: Any) -> None:
        super().__init__(*args, **options)
        self.places = places

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the subcommands."""
        return list(self.places)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a subcommand, or None if there is no such subcommand."""
        if cmd_name not in self.places:
            return None
        module, _, name = self.places[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of subcommands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, purpose) for name, (_, purpose) in self.places.items()])


def run_command(command: click.Command, prog_name: str, arguments: Sequence[str] | None = None) -> None:
    """Run a click command, then exit.

    Args:
        command: Command to run. An int that it returns is the exit code; any other value means 0.
        prog_name: Name for usage and error messages.
        arguments: Command line without the program's name; None means the arguments of this process.

    Raises:
        SystemExit: Always, with the exit code.
    """
    occupy_standard_streams()
    ending = EndingSignal()
    try:
        with ending_signals() as ending:
            code = _run(command, prog_name, arguments, ending)
    except KeyboardInterrupt:  # received after `_run`, while the earlier handlers were restored
        code = _interrupted(ending)
    sys.exit(code)


def _run(command: click.Command, prog_name: str, arguments: Sequence[str] | None, ending: EndingSignal) -> int:
    try:
        _set_up_logging()
        result = command.main(arguments, prog_name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return _interrupted(ending)
    except Exception as error:
        if ending.number is not None and not isinstance(error, OutputError):
            return _interrupted(ending)  # An import may turn the interruption into another error.
        return _failed(error, prog_name)
    return result if type(result) is int else 0  # click returns the exit code of --help and ctx.exit() as an int


def _interrupted(ending: EndingSignal) -> int:
    say(ending.text)
    return ending.exit_code


def _failed(error: Exception, prog_name: str) -> int:
    """Print a foreseen error and return its exit code; raise any other error again."""
    if isinstance(error, CmdiadError):
        return _fail(str(error), error.exit_code)
    if isinstance(error, ModuleNotFoundError) and (problem := missing_package(error, prog_name)):
        return _fail(problem, EngineError.exit_code)
    if isinstance(error, OSError):
        return _fail(_describe(error), OutputError.exit_code)
    raise error


class _StderrHandler(logging.Handler):
    """A log handler that writes `level: message` to the current stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        say(f"{record.levelname.lower()}: {self.format(record)}")


def _set_up_logging() -> None:
    level = os.environ.get(LOG_VARIABLE, "").lower() or "warning"
    if level not in _LEVELS:
        raise click.UsageError(f"{LOG_VARIABLE} is {level!r}. Expected one of {', '.join(_LEVELS)}.")
    logger = logging.getLogger("cmdiad")
    logger.setLevel(level.upper())
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        logger.addHandler(_StderrHandler())


def missing_package(error: ModuleNotFoundError, prog_name: str) -> str:
    """Return problem and remedy as one line if a package of an extra is not installed, or "" for any other module.

    Args:
        error: Error of the import.
        prog_name: Name of the command that needs the package.
    """
    package = (error.name or "").split(".")[0]
    if package not in EXTRAS:
        return ""
    extra = COMMAND_EXTRAS.get(prog_name, EXTRAS[package])
    return f'{prog_name} needs the package {package!r}, which is not installed. Run: pip install "cmdiad[{extra}]".'


def _fail(message: str, exit_code: int) -> int:
    say(f"error: {printable(message)}")
    return exit_code


def _describe(error: OSError) -> str:
    """Return the error as one line, with the names of the files if the system reports them."""
    reason = cause_of(error)
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    return " ".join(f"{' -> '.join(names) or 'input or output failed'}: {reason}".split())
