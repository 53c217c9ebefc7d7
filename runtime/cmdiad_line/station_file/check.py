"""Checks between the sections of a station file, for example one port that is used twice."""

from __future__ import annotations

import os

from cmdiad_line.station_file.certificates import certificate_mistakes
from cmdiad_line.station_file.servers import ServerSection, is_loopback
from cmdiad_line.station_file.source import modalities_of
from cmdiad_line.station_file.station import Station
from cmdiad_runtime.bundle.manifest import read_manifest
from cmdiad_runtime.errors import CmdiadError
from cmdiad_runtime.names import Modality
from cmdiad_runtime.support.toml_file.lines import Lines
from cmdiad_runtime.support.toml_file.mistakes import Mistake

LONGEST_STATE = 90
"""Longest path of a state folder with a socket in bytes: the system allows 107 for a socket."""


def check_station(station: Station, lines: Lines) -> list[Mistake]:
    """Return the mistakes that concern several sections.

    Args:
        station: Station whose sections have no mistake by themselves.
        lines: Line numbers of its file.
    """
    checks = (_state, _ports, _protection, certificate_mistakes, _sources, _simulation, _lines, _recipe)
    return [mistake for check in checks for mistake in check(station, lines)]


def _state(station: Station, lines: Lines) -> list[Mistake]:
    """Return a mistake if a file is in the place of the state folder or of a folder above it."""
    place = next((path for path in (station.state, *station.state.parents) if path.exists()), station.state)
    if place.is_dir():
        return []
    return [
        Mistake(
            line=lines.of("station", "state"),
            subject="station.state",
            problem=f"{place}, which is no folder",
            expected="a folder, or a path where one can be created",
            action="choose another path, or move the file away",
        )
    ]


def _ports(station: Station, lines: Lines) -> list[Mistake]:
    """Return one mistake for each server that has the port of an earlier one."""
    owners: dict[int, str] = {}
    mistakes = []
    for name, section in _servers(station):
        owner = owners.setdefault(section.port, name) if section.port else name
        if owner != name:
            mistakes.append(
                Mistake(
                    line=lines.of(name, "port"),
                    subject=f"{name}.port",
                    problem=f"{section.port}, which [{owner}] uses too",
                    expected="a separate port for each server",
                    action="choose another port",
                )
            )
    return mistakes


def _lines(station: Station, lines: Lines) -> list[Mistake]:
    """Return a mistake if digital lines alone show results, but none of them can end a result."""
    gpio = station.gpio
    if gpio is None or station.modbus is not None or station.pushes or {"trigger", "results_ack"} & gpio.inputs.keys():
        return []
    return [
        Mistake(
            line=lines.of("gpio"),
            subject="gpio.inputs",
            problem="neither trigger nor results_ack",
            expected="one of them, because a result is shown until the next trigger or its acknowledgement",
            action="connect trigger or results_ack, or add [modbus]",
        )
    ]


def _protection(station: Station, lines: Lines) -> list[Mistake]:
    """Return one mistake for each server that other machines reach without protection."""
    return [
        Mistake(
            line=lines.of(name, "address"),
            subject=f"{name}.address",
            problem=f"{section.address}, which other machines reach",
            expected=f"protection: {section.missing_protection()}",
            action=f"set {section.missing_protection()}, or use the address 127.0.0.1",
        )
        for name, section in _servers(station)
        if not is_loopback(section.address) and section.missing_protection()
    ]


def _servers(station: Station) -> list[tuple[str, ServerSection]]:
    return [(name, section) for name, section in station.outside if isinstance(section, ServerSection)]


def _sources(station: Station, lines: Lines) -> list[Mistake]:
    """Return the mistakes of sources that do not go together."""
    mistakes: list[Mistake] = []

    def add(index: int, key: str, problem: str, expected: str, action: str) -> None:
        line = lines.of("source", key, index=index)
        mistakes.append(Mistake(line=line, subject=f"source.{key}", problem=problem, expected=expected, action=action))

    names: set[str] = set()
    delivered: dict[Modality, int] = {}
    for index, source in enumerate(station.sources):
        if source.name in names:
            add(index, "name", f"{source.name!r}, which another source has too", "a separate name", "choose a name")
        names.add(source.name)
        for modality in modalities_of(source.delivers):
            owner = delivered.setdefault(modality, index)
            if owner != index:
                problem = f"{modality}, which {station.sources[owner].name!r} delivers too"
                add(index, "delivers", problem, "one source for each sensor", "correct delivers, or remove one source")
        if source.pushes and len(station.sources) > 1:
            expected = "no other source, because its frames are triggers"
            add(index, "kind", source.kind, expected, "remove the other sources; one folder or push delivers both")
    if any(source.kind == "push" for source in station.sources):
        if station.web is None:
            add(0, "kind", "push without [web]", "a section [web], which receives the frames", "add [web]")
        if len(os.fsencode(station.state)) > LONGEST_STATE:
            problem = f"push and a state folder with {len(os.fsencode(station.state))} bytes in its path"
            add(0, "kind", problem, f"at most {LONGEST_STATE}, for the socket in it", "choose a shorter state folder")
    return mistakes


def _simulation(station: Station, lines: Lines) -> list[Mistake]:
    """Return one mistake for each simulated sensor whose verdicts a plant could take for real ones."""
    outputs = [name for name, section in _servers(station) if name != "web" and not is_loopback(section.address)]
    outputs += ["gpio"] if station.gpio is not None else []
    if station.simulation or not outputs:
        return []
    return [
        Mistake(
            line=lines.of("source", "kind", index=index),
            subject="source.kind",
            problem=f"a simulated sensor, although [{outputs[0]}] reaches the plant",
            expected="a real sensor, because a simulated one does not see the part",
            action="change kind, or set simulation = true in [station] while the plant does not produce",
        )
        for index, source in enumerate(station.sources)
        if source.kind == "simulated"
    ]


def _recipe(station: Station, lines: Lines) -> list[Mistake]:
    """Return a mistake if the bundle cannot be used with the sources."""
    try:
        manifest, _ = read_manifest(station.recipe.bundle, station.recipe.public_key)
    except CmdiadError as error:
        return [
            Mistake(
                line=lines.of("recipe", "bundle"),
                subject="recipe.bundle",
                problem=f"{error.subject} with {error.found}",
                expected=error.expected or "a bundle",
                action=error.action,
            )
        ]
    needed = manifest.preprocessing.modalities
    delivered = {modality for source in station.sources for modality in modalities_of(source.delivers)}
    return [
        Mistake(
            line=lines.of("source"),
            subject="source.delivers",
            problem=f"no source that delivers {modality}",
            expected=f"a source for {modality}, because the bundle of [recipe] inspects it",
            action=f'add a source, set delivers = "both", or use a bundle without {modality}',
        )
        for modality in needed
        if modality not in delivered
    ]
