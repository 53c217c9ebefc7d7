"""What all commands have in common: how they end.

Messages go to stderr, one line each and never a traceback for what can be foreseen. Exit codes: 0 done,
2 a wrong command line, 130 an interruption, those of `cmdiad_runtime.errors` otherwise.
"""

from __future__ import annotations

import os
import sys

import click

from cmdiad_runtime.errors import CmdiadError, EngineError, OutputError

INTERRUPTED = 130
EXTRAS = {
    "torch": "train",
    "timm": "train",
    "sklearn": "train",
    "safetensors": "train",
    "yaml": "train",
    "matplotlib": "train",
    "jinja2": "bench",
    "onnx": "export",
    "onnxscript": "export",
}
"""Which extra brings a package that some commands need."""


def run_command(command: click.Command, prog_name: str) -> None:
    """Run a click command with the arguments of this process and end the process.

    Args:
        command: what to run. A whole number that it returns is the exit code, anything else means 0.
        prog_name: the name that usage and error messages show.

    Raises:
        SystemExit: always, with the exit code.
    """
    sys.exit(_run(command, prog_name))


def _run(command: click.Command, prog_name: str) -> int:
    try:
        result = command.main(prog_name=prog_name, standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except CmdiadError as error:
        return _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        return _fail_for_package(error, prog_name)
    except OSError as error:
        return _fail(_describe(error), OutputError.exit_code)
    return result if type(result) is int else 0  # click returns the code of --help and of ctx.exit() so


def _fail_for_package(error: ModuleNotFoundError, prog_name: str) -> int:
    package = (error.name or "").split(".")[0]
    if package not in EXTRAS:
        raise error
    missing = EngineError(
        package,
        found="no such package here",
        expected=f"it for this {prog_name} command",
        action=f'run pip install "cmdiad[{EXTRAS[package]}]"',
    )
    return _fail(str(missing), missing.exit_code)


def _fail(message: str, exit_code: int) -> int:
    click.echo(f"error: {message}", err=True)
    return exit_code


def _describe(error: OSError) -> str:
    """One line with the file's name, where the system tells it."""
    reason = (error.strerror or str(error) or type(error).__name__).lower()
    names = [os.fsdecode(name) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))]
    return " ".join(f"{' -> '.join(names) or 'input or output failed'}: {reason}".split())
