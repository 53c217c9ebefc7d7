"""The process of the OPC UA server: one loop reads the supervisor's messages, serves the clients and reports life."""

from __future__ import annotations

import asyncio
import logging

from cmdiad_line.opcua.server import StationServer, build_server
from cmdiad_line.station_file.station import Station
from cmdiad_line.transport.codec import MessageError
from cmdiad_line.transport.link import Link, LinkClosedError, LinkFullError
from cmdiad_line.transport.messages import Alive, End, Message, Ready

ALIVE_S = 0.25
"""Seconds between two signs of life."""

log = logging.getLogger("cmdiad.line.opcua")


def serve(link: Link, station: Station) -> None:
    """Serve OPC UA clients until the supervisor ends the process.

    The node set is read before `Ready`, so a client that can connect finds the complete address space.

    Args:
        link: Link to the supervisor.
        station: Station with a section `[opcua]`.

    Raises:
        CmdiadError: A certificate cannot be used.
        OSError: The port is in use, or the address is not of this machine.
        LinkClosedError: The supervisor has ended.
    """
    asyncio.run(_serve(link, station))


async def _serve(link: Link, station: Station) -> None:
    server = await build_server(station, link.send)
    await server.start()
    log.info("OPC UA server on port %d", server.port)
    try:
        link.send(Ready())
        await _run(link, server)
    finally:
        await server.stop()


async def _run(link: Link, server: StationServer) -> None:
    """Run until the first part ends: with `End`, with the link, or with an error."""
    parts = [asyncio.ensure_future(part) for part in (_follow(link, server), _report_life(link))]
    try:
        done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
        for part in done:
            part.result()
    finally:
        for part in parts:
            part.cancel()
        await asyncio.gather(*parts, return_exceptions=True)


async def _follow(link: Link, server: StationServer) -> None:
    """Pass the supervisor's messages to the vision system, in their order, until `End`."""
    arrived: asyncio.Queue[Message | LinkClosedError | MessageError] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def read() -> None:
        try:
            for message in link.receive():
                arrived.put_nowait(message)
        except (LinkClosedError, MessageError) as error:
            loop.remove_reader(link.fileno())
            arrived.put_nowait(error)

    loop.add_reader(link.fileno(), read)
    try:
        while True:
            message = await arrived.get()
            if isinstance(message, LinkClosedError | MessageError):
                raise message
            if isinstance(message, End):
                return
            await server.system.receive(message)
    finally:
        loop.remove_reader(link.fileno())


async def _report_life(link: Link) -> None:
    """Send a sign of life regularly. A full link means a busy supervisor, which needs no further signs."""
    while True:
        try:
            link.send(Alive())
        except LinkFullError:
            log.warning("the supervisor does not read")
        await asyncio.sleep(ALIVE_S)
