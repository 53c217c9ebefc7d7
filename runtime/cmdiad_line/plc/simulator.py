"""A simulated PLC: a Modbus TCP client that runs `PlcProgram` in scan cycles. Used by tests and by the command line."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException

from cmdiad_line.plc.program import PlcProgram
from cmdiad_line.plc.registers import INPUT_REGISTER_COUNT, control_word, outputs_of, text_words
from cmdiad_line.plc.signals import INPUTS, Outputs

SCAN_S = 0.002
"""Seconds between two requests of the simulated PLC."""


class PlcConnectionError(ConnectionError):
    """The station does not answer."""


class PlcClient:
    """A connection to the Modbus TCP server of a station, with all signals by name.

    Args:
        host: Name or address of the station.
        port: Port of its server.
        timeout_s: Seconds to wait for an answer.
        reads_only: True to leave the bits alone when connecting, for a second client.
    """

    def __init__(self, host: str, port: int, *, timeout_s: float = 2.0, reads_only: bool = False) -> None:
        logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # It dumps packets when a connection is lost.
        self._client: Any = ModbusTcpClient(host, port=port, timeout=timeout_s, retries=0)
        self._name = f"{host}:{port}"
        self._reads_only = reads_only
        self._levels = dict.fromkeys(INPUTS, False)

    def __enter__(self) -> PlcClient:
        self.connect()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def connect(self) -> None:
        """Connect, and lower every bit (unless `reads_only`), so that the next rising edge counts.

        Raises:
            PlcConnectionError: The station does not answer.
        """
        self._client.close()
        if not self._client.connect():
            raise PlcConnectionError(f"{self._name} does not answer")
        self._levels = dict.fromkeys(INPUTS, False)
        if not self._reads_only:
            self.write()

    def close(self) -> None:
        """Close the connection. Idempotent."""
        self._client.close()

    def read(self) -> Outputs:
        """Return all outputs of the station, read with one request.

        Raises:
            PlcConnectionError: The station does not answer.
        """
        return outputs_of(self._answer(lambda: self._client.read_input_registers(0, count=INPUT_REGISTER_COUNT)))

    def write(self, levels: Mapping[str, bool] | None = None, *, part_id: str = "", requested_recipe: str = "") -> None:
        """Set some bits, by the names of INPUTS, and both texts, with one request. Other bits keep their level.

        Raises:
            PlcConnectionError: The station does not answer.
        """
        self._levels.update(levels or {})
        assert self._levels.keys() == INPUTS.keys(), self._levels.keys() - INPUTS.keys()
        words = [control_word(self._levels), *text_words(requested_recipe), *text_words(part_id)]
        self._answer(lambda: self._client.write_registers(0, words))

    def _answer(self, request: Callable[[], Any]) -> list[int]:
        """Send a request and return the registers of its answer."""
        try:
            answer = request()
        except (ModbusException, OSError) as error:
            raise PlcConnectionError(f"{self._name}: {error}") from error
        if answer.isError():
            raise PlcConnectionError(f"{self._name}: {answer}")
        registers: list[int] = answer.registers
        return registers

    def wait(self, condition: Callable[[Outputs], bool], *, timeout_s: float = 10.0) -> Outputs:
        """Return the first outputs for which a condition holds.

        Raises:
            TimeoutError: The condition did not hold within the time limit.
        """
        end = time.monotonic() + timeout_s
        while True:
            outputs = self.read()
            if condition(outputs):
                return outputs
            if time.monotonic() > end:
                raise TimeoutError(f"{self._name}: the condition did not hold within {timeout_s:g} s, but {outputs}")
            time.sleep(SCAN_S)  # Without a pause, waiting would keep a processor and the station's server busy.

    def command(self, name: str, *, requested_recipe: str = "", timeout_s: float = 60.0) -> bool:
        """Raise a command bit, wait for the answer and lower it. Return True if the command took effect."""
        answers = {"command_done", "command_failed"}
        self.write({name: True}, requested_recipe=requested_recipe)
        outputs = self.wait(lambda outputs: bool(outputs.bits & answers), timeout_s=timeout_s)
        self.write({name: False})
        self.wait(lambda outputs: not outputs.bits & answers)
        return "command_done" in outputs.bits


def run_program(client: PlcClient, program: PlcProgram, *, limit_s: float = 3600.0) -> int:
    """Run a program in scan cycles until it is done. A lost connection is opened again.

    Args:
        client: Connection to the station.
        program: Program to run.
        limit_s: Seconds after which to stop in any case.

    Returns:
        Number of lost connections.
    """
    lost = 0
    end = time.monotonic() + limit_s
    written: tuple[dict[str, bool], str] | None = None
    connected = True
    while not program.done and time.monotonic() < end:
        try:
            if not connected:
                client.connect()
                program.reconnected()
                connected, written = True, None
            program.scan(client.read(), time.monotonic())
            if written != (program.levels, program.part_id):
                client.write(program.levels, part_id=program.part_id)
                written = (dict(program.levels), program.part_id)
        except PlcConnectionError:
            lost += connected
            connected = False
        time.sleep(SCAN_S if connected else 10 * SCAN_S)
    return lost
