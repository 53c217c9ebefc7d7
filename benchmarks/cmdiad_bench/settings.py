"""Options of `cmdiad-train` in the form `--set NAME=VALUE`."""

from __future__ import annotations

import click


def parse_settings(texts: tuple[str, ...]) -> dict[str, str]:
    """Return the options of `--set NAME=VALUE` by name; click.BadParameter for any other text."""
    settings = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--set")
        settings[name.removeprefix("--")] = value
    return settings
