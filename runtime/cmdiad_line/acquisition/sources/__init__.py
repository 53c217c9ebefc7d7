"""The kinds of sources. Each has a module with the function `make(settings, state) -> Source`.

A driver is imported when a source of its kind is opened.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from cmdiad_line.acquisition.source import Source
from cmdiad_line.station_file.source import SOURCE_KINDS
from cmdiad_line.station_file.source import Source as Settings


def make_source(settings: Settings, state: Path) -> Source:
    """Return the source that a `[[source]]` section describes, not yet open.

    Args:
        settings: The section.
        state: State folder of the station.
    """
    kind = next(kind for kind, section in SOURCE_KINDS.items() if type(settings) is section)
    source: Source = import_module(f"{__name__}.{kind}").make(settings, state)
    return source
