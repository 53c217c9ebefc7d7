"""The web process: signs of life from its loop, its end, its port, TLS."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import httpx

from cmdiad_line.transport.link import Link, link_pair
from cmdiad_line.transport.messages import Alive, Failed, Message
from cmdiad_line.web import process
from web_doubles import READY
from web_running import LIMIT_S, make_station, running_web, wait_until


def test_the_process_serves_reads_its_link_and_ends(tmp_path: Path) -> None:
    with running_web(tmp_path, open_view=True) as web:
        wait_until(lambda: sum(isinstance(message, Alive) for message in web.received) > 3, "signs of life")
        wait_until(lambda: httpx.get(f"{web.url}/readyz").status_code == 200, "ready")
        web.state_is(phase="failed", reason="inspection-died", message="Gave up.")
        wait_until(lambda: httpx.get(f"{web.url}/readyz").status_code == 503, "not ready")
        assert httpx.get(f"{web.url}/healthz").json() == {"status": "live"}


def test_the_live_stream_sends_the_screen_and_ends_with_the_process(tmp_path: Path) -> None:
    screens = []
    with running_web(tmp_path, open_view=True) as web:
        web.publish(1)
        with httpx.stream("GET", f"{web.url}/live", timeout=LIMIT_S) as stream:
            lines = stream.iter_lines()
            while not any(screen["kind"] == "ok" for screen in screens):
                screens += [json.loads(line[6:]) for line in lines_of_one_event(lines)]
            web.state_is(in_work=1)
            while screens[-1]["kind"] != "working":
                screens += [json.loads(line[6:]) for line in lines_of_one_event(lines)]
            assert screens[-1]["headline"] != "OK"


def lines_of_one_event(lines: object) -> list[str]:
    event: list[str] = []
    for line in lines:  # type: ignore[attr-defined]
        if not line:
            break
        event.append(line)
    return [line for line in event if line.startswith("data: ")]


def test_the_process_ends_when_the_supervisor_is_gone(tmp_path: Path) -> None:
    with running_web(tmp_path) as web:
        web.stop_supervising()
        web.link._socket.shutdown(socket.SHUT_RDWR)
        url = web.url
        wait_until(lambda: refuses(url), "the end of the server")


def refuses(url: str) -> bool:
    try:
        httpx.get(f"{url}/healthz", timeout=1.0)
    except httpx.HTTPError:
        return True
    return False


def test_a_port_in_use_is_reported_in_one_line(tmp_path: Path) -> None:
    station = make_station(tmp_path)
    assert station.web is not None
    with socket.create_server(("127.0.0.1", 0)) as occupied:
        port = occupied.getsockname()[1]
        object.__setattr__(station.web, "port", port)
        here, there = link_pair()
        link = Link(there)
        process.serve(link, station)
        messages: list[Message] = here.receive()
        here.close()
        link.close()
    assert isinstance(messages[-1], Failed)
    assert "\n" not in messages[-1].message
    assert str(port) in messages[-1].message


def test_a_wrong_token_file_is_reported_in_one_line(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("nonsense\n", encoding="utf-8")
    here, there = link_pair()
    link = Link(there)
    process.serve(link, make_station(tmp_path, token_file=tokens))
    messages = here.receive()
    here.close()
    link.close()
    assert isinstance(messages[-1], Failed)
    assert "line 1" in messages[-1].message


def test_changes_of_accounts_are_copied_into_the_audit_log(tmp_path: Path) -> None:
    from cmdiad_line.accounts.store import AccountStore

    with running_web(tmp_path) as web:
        AccountStore(web.state / "accounts.sqlite").add("ada", "admin", "four random words", author="command line")
        note = wait_until(web.commands, "the entry")[0]
        assert (note.name, note.user, note.arguments["action"]) == ("note", "command line", "account add")
        wait_until(lambda: not AccountStore(web.state / "accounts.sqlite").unnoted(), "the mark")


def test_no_thread_is_left(tmp_path: Path) -> None:
    before = threading.active_count()
    with running_web(tmp_path) as web:
        web.send(READY)
    assert threading.active_count() <= before
