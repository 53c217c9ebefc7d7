"""Modbus TCP server of the handshake, by pymodbus. It stores only what the PLC has written.

Outputs are computed for each request. A request is served without interruption, so a client that reads all input
registers with one request sees one moment.
pymodbus serves one request at a time per connection: a client must wait for the answer before its next request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pymodbus.constants import ExcCodes
from pymodbus.server import ModbusTcpServer
from pymodbus.server.requesthandler import ServerRequestHandler
from pymodbus.simulator import DataType, SimData, SimDevice

from cmdiad_line.plc.registers import (
    COILS,
    DISCRETE_INPUTS,
    HOLDING_REGISTER_COUNT,
    HOLDING_REGISTERS,
    INPUT_REGISTER_COUNT,
    control_word,
    input_levels,
    output_words,
    words_text,
)
from cmdiad_line.plc.signals import Outputs
from cmdiad_runtime.errors import CmdiadError

_READ_COILS, _READ_DISCRETE_INPUTS, _READ_INPUT_REGISTERS = 1, 2, 4
_COIL_FUNCTIONS = (_READ_COILS, 5, 15)
_BITS_PER_REGISTER = 16


class ModbusServer:
    """A Modbus TCP server in the running event loop.

    Args:
        write: Receives the levels of inputs that a client has set with one request.
        write_text: Receives name and content of a text that a client has set.
        outputs: Returns the outputs of this moment.
    """

    def __init__(
        self,
        write: Callable[[Mapping[str, bool]], None],
        write_text: Callable[[str, str], None],
        outputs: Callable[[], Outputs],
    ) -> None:
        self._write = write
        self._write_text = write_text
        self._outputs = outputs
        self._holding = [0] * HOLDING_REGISTER_COUNT
        self._server: Any = None

    async def open(self, address: str, port: int, clients: tuple[str, ...]) -> int:
        """Listen, and return the port.

        Args:
            address: IP address to bind to.
            port: Port, or 0 for a free one.
            clients: IP addresses that may connect; empty for every address.

        Raises:
            CmdiadError: The port cannot be opened.
        """
        self._server = _Server(self._device(), address=(address, port), clients=clients)
        try:
            await self._server.serve_forever(background=True)
        except RuntimeError as error:
            raise CmdiadError(
                f"[modbus] {address}:{port}",
                found="an address or port that cannot be opened",
                expected="an address of this machine and a port that no other program uses, above 1023 or with the "
                "right to bind lower ones",
                action="correct address or port in the station file",
            ) from error
        return int(self._server.transport.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Close the port and all connections. Idempotent."""
        if self._server is not None:
            await self._server.shutdown()
            self._server = None

    def _device(self) -> SimDevice:
        """Return the memory map; its content is replaced in `_access` at each request."""
        return SimDevice(
            id=0,  # Every unit id.
            simdata=(
                [SimData(0, values=[False] * _BITS_PER_REGISTER, datatype=DataType.BITS)],
                [SimData(0, values=[False] * _BITS_PER_REGISTER, datatype=DataType.BITS, readonly=True)],
                [SimData(0, count=HOLDING_REGISTER_COUNT, datatype=DataType.REGISTERS)],
                [SimData(0, count=INPUT_REGISTER_COUNT, datatype=DataType.REGISTERS, readonly=True)],
            ),
            action=self._access,
        )

    async def _access(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        registers: list[int],
        values: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        """Serve one request: fill the registers that are read, or pass on what is written. Never waits."""
        if values is None:
            self._fill(function, registers)
            return None
        if function in _COIL_FUNCTIONS:
            return self._write_coils(address, [bool(value) for value in values])
        self._write_holding(address, [int(value) for value in values])
        return None

    def _fill(self, function: int, registers: list[int]) -> None:
        if function in _COIL_FUNCTIONS:
            registers[0] = self._holding[0]
        elif function == _READ_DISCRETE_INPUTS:
            registers[0] = output_words(self._outputs())[0]
        elif function == _READ_INPUT_REGISTERS:
            registers[:INPUT_REGISTER_COUNT] = output_words(self._outputs())
        else:
            registers[:HOLDING_REGISTER_COUNT] = self._holding

    def _write_coils(self, address: int, values: list[bool]) -> ExcCodes | None:
        if address + len(values) > len(COILS):
            return ExcCodes.ILLEGAL_ADDRESS
        names = list(COILS)[address : address + len(values)]
        self._set_levels(dict(zip(names, values, strict=True)))
        return None

    def _write_holding(self, address: int, values: list[int]) -> None:
        """Store texts first, so that one request can carry a text and the edge that needs it."""
        end = address + len(values)
        self._holding[address:end] = values
        for field in HOLDING_REGISTERS.values():
            if field.kind == "text" and field.address < end and address < field.end:
                self._write_text(field.name, words_text(self._holding[field.address : field.end]))
        if address == 0:
            self._set_levels(input_levels(values[0]))

    def _set_levels(self, levels: dict[str, bool]) -> None:
        self._holding[0] = control_word({**input_levels(self._holding[0]), **levels})
        self._write(levels)


assert len(DISCRETE_INPUTS) == _BITS_PER_REGISTER, "the status has one register"


class _Server(ModbusTcpServer):
    """A server that cuts connections of clients that are not listed."""

    def __init__(self, device: SimDevice, *, address: tuple[str, int], clients: tuple[str, ...]) -> None:
        super().__init__(device, address=address)
        self.clients = clients

    def callback_new_connection(self) -> ServerRequestHandler:
        """Return the handler of a new connection."""
        connection: Any = _Connection
        handler: ServerRequestHandler = connection(self, self.trace_packet, self.trace_pdu, self.trace_connect)
        return handler


class _Connection(ServerRequestHandler):
    """A connection that is cut before its first request if the client is not listed."""

    def callback_connected(self) -> None:
        """Cut the connection if the client is not listed."""
        super().callback_connected()
        transport: Any = self.transport
        clients = self.server.clients
        if clients and transport.get_extra_info("peername")[0] not in clients:
            transport.abort()
