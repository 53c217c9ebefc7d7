"""Times on the command line."""

from __future__ import annotations

import datetime

import click


def utc_time(context: click.Context, parameter: click.Parameter, value: str | None) -> str | None:
    """Return a time of the command line as ISO 8601 in UTC, as the records have it. Without a zone it is local."""
    if value is None:
        return None
    try:
        time = datetime.datetime.fromisoformat(value)
    except ValueError as error:
        raise click.BadParameter(f"{value!r} is no date or time such as 2026-11-26 or 2026-11-26T06:00") from error
    return time.astimezone(datetime.timezone.utc).isoformat(timespec="milliseconds")
