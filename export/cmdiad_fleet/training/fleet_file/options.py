"""Check the options of commands in a fleet file, and convert them to arguments of a command line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import click

from cmdiad_runtime.support.toml_file.read import nearest

TRAIN, EXPORT = "cmdiad-train", "cmdiad-export"
"""Commands whose options a fleet file has."""
SET_BY_FLEET = ("category", "out", "cache-dir", "cache-gb", "test", "no-test", "run", "help", "version")
"""Options that the fleet sets itself."""
OF_ONE_DETECTOR = ("network-from", "calibration", "mask", "from-run", "candidate")
"""Options that belong to one category. A recipe is for many."""
WITHOUT_DETECTOR = ("assess-modalities", "assess-folds")
"""Options of a command that trains no detector."""
MEASURING = ("plan", "budget-ms", "budget-mb")
"""Options that measure time or memory, which trainings next to each other would change."""

_ANY_FOLDER = "."
"""Data set or run of a command line that is parsed and not executed."""


@dataclass(frozen=True)
class OptionMistake:
    """Mistake in one option. The attributes are those of `Mistake`, except that `key` is the name of the option."""

    key: str
    problem: str
    expected: str
    action: str


def arguments_of(options: Mapping[str, Any], command: click.Command) -> list[str]:
    """Return options without mistakes as arguments of a command line, in their order.

    Args:
        options: Values by name of the option, with hyphens or underscores.
        command: Command that takes the options.
    """
    known = _options_of(command)
    return [argument for key, value in options.items() for argument in _arguments(known[_name(key)], key, value)]


def mistakes_in(options: Mapping[str, Any], command: click.Command, program: str) -> Iterator[OptionMistake]:
    """Yield the mistakes of options, each by itself. Contradictions between options are found by the command.

    Args:
        options: Values by name of the option.
        command: Command that takes the options.
        program: Name of the command for messages.
    """
    known = _options_of(command)
    keys: dict[click.Option, str] = {}
    for key, value in options.items():
        name = _name(key)
        if name in (*SET_BY_FLEET, *OF_ONE_DETECTOR, *WITHOUT_DETECTOR, *MEASURING):
            yield OptionMistake(key, "an option that no fleet file has", _expectation(name), "remove it")
        elif name not in known:
            yield OptionMistake(key, "an unknown option", f"an option of {program}", nearest(name, list(known)))
        elif (first := keys.setdefault(known[name], key)) != key:
            yield OptionMistake(key, f"the same option as {first}", "each option once", "remove one of them")
        elif problem := _problem(command, known[name], key, value):
            yield OptionMistake(key, problem, f"a value of --{name}", f"run {program} --help for the values")


def _problem(command: click.Command, option: click.Option, key: str, value: Any) -> str:
    """Return the problem of one value, or "" if the command takes it."""
    scalars = value if isinstance(value, list) else [value]
    if (isinstance(value, list) and not option.multiple) or not all(
        isinstance(scalar, str | int | float) for scalar in scalars
    ):
        return f"{value!r:.60}"
    if option.is_flag != isinstance(value, bool):
        return f"{value!r:.60}, {'not' if option.is_flag else 'which is'} true or false"
    try:
        command.make_context(command.name, [_ANY_FOLDER, *_arguments(option, key, value)])
    except click.UsageError as error:
        return f"{value!r:.60} ({error.format_message().rstrip('.')})"
    return ""


def _options_of(command: click.Command) -> dict[str, click.Option]:
    """Return the options of a command by name, without those that are the negation of a flag."""
    parameters = command.get_params(click.Context(command))
    options = [parameter for parameter in parameters if isinstance(parameter, click.Option)]
    return {name.removeprefix("--"): option for option in options for name in option.opts if name.startswith("--")}


def _arguments(option: click.Option, key: str, value: Any) -> list[str]:
    name = f"--{_name(key)}"
    if isinstance(value, bool):
        return [name] if value else option.secondary_opts[:1]
    return [f"{name}={scalar}" for scalar in (value if isinstance(value, list) else [value])]


def _name(key: str) -> str:
    return key.replace("_", "-")


def _expectation(name: str) -> str:
    if name in OF_ONE_DETECTOR:
        return "options that hold for every category"
    if name in WITHOUT_DETECTOR:
        return "options that train a detector"
    return "options that measure nothing" if name in MEASURING else "options that the fleet does not set itself"
