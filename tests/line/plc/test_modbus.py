"""The Modbus server with a real client: every function, illegal addresses, listed clients, a port in use."""

from __future__ import annotations

import asyncio
import socket

import pytest
from pymodbus.client import AsyncModbusTcpClient
from pymodbus.exceptions import ModbusException

from cmdiad_line.plc.modbus import ModbusServer
from cmdiad_line.plc.registers import (
    HOLDING_REGISTER_COUNT,
    INPUT_REGISTER_COUNT,
    input_levels,
    output_words,
    text_words,
)
from cmdiad_line.plc.signals import Offline, Outputs, ShownResult
from cmdiad_runtime.errors import CmdiadError
from patience import LIMIT_S

OUTPUTS = Outputs(
    bits=frozenset(["online", "results_valid", "job_pass", "scored"]),
    offline=Offline.ONLINE,
    error="",
    trigger_id=70_000,
    result=ShownResult(acquisition_id=7, reason="", score=0.5, threshold=1.0, recipe_id="gear", part_id="A7"),
)


class Plant:
    """A server, a client, and everything that the client wrote."""

    def __init__(self):
        self.written = []
        self.server = ModbusServer(
            lambda levels: self.written.append(dict(levels)),
            lambda name, text: self.written.append((name, text)),
            lambda: OUTPUTS,
        )

    async def __aenter__(self):
        port = await self.server.open("127.0.0.1", 0, ())
        self.client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=LIMIT_S, retries=0)
        assert await self.client.connect()
        return self

    async def __aexit__(self, *error):
        self.client.close()
        await self.server.close()


def test_reading():
    async def run():
        async with Plant() as plant:
            words = output_words(OUTPUTS)
            answer = await plant.client.read_input_registers(0, count=INPUT_REGISTER_COUNT)
            assert answer.registers == words
            assert (await plant.client.read_input_registers(4, count=2)).registers == [1, 70_000 - 65_536]
            bits = (await plant.client.read_discrete_inputs(0, count=16)).bits[:16]
            assert bits == [bool(words[0] >> bit & 1) for bit in range(16)]
            assert (await plant.client.read_discrete_inputs(5, count=2)).bits[:2] == [True, True]
            assert plant.written == []

    asyncio.run(run())


def test_writing_coils_and_control_is_the_same():
    async def run():
        async with Plant() as plant:
            client = plant.client
            assert not (await client.write_coil(1, True)).isError()
            assert not (await client.write_coils(2, [True, False])).isError()
            assert (await client.read_coils(0, count=8)).bits[:8] == [False, True, True, *[False] * 5]
            assert (await client.read_holding_registers(0, count=1)).registers == [0b110]
            assert not (await client.write_register(0, 0b1)).isError()
            assert not (await client.mask_write_register(address=0, and_mask=0b1, or_mask=0b10)).isError()
            assert plant.written == [
                {"trigger": True},
                {"results_ack": True, "reset": False},
                input_levels(0b1),
                input_levels(0b11),
            ]

    asyncio.run(run())


def test_texts_are_stored_before_the_edge_of_the_same_request():
    async def run():
        async with Plant() as plant:
            words = [0b10, *text_words("gear"), *text_words("A7")]
            assert not (await plant.client.write_registers(0, words)).isError()
            assert plant.written == [("requested_recipe", "gear"), ("part_id", "A7"), input_levels(0b10)]
            plant.written.clear()
            answer = await plant.client.readwrite_registers(
                read_address=0, read_count=2, write_address=33, values=text_words("B8")[:2]
            )
            assert answer.registers == [0b10, text_words("gear")[0]]
            assert plant.written == [("part_id", "B8")], "a text alone moves no level"

    asyncio.run(run())


def test_illegal_addresses_are_refused_and_change_nothing():
    async def run():
        async with Plant() as plant:
            client = plant.client
            answers = [
                await client.read_input_registers(1, count=INPUT_REGISTER_COUNT),
                await client.read_holding_registers(HOLDING_REGISTER_COUNT, count=1),
                await client.read_discrete_inputs(10, count=16),
                await client.write_coil(8, True),
                await client.write_coils(0, [True] * 9),
                await client.write_register(HOLDING_REGISTER_COUNT, 1),
                await client.write_registers(HOLDING_REGISTER_COUNT - 1, [1, 1]),
            ]
            assert all(answer.isError() and answer.exception_code == 2 for answer in answers)
            assert plant.written == []

    asyncio.run(run())


def test_only_listed_clients_are_served():
    async def run():
        plant = Plant()
        port = await plant.server.open("127.0.0.1", 0, ("192.0.2.1",))
        client = AsyncModbusTcpClient("127.0.0.1", port=port, timeout=0.5, retries=0, reconnect_delay=0)
        await client.connect()
        with pytest.raises(ModbusException):
            await client.write_coil(1, True)
        client.close()
        await plant.server.close()
        assert plant.written == []

    asyncio.run(run())


def test_port_in_use_is_explained():
    async def run(port):
        await Plant().server.open("127.0.0.1", port, ())

    message = r"\[modbus\] 127\.0\.0\.1:\d+: found an address or port"
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(CmdiadError, match=message):
        asyncio.run(run(taken.getsockname()[1]))
