"""`Station`: the content of a station file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cmdiad_line.station_file.general import General
from cmdiad_line.station_file.gpio import Gpio
from cmdiad_line.station_file.modbus import Modbus
from cmdiad_line.station_file.mqtt import Mqtt
from cmdiad_line.station_file.opcua import Opcua
from cmdiad_line.station_file.pictures import Pictures
from cmdiad_line.station_file.recipe import Recipe
from cmdiad_line.station_file.records import Records
from cmdiad_line.station_file.source import Source
from cmdiad_line.station_file.web import Web


@dataclass(frozen=True, kw_only=True)
class Station(General):
    """A station: the keys of `[station]`, and one attribute per section.

    Attributes:
        file: The station file.
        recipe: Bundle to start with.
        sources: Sensors, in the order of the file, at least one.
        modbus: Modbus TCP server, or None.
        gpio: GPIO lines, or None.
        opcua: OPC UA server, or None.
        mqtt: Connection to an MQTT broker, or None.
        web: REST interface and pages, or None.
        records: Settings of the watch for drift.
        pictures: Rules for the pictures that are kept.
    """

    file: Path
    recipe: Recipe
    sources: tuple[Source, ...]
    modbus: Modbus | None = None
    gpio: Gpio | None = None
    opcua: Opcua | None = None
    mqtt: Mqtt | None = None
    web: Web | None = None
    records: Records = field(default_factory=Records)
    pictures: Pictures = field(default_factory=Pictures)

    @property
    def pushes(self) -> bool:
        """Return True if frames come by themselves, each of them a trigger."""
        return self.sources[0].pushes

    @property
    def slot_bytes(self) -> int:
        """Return the size of a frame slot: 3 bytes per pixel of an image, 12 per point of a cloud."""
        delivered = {source.delivers for source in self.sources}
        per_pixel = (3 if delivered & {"rgb", "both"} else 0) + (12 if delivered & {"xyz", "both"} else 0)
        return int(self.frame_megapixels * 1e6) * per_pixel

    @property
    def outside(self) -> Iterator[tuple[str, Any]]:
        """Yield name and content of each optional section that the file has."""
        for name in OUTSIDE:
            section = getattr(self, name)
            if section is not None:
                yield name, section


OUTSIDE: dict[str, type] = {"modbus": Modbus, "gpio": Gpio, "opcua": Opcua, "mqtt": Mqtt, "web": Web}
"""Optional sections: without one, the station has no such interface."""
INSIDE: dict[str, type] = {"records": Records, "pictures": Pictures}
"""Sections that may be absent: then their defaults apply."""
