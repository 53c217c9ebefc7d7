"""Options of `cmdiad-train` in the form `--set NAME=VALUE`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import click


def parse_settings(texts: tuple[str, ...]) -> dict[str, str]:
    """Return the options of `--set NAME=VALUE` by name; click.BadParameter for any other text."""
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="'--set'")
        settings[name.removeprefix("--")] = value
    return settings


@contextmanager
def setting_errors(settings: Mapping[str, str], family: str = "") -> Iterator[None]:
    """Turn a usage error of `cmdiad-train` in the block into one that names `--set`, which the user typed.

    Args:
        settings: Options of `cmdiad-train` by name without dashes.
        family: Family whose settings `FAMILY.NAME` are options too.

    Raises:
        click.BadParameter: The block raised click.UsageError.
    """
    try:
        yield
    except click.UsageError as error:
        text = error.message if isinstance(error, click.BadParameter) else error.format_message()
        names = [name for name in settings if _is_named(name.removeprefix(f"{family}."), error)]
        typed = ", ".join(f"{name}={settings[name]}" for name in names or settings)
        raise click.BadParameter(f"{typed}: {text}" if typed else text, param_hint="'--set'") from error


def _is_named(name: str, error: click.UsageError) -> bool:
    """Return True if a usage error is about the option of this name or has it in the text."""
    option = f"--{name}"
    if isinstance(error, click.NoSuchOption):
        return error.option_name == option
    if isinstance(error, click.BadParameter) and error.param is not None:
        return option in error.param.opts
    return re.search(rf"{re.escape(option)}(?![\w-])", error.format_message()) is not None
