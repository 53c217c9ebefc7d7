"""The web process: signs of life from its loop, its end, its port, TLS."""

from __future__ import annotations

import ipaddress
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from cmdiad_line.accounts.store import AccountStore
from cmdiad_line.station_file.station import Station
from cmdiad_line.transport.link import Link, link_pair
from cmdiad_line.transport.messages import Alive, Failed
from cmdiad_line.web import guard, process
from cmdiad_line.web.connections import StationConnection
from patience import LIMIT_S, wait_until
from web_doubles import PASSWORD, READY, form_token
from web_running import make_station, running_web


def test_the_process_serves_reads_its_link_and_ends(tmp_path: Path) -> None:
    with running_web(tmp_path, open_view=True) as web:
        wait_until(lambda: sum(isinstance(message, Alive) for message in web.received) > 3, "signs of life")
        wait_until(lambda: httpx.get(f"{web.url}/readyz", timeout=LIMIT_S).status_code == 200, "ready")
        web.state_is(phase="failed", reason="inspection-died", message="Gave up.")
        wait_until(lambda: httpx.get(f"{web.url}/readyz", timeout=LIMIT_S).status_code == 503, "not ready")
        assert httpx.get(f"{web.url}/healthz", timeout=LIMIT_S).json() == {"status": "live"}


def test_the_live_stream_sends_the_screen_and_ends_with_the_process(tmp_path: Path) -> None:
    screens = []
    with running_web(tmp_path, open_view=True) as web:
        web.publish(1)
        with httpx.stream("GET", f"{web.url}/live", timeout=LIMIT_S) as stream:
            lines = stream.iter_lines()
            while not any(screen["kind"] == "ok" for screen in screens):
                screens.append(next_screen(lines))
            web.state_is(in_work=1)
            while screens[-1]["kind"] != "working":
                screens.append(next_screen(lines))
            assert screens[-1]["headline"] != "OK"


def next_screen(lines: Iterator[str]) -> dict[str, Any]:
    """Return the screen of the next event of the live stream."""
    data = next(line for line in lines if line.startswith("data: "))
    screen: dict[str, Any] = json.loads(data.removeprefix("data: "))
    return screen


def test_the_process_ends_when_the_supervisor_is_gone(tmp_path: Path) -> None:
    with running_web(tmp_path) as web:
        web.stop_supervising()
        web.link._socket.shutdown(socket.SHUT_RDWR)
        url = web.url
        wait_until(lambda: refuses(url), "the end of the server")


def test_the_process_ends_with_a_message_that_it_cannot_read(tmp_path: Path) -> None:
    """The supervisor starts it again, and sends the present state."""
    with running_web(tmp_path) as web:
        url = web.url
        web.link._socket.send(b"no message")
        wait_until(lambda: refuses(url), "the end of the server")


def refuses(url: str) -> bool:
    try:
        httpx.get(f"{url}/healthz", timeout=1.0)
    except httpx.HTTPError:
        return True
    return False


def failure_of(station: Station) -> str:
    """Return the message of a process that cannot start."""
    here, there = link_pair()
    link = Link(there)
    process.serve(link, station)
    last = here.receive()[-1]
    here.close()
    link.close()
    assert isinstance(last, Failed)
    assert "\n" not in last.message
    return last.message


def test_a_port_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    station = make_station(tmp_path)
    assert station.web is not None
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        assert str(port) in failure_of(replace(station, web=replace(station.web, port=port)))


def test_a_wrong_token_file_is_reported_in_one_line(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("nonsense\n", encoding="utf-8")
    assert "line 1" in failure_of(make_station(tmp_path, token_file=tokens))


def test_changes_of_accounts_are_copied_into_the_audit_log(tmp_path: Path) -> None:
    with running_web(tmp_path) as web:
        AccountStore(web.state / "accounts.sqlite").add("ada", "admin", PASSWORD, author="command line")
        note = wait_until(web.commands, "the entry")[0]
        assert (note.name, note.user, note.arguments["action"]) == ("note", "command line", "account add")
        wait_until(lambda: not AccountStore(web.state / "accounts.sqlite").unnoted(), "the mark")


@pytest.mark.failure_mode("200 connections to the pages that never send a request")
def test_idle_connections_do_not_block_the_pages(tmp_path: Path) -> None:
    with running_web(tmp_path, open_view=True) as web, ExitStack() as opened:
        port = int(web.url.rpartition(":")[2])
        idle = [opened.enter_context(socket.create_connection(("127.0.0.1", port))) for _ in range(300)]
        for connection in idle[::2]:
            connection.sendall(b"GET / HTTP/1.1\r\n")  # The header is never complete.
        assert httpx.get(f"{web.url}/", timeout=LIMIT_S).status_code == 200
        for connection in idle[:90]:
            connection.settimeout(LIMIT_S)
            with suppress(ConnectionResetError):
                assert connection.recv(1) == b"", "the oldest ones were closed"


def test_a_connection_waits_for_a_request_for_a_limited_time(tmp_path: Path) -> None:
    with running_web(tmp_path, request_s=0.1) as web:
        port = int(web.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as slow, suppress(ConnectionResetError):
            slow.sendall(b"GET / HTTP/1.1\r\n")
            assert slow.recv(1) == b""


def test_a_request_in_work_is_no_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection whose request is being answered stays open when the time to send a request is over."""
    wait, opened = StationConnection._wait, list[StationConnection]()
    monkeypatch.setattr(StationConnection, "_wait", lambda connection: (opened.append(connection), wait(connection)))
    with (
        running_web(tmp_path, open_view=True) as web,
        httpx.stream("GET", f"{web.url}/live", timeout=LIMIT_S) as stream,
    ):
        lines = stream.iter_lines()
        next_screen(lines)
        (connection,) = opened
        connection.loop.call_soon_threadsafe(connection._check)
        assert all(next_screen(lines)["kind"] == "waiting" for _ in range(3))


@pytest.mark.failure_mode("A request whose content never ends")
def test_a_body_arrives_within_a_limited_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "BODY_S", 0.1)
    with running_web(tmp_path) as web:
        port = int(web.url.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as slow:
            head = "POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 90\r\n"
            slow.sendall(f"{head}Content-Type: application/x-www-form-urlencoded\r\n\r\nname=a".encode())
            assert slow.recv(12) == b"HTTP/1.1 400"


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = threading.active_count()
    with running_web(tmp_path) as web:
        web.send(READY)
    wait_until(lambda: threading.active_count() <= before, "the end of all threads")


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for 127.0.0.1 and its private key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "station")])
    now = datetime.now(timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "certificate.pem", folder / "key.pem"
    paths[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    encryption = serialization.NoEncryption()
    paths[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption))
    return paths


def test_with_a_certificate_the_pages_and_cookies_are_protected(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    with running_web(tmp_path, certificate=certificate, private_key=key) as web:
        AccountStore(web.state / "accounts.sqlite").add("ada", "admin", PASSWORD, author="test")
        trusted = ssl.create_default_context(cafile=str(certificate))
        with httpx.Client(base_url=web.url, verify=trusted, timeout=LIMIT_S) as client:
            page = client.get("/login").text
            form = {"name": "ada", "password": PASSWORD, "form_token": form_token(page)}
            cookie = client.post("/login", data=form).headers["set-cookie"]
            assert client.get("/").status_code == 200
        assert web.url.startswith("https://")
        assert cookie.startswith("__Host-cmdiad=")
        assert "Secure" in cookie
        with pytest.raises(httpx.HTTPError):
            httpx.get(web.url.replace("https", "http") + "/healthz", timeout=LIMIT_S)


def test_a_certificate_without_its_key_is_reported_in_one_line(tmp_path: Path) -> None:
    certificate, _ = make_certificate(tmp_path)
    other = tmp_path / "other.pem"
    other.write_text("no key", encoding="utf-8")
    assert failure_of(make_station(tmp_path, certificate=certificate, private_key=other))


def test_a_restarted_process_keeps_its_free_port(tmp_path: Path) -> None:
    with running_web(tmp_path) as web:
        first = web.url
    with running_web(tmp_path) as web:
        assert web.url == first
