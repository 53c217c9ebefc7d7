"""The process `plc`, which serves one handshake by Modbus TCP, by digital lines, or by both."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping, Sequence

from cmdiad_line.plc.gpio import GpioLines
from cmdiad_line.plc.handshake import Handshake, HandshakeSettings
from cmdiad_line.plc.modbus import ModbusServer
from cmdiad_line.plc.signals import SILENT_OUTPUTS, Outputs
from cmdiad_line.station_file.gpio import Gpio
from cmdiad_line.station_file.modbus import Modbus
from cmdiad_line.station_file.station import Station
from cmdiad_line.transport.link import Link, LinkClosedError
from cmdiad_line.transport.messages import Alive, End, Message, Ready

ALIVE_S = 0.2
"""Seconds between two signs of life."""
_TICK_S = 0.01  # Longest delay of an output line that changes by time alone.
_NS_PER_MS = 1_000_000

logger = logging.getLogger("cmdiad.line.plc")


def serve(link: Link, station: Station) -> None:
    """Serve the PLC until the supervisor sends `End` or is gone."""
    asyncio.run(_PlcProcess(link, station.modbus, station.gpio).run())


class _PlcProcess:
    """The event loop of the handshake, its Modbus server and its lines."""

    def __init__(self, link: Link, modbus: Modbus | None, gpio: Gpio | None) -> None:
        self._link = link
        self._modbus = modbus
        self._gpio = gpio
        times = modbus or Modbus(results=1)
        settings = HandshakeSettings(
            buffer=times.results,
            silent_ns=times.silent_ms * _NS_PER_MS,
            heartbeat_ns=times.heartbeat_ms * _NS_PER_MS,
        )
        self._handshake = Handshake(settings)
        self._server = ModbusServer(self._write, self._handshake.write_text, self._outputs)
        self._lines: GpioLines | None = None

    async def run(self) -> None:
        """Open the outputs, which are all false, and serve until the end."""
        loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[None] = loop.create_future()
        ticking: asyncio.Task[None] | None = None
        with contextlib.suppress(ValueError, RuntimeError):  # Only the main thread may.
            loop.add_signal_handler(signal.SIGTERM, self._end)
        try:
            self._open_lines()
            await self._open_server()
            self._send([Ready()])
            self._watch(self._link.fileno(), self._receive)
            ticking = asyncio.create_task(self._tick())
            await self._ended
        finally:
            if ticking is not None:
                ticking.cancel()
            loop.remove_reader(self._link.fileno())
            await self._close()

    def _open_lines(self) -> None:
        if self._gpio is None:
            return
        self._lines = GpioLines(self._gpio)
        levels = self._lines.levels()
        if self._modbus is None:
            levels.setdefault("trigger_enable", True)
        self._write(levels)
        if self._gpio.inputs:
            self._watch(self._lines.fileno(), self._read_lines)

    async def _open_server(self) -> None:
        if self._modbus is None:
            return
        port = await self._server.open(self._modbus.address, self._modbus.port, self._modbus.clients)
        logger.info("Modbus TCP listens on %s:%d", self._modbus.address, port)

    async def _close(self) -> None:
        """Set every output false: lines inactive, port closed."""
        try:
            if self._lines is not None:
                asyncio.get_running_loop().remove_reader(self._lines.fileno())
                self._lines.close()
        finally:
            await self._server.close()

    # --- events ------------------------------------------------------------------------------------------------------

    def _watch(self, descriptor: int, work: Callable[[], None]) -> None:
        """Call a function whenever a descriptor is readable; its error ends the process."""

        def call() -> None:
            try:
                work()
            except Exception as error:
                asyncio.get_running_loop().remove_reader(descriptor)
                self._end(error)

        asyncio.get_running_loop().add_reader(descriptor, call)

    def _end(self, error: Exception | None = None) -> None:
        """End the process; a closed link is an ordinary end."""
        if self._ended.done():
            return
        if error is None or isinstance(error, LinkClosedError):
            self._ended.set_result(None)
        else:
            self._ended.set_exception(error)

    def _receive(self) -> None:
        for message in self._link.receive():
            if isinstance(message, End):
                self._end()
                return
            self._send(self._handshake.receive(message, time.monotonic_ns()))
        self._show()

    def _read_lines(self) -> None:
        assert self._lines is not None
        for levels, time_ns in self._lines.edges():
            self._write(levels, time_ns)

    def _write(self, levels: Mapping[str, bool], time_ns: int | None = None) -> None:
        """Pass levels on; `time_ns` is the time of an edge, by default now."""
        now_ns = time.monotonic_ns()
        self._send(self._handshake.write(levels, now_ns, now_ns if time_ns is None else min(time_ns, now_ns)))
        self._show()

    def _send(self, messages: Sequence[Message]) -> None:
        """Send messages to the supervisor. An error ends the process, not the request of the PLC that caused it."""
        try:
            for message in messages:
                self._link.send(message)
        except OSError as error:
            self._end(error)

    async def _tick(self) -> None:
        """Send signs of life and update the lines; outputs of Modbus are computed when they are read."""
        try:
            while True:
                self._send([Alive()])
                for _ in range(round(ALIVE_S / _TICK_S) if self._lines else 1):
                    await asyncio.sleep(_TICK_S if self._lines else ALIVE_S)
                    self._show()
        except Exception as error:
            self._end(error)

    # --- outputs -----------------------------------------------------------------------------------------------------

    def _outputs(self) -> Outputs:
        """Return the outputs for Modbus."""
        if self._ended.done():
            return SILENT_OUTPUTS
        hold_ms = self._modbus.ok_hold_ms if self._modbus is not None else 0
        return self._handshake.outputs(time.monotonic_ns(), ok_hold_ns=hold_ms * _NS_PER_MS)

    def _show(self) -> None:
        """Set the lines."""
        if self._lines is None or self._gpio is None or self._ended.done():
            return
        outputs = self._handshake.outputs(time.monotonic_ns(), ok_hold_ns=self._gpio.ok_hold_ms * _NS_PER_MS)
        self._lines.show(outputs.bits)
