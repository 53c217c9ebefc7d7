"""Read a station file, and report every mistake in it at once."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from cmdiad_line.station_file.general import General
from cmdiad_line.station_file.mistakes import StationFileError
from cmdiad_line.station_file.recipe import Recipe
from cmdiad_line.station_file.source import SOURCE_KINDS, Source
from cmdiad_line.station_file.station import INSIDE, OUTSIDE, Station
from cmdiad_runtime.support.toml_file.read import TomlReader, nearest


def read_station(path: str | os.PathLike[str], *, folder: Path | None = None, running: bool = False) -> Station:
    """Read and check a station file.

    Args:
        path: TOML file.
        folder: Folder that relative paths in the file refer to; None for the folder of the file.
        running: True for a process of a running station. Then only the content of the file is checked, because a
            process must be able to restart although somebody has moved the bundle in the meantime.

    Returns:
        The station, with absolute paths.

    Raises:
        StationFileError: The file is missing, is no TOML, or has mistakes; all of them are listed.
    """
    file = Path(path).absolute()
    reader = TomlReader(file, kind="a station file", page="docs/station.md", folder=folder, exists=not running)
    station = _station(reader, file) if reader.readable else None
    mistakes = reader.mistakes
    if station is not None and not running:
        from cmdiad_line.station_file.check import check_station  # A process that restarts does not need these imports.

        # A wrong value was replaced by its default, which the user did not write.
        mistakes += [m for m in check_station(station, reader.lines) if m.subject.split(".")[0] not in reader.replaced]
    if mistakes or station is None:
        raise StationFileError(file, mistakes)
    return station


def _station(reader: TomlReader, file: Path) -> Station | None:
    """Return the station, or None if a section without a default cannot be read."""
    kinds = {**OUTSIDE, **INSIDE}
    reader.check_names(["station", "recipe", "source", *kinds])
    general = reader.required("station", General)
    recipe = reader.required("recipe", Recipe)
    sources = _sources(reader)
    others: dict[str, Any] = {
        name: reader.section(name, kind) for name, kind in kinds.items() if name in reader.content
    }
    if general is None or recipe is None or not sources or None in others.values():
        return None
    return Station(**vars(general), file=file, recipe=recipe, sources=tuple(sources), **others)


def _sources(reader: TomlReader) -> list[Source]:
    sources = []
    for index, table in enumerate(reader.tables("source", "kind")):
        name = table.get("kind")
        kind = SOURCE_KINDS.get(name) if isinstance(name, str) else None
        if kind is None:
            problem = "no kind" if name is None else f"{name!r:.60}"
            action = nearest(str(name), list(SOURCE_KINDS)) if name else "add the key kind"
            reader.add("source", "kind", problem, f"one of {', '.join(SOURCE_KINDS)}", action, index=index)
            continue
        source = reader.fill("source", kind, table, index)
        sources += [] if source is None else [source]
    return sources
