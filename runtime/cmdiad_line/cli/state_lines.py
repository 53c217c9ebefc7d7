"""Lines on stderr about a running station: its addresses, when it is ready, and why it is not."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cmdiad_line.web.address_file import ADDRESS_FILE, read_address
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.output import say

if TYPE_CHECKING:
    from cmdiad_line.station_file.station import Station
    from cmdiad_line.transport.messages import StationState

_LAST_S = 1.0
"""Seconds that the last lines may take at the end."""


class StateLines:
    """Writer of the lines, in a separate thread, so that a full pipe never delays the station.

    Args:
        station: The station.
    """

    def __init__(self, station: Station) -> None:
        self._station = station
        self._seen: object = None
        self._opened: set[str] = set()
        self._last = ""
        self._states: queue.SimpleQueue[StationState | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="state-lines", daemon=True)
        self._thread.start()

    def show(self, state: StationState) -> None:
        """Write the lines for a changed state. Returns at once."""
        seen = state.phase, state.message, state.recipe_id, state.processes
        if seen != self._seen:
            self._seen = seen
            self._states.put(state)

    def close(self) -> None:
        """Wait for the last lines, but not longer than a second."""
        self._states.put(None)
        self._thread.join(_LAST_S)

    def _write(self) -> None:
        while (state := self._states.get()) is not None:
            for line in self._lines(state):
                say(printable(line))

    def _lines(self, state: StationState) -> Iterator[str]:
        """Yield what is new in a state. A first start is silent as long as processes only need more time."""
        for process in ("web", "plc", "opcua", "mqtt"):
            if process not in self._opened and state.processes.get(process) == "running":
                self._opened.add(process)
                yield from _addresses(self._station, process)
        line = {"ready": f"ready: recipe {state.recipe_id}", "stopped": "stopped"}.get(
            state.phase, f"not ready ({state.reason}): {state.message}"
        )
        if line != self._last and (state.phase != "starting" or self._last.startswith("ready")):
            self._last = line
            yield f"station {self._station.name} {line}"


def _addresses(station: Station, process: str) -> Iterator[str]:
    """Yield a line for the address that a running process has opened."""
    if process == "web":
        yield f"page: {_page(station)}"
    elif process == "plc" and station.modbus is not None:
        yield f"Modbus TCP: {_place(station.modbus.address, station.modbus.port)}"
    elif process == "opcua" and station.opcua is not None:
        yield f"OPC UA: opc.tcp://{_place(station.opcua.address, station.opcua.port)}/cmdiad"
    elif process == "mqtt" and station.mqtt is not None:
        yield f"MQTT broker: {_place(station.mqtt.host, station.mqtt.port)}"


def _page(station: Station) -> str:
    """Return the address that the web process has written, because it may have chosen the port."""
    return str(read_address(station.state).get("url", f"see {station.state / ADDRESS_FILE}"))


def _place(host: str, port: int) -> str:
    return f"{f'[{host}]' if ':' in host else host}:{port or '(any free port)'}"
