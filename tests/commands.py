"""All commands of the package, as click objects, found through pyproject.toml."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path

import click

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"


@cache
def commands() -> dict[str, click.Command]:
    """Return the command behind each entry point, by the name that a user types."""
    section = PYPROJECT.read_text(encoding="utf-8").split("[project.scripts]")[1].split("\n[")[0]
    entries = re.findall(r'^(cmdiad-[\w-]+) = "([\w.]+):main"$', section, flags=re.MULTILINE)
    assert len(entries) >= 8
    return {name: import_module(module).cli for name, module in entries}


def all_commands() -> Iterator[tuple[str, click.Command]]:
    """Yield every command and subcommand that is not hidden, with the words that a user types."""
    for name, command in commands().items():
        yield from _tree(name, command)


def _tree(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if command.hidden:
        return
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for word in command.list_commands(context):  # Some groups import a subcommand only when it is needed.
            subcommand = command.get_command(context, word)
            assert subcommand is not None, f"{name} lists {word}, but has no such subcommand"
            yield from _tree(f"{name} {word}", subcommand)


def options(command: click.Command) -> list[click.Option]:
    """Return the options of a command, those that it adds when it runs included."""
    parameters = command.get_params(click.Context(command, info_name=command.name, **command.context_settings))
    return [parameter for parameter in parameters if isinstance(parameter, click.Option)]
