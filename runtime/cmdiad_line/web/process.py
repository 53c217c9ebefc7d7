"""The web process. HTTP server and link share one asyncio loop, so a loop that hangs sends no sign of life."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
from pathlib import Path

import uvicorn

from cmdiad_line.accounts.store import FILE_NAME, AccountStore
from cmdiad_line.accounts.tokens import read_tokens
from cmdiad_line.recipes.store import RecipeStore
from cmdiad_line.station_file.certificates import certificate_fingerprint
from cmdiad_line.station_file.station import Station
from cmdiad_line.station_file.web import Web
from cmdiad_line.transport.codec import MessageError
from cmdiad_line.transport.link import Link, LinkClosedError, LinkFullError
from cmdiad_line.transport.messages import Alive, End, Failed, Ready
from cmdiad_line.web.address_file import ADDRESS_FILE, read_address
from cmdiad_line.web.application import make_application
from cmdiad_line.web.audit import copy_changes
from cmdiad_line.web.connections import LARGEST_NUMBER, StationConnection
from cmdiad_line.web.desk import Desk
from cmdiad_line.web.guard import in_address
from cmdiad_line.web.history import History
from cmdiad_line.web.push import push_of
from cmdiad_line.web.services import Services
from cmdiad_line.web.sessions import Sessions
from cmdiad_line.web.shift import ShiftCounter
from cmdiad_runtime.errors import CmdiadError, OutputError
from cmdiad_runtime.printable import cause_of
from cmdiad_runtime.support.files import atomic_write

_ALIVE_S = 0.2
_CLOSING_S = 1


def serve(link: Link, station: Station) -> None:
    """Serve pages, REST and metrics until the supervisor orders the end or is gone.

    Args:
        link: Link to the supervisor.
        station: Station file with a section `[web]`.
    """
    try:
        with _listening(_section(station), station.state) as listener:
            asyncio.run(_serve(link, station, listener))
    except LinkClosedError:
        return
    except (CmdiadError, OSError) as error:
        message = str(error) if isinstance(error, CmdiadError) else f"web: {cause_of(error)}"
        with contextlib.suppress(LinkClosedError):
            link.send(Failed(message=message))


def _section(station: Station) -> Web:
    assert station.web is not None  # The supervisor starts this process only with a section [web].
    return station.web


def _listening(settings: Web, state: Path) -> socket.socket:
    """Return a listening socket.

    If any free port is allowed, a restarted process takes the port of its predecessor, so that open pages find the
    station again.
    """
    try:
        return _listener(settings, state)
    except OSError as error:
        raise CmdiadError(
            f"[web] {settings.address}:{settings.port}",
            found=f"an address or port that cannot be opened ({os.strerror(error.errno or 0)})",
            expected="an address of this machine and a port that no other program uses",
            action="correct address or port in the station file",
        ) from error


def _listener(settings: Web, state: Path) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.address else socket.AF_INET
    if settings.port == 0:
        with contextlib.suppress(OSError):
            return socket.create_server((settings.address, _earlier_port(state)), family=family, backlog=128)
    return socket.create_server((settings.address, settings.port), family=family, backlog=128)


def _earlier_port(state: Path) -> int:
    """Return the port of the previous process, or 0 if there was none."""
    port = read_address(state).get("port")
    return port if type(port) is int and 0 < port < 65536 else 0


async def _serve(link: Link, station: Station, listener: socket.socket) -> None:
    services = make_services(link, station)
    server = _make_server(services)
    _write_address(station.state, services.settings, listener)
    await asyncio.to_thread(_seed, services)
    reader = _Reader(link, services, server)
    link.send(Ready())
    tasks = [asyncio.create_task(reader.give_signs_of_life()), asyncio.create_task(copy_changes(services))]
    try:
        await server.serve(sockets=[listener])
    finally:
        services.ending = True
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        asyncio.get_running_loop().remove_reader(link.fileno())


def make_services(link: Link, station: Station) -> Services:
    """Return the parts of the web process of a station.

    Raises:
        AccountError: The token file is wrong.
    """
    settings = _section(station)
    return Services(
        name=station.name,
        state_folder=station.state,
        settings=settings,
        desk=Desk(link.send, station.deadline_ms / 1000),
        history=History(station.state, station.pictures.near_share),
        recipes=RecipeStore(station.state),
        records=station.records,
        accounts=AccountStore(station.state / FILE_NAME),
        sessions=Sessions(settings.session_minutes * 60, settings.shift_minutes * 60),
        shift=ShiftCounter(settings.shifts),
        tokens=read_tokens(settings.token_file) if settings.token_file is not None else (),
        push=push_of(station),
    )


def _seed(services: Services) -> None:
    """Add the recorded numbers of this shift. A new station has no records yet."""
    with contextlib.suppress(OutputError):
        last = -1
        while last != (last := services.history.last_id()):  # Until no row was added between the two queries.
            numbers = services.history.counts(services.shift.began)
        services.shift.seed(ok=numbers.ok, ng=numbers.ng, last_id=last)


def _make_server(services: Services) -> uvicorn.Server:
    settings = services.settings
    configuration = uvicorn.Config(
        make_application(services),
        lifespan="off",
        log_level="warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.private_key,
        timeout_graceful_shutdown=_CLOSING_S,
        limit_concurrency=2 * LARGEST_NUMBER,
        http=StationConnection,
        ws="none",
    )
    return uvicorn.Server(configuration)


class _Reader:
    """Reader of the link in the loop of the server. The server ends with the link."""

    def __init__(self, link: Link, services: Services, server: uvicorn.Server) -> None:
        self._link = link
        self._services = services
        self._server = server
        services.desk.on_result(services.shift.count)
        asyncio.get_running_loop().add_reader(link.fileno(), self._read)

    def _read(self) -> None:
        try:
            messages = self._link.receive()
        except (LinkClosedError, MessageError):  # A lost message could leave an old state on the screen.
            self._end()
            return
        for message in messages:
            if isinstance(message, End):
                self._end()
            else:
                self._services.desk.receive(message)

    async def give_signs_of_life(self) -> None:
        """Send `Alive` until the supervisor is gone or reads no more."""
        while not self._services.ending:
            try:
                self._link.send(Alive())
            except (LinkClosedError, LinkFullError):
                self._end()
            await asyncio.sleep(_ALIVE_S)

    def _end(self) -> None:
        self._services.ending = True
        self._server.should_exit = True
        with contextlib.suppress(ValueError, OSError):
            asyncio.get_running_loop().remove_reader(self._link.fileno())


def _write_address(state: Path, settings: Web, listener: socket.socket) -> None:
    """Write the file with the address of the pages."""
    port = listener.getsockname()[1]
    url = f"{'https' if settings.secure else 'http'}://{in_address(settings.address)}:{port}/"
    fingerprint = "" if settings.certificate is None else certificate_fingerprint(settings.certificate)
    content = {"url": url, "port": port, "process": os.getpid(), "certificate": fingerprint}
    (state / ADDRESS_FILE).parent.mkdir(exist_ok=True)
    with atomic_write(state / ADDRESS_FILE) as temporary:
        temporary.write_text(json.dumps(content), encoding="utf-8")
