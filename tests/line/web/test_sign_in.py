"""Signing in: sessions, roles, forms from other pages, lock-out and time-outs."""

from __future__ import annotations

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from html import unescape
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from cmdiad_line.web.sign_in import MOST_SIGN_INS, local_path
from web_doubles import PASSWORD, READY, WebStation, form_token, make_result


@pytest.fixture
def station(tmp_path: Path) -> WebStation:
    station = WebStation(tmp_path)
    station.supervisor.desk.receive(READY)
    return station


def sign_in(client: TestClient, name: str, password: str, path: str = "/") -> int:
    token = form_token(client.get("/login").text)
    form = {"name": name, "password": password, "form_token": token, "next": path}
    return client.post("/login", data=form).status_code


def test_pages_lead_to_the_sign_in_page(station: WebStation) -> None:
    for path in ("/", "/review", "/engineer", "/accounts", "/parts/1"):
        answer = station.client().get(path)
        assert (answer.status_code, answer.headers["location"]) == (303, f"/login?next={path}")


def test_signing_in_leads_back_to_the_page_with_its_query(station: WebStation) -> None:
    station.accounts.add("ada", "admin", PASSWORD, author="test")
    client, page = station.client(), "/review?blind=true&verdict=NG&part=a%20b"
    answer = client.get(client.get(page).headers["location"])
    following = re.search(r'name="next" value="([^"]*)"', answer.text)
    assert following is not None
    form = {"name": "ada", "password": PASSWORD, "form_token": form_token(answer.text)}
    answer = client.post("/login", data={**form, "next": unescape(following[1])})
    assert (answer.status_code, answer.headers["location"]) == (303, page)
    assert client.get(page).status_code == 200


def test_the_link_to_sign_in_leads_back_to_the_page(tmp_path: Path) -> None:
    station = WebStation(tmp_path, open_view=True)
    station.accounts.add("ada", "operator", PASSWORD, author="test")
    station.records.add(make_result(3))
    client = station.client()
    page = "/parts/3?from=a%20b"
    link = re.search(r'class="account" href="([^"]*)"', client.get(page).text)
    assert link is not None
    form = client.get(unescape(link[1])).text
    following = re.search(r'name="next" value="([^"]*)"', form)
    assert following is not None
    data = {"name": "ada", "password": PASSWORD, "form_token": form_token(form), "next": unescape(following[1])}
    assert client.post("/login", data=data).headers["location"] == page


@pytest.mark.parametrize("page", ["//evil.example/review?blind=true", "https://evil.example/?a=/review", "/\\evil?a=b"])
def test_signing_in_with_a_query_leads_to_no_other_site(station: WebStation, page: str) -> None:
    station.accounts.add("ada", "admin", PASSWORD, author="test")
    client = station.client()
    form = {"name": "ada", "password": PASSWORD, "form_token": form_token(client.get("/login").text), "next": page}
    assert client.post("/login", data=form).headers["location"] == "/"


def test_signing_in_and_out_with_a_real_password(station: WebStation) -> None:
    station.accounts.add("ada", "admin", PASSWORD, author="test")
    client = station.client()
    assert sign_in(client, "ada", "wrong password") == 403
    assert client.get("/").status_code == 303
    assert sign_in(client, "ada", PASSWORD) == 303
    page = client.get("/")
    assert page.status_code == 200
    assert client.post("/logout", data={"form_token": form_token(page.text)}).status_code == 303
    assert client.get("/").status_code == 303


def test_the_cookie_is_out_of_reach(station: WebStation) -> None:
    station.accounts.add("ada", "admin", PASSWORD, author="test")
    client = station.client()
    form = {"name": "ada", "password": PASSWORD, "form_token": form_token(client.get("/login").text)}
    cookie = client.post("/login", data=form).headers["set-cookie"]
    assert "HttpOnly" in cookie
    assert "samesite=strict" in cookie.lower()


def test_without_accounts_the_page_says_how_to_make_the_first(station: WebStation) -> None:
    assert "cmdiad-line account add" in station.client().get("/login").text
    station.accounts.add("ada", "admin", PASSWORD, author="test")
    assert "cmdiad-line account add" not in station.client().get("/login").text


def test_refusals_do_not_tell_whether_an_account_exists(station: WebStation) -> None:
    station.accounts.add("ada", "admin", PASSWORD, author="test")

    def refusal(name: str) -> str:
        client = station.client()
        form = {"name": name, "password": "wrong password", "form_token": form_token(client.get("/login").text)}
        return client.post("/login", data=form).text.split('role="alert"')[1].split("</p>")[0]

    assert refusal("ada") == refusal("nobody")


def test_many_attempts_at_the_same_time_do_not_block_the_pages(
    station: WebStation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guesses wait in threads; with all threads occupied, no page could read the records."""
    station.accounts.add("ada", "admin", PASSWORD, author="test")
    release, begun = threading.Event(), threading.Semaphore(0)

    def wait(name: str, password: str) -> None:
        begun.release()
        release.wait()

    monkeypatch.setattr(station.accounts, "sign_in", wait)
    with station.client() as client, ThreadPoolExecutor(8) as pool:
        form = {"name": "ada", "password": "guess", "form_token": form_token(client.get("/login").text)}
        attempts = [pool.submit(client.post, "/login", data=form) for _ in range(MOST_SIGN_INS)]
        for _ in attempts:
            begun.acquire()
        assert client.post("/login", data=form).status_code == 503
        assert client.get("/healthz").status_code == 200
        release.set()
        assert {attempt.result().status_code for attempt in attempts} == {403}
        assert (
            client.post("/login", data={**form, "form_token": form_token(client.get("/login").text)}).status_code == 403
        )


def test_a_sign_in_form_from_another_page_is_refused(station: WebStation) -> None:
    station.accounts.add("ada", "admin", PASSWORD, author="test")
    client = station.client()
    form = {"name": "ada", "password": PASSWORD}
    assert client.post("/login", data=form).status_code == 403
    token = form_token(client.get("/login").text)
    other = station.client()
    other.get("/login")
    assert other.post("/login", data={**form, "form_token": token}).status_code == 403
    foreign = client.post("/login", data={**form, "form_token": token}, headers={"Origin": "http://evil.example"})
    assert foreign.status_code == 403


@pytest.mark.parametrize(
    ("path", "role"),
    [("/", "operator"), ("/review", "operator"), ("/engineer", "engineer"), ("/accounts", "admin")],
)
def test_each_page_needs_its_role(station: WebStation, path: str, role: str) -> None:
    roles = ("operator", "engineer", "admin")
    for present in roles:
        allowed = roles.index(present) >= roles.index(role)
        assert station.signed_in(present).get(path).status_code == (200 if allowed else 403), present


@pytest.mark.parametrize("path", ["/station/stop", "/logout", "/parts/1/override"])
def test_forms_need_the_secret_of_their_session(station: WebStation, path: str) -> None:
    client = station.signed_in("admin")
    own = form_token(client.get("/").text)
    other = form_token(station.signed_in("admin").get("/").text)
    assert own != other
    rest = {"verdict": "OK", "note": "looked again"}
    for token in ("", other, own + "x"):
        assert client.post(path, data={**rest, "form_token": token}).status_code == 403
    assert not station.supervisor.commands
    assert client.post(path, data={**rest, "form_token": own}).status_code == 303


def test_commands_carry_the_name_of_the_person(station: WebStation) -> None:
    client = station.signed_in("operator")
    token = form_token(client.get("/").text)
    assert client.post("/station/stop", data={"form_token": token}).status_code == 303
    command = station.supervisor.commands[0]
    assert (command.name, command.user) == ("stop", "operator")
    station.supervisor.refusal = "The station has failed."
    answer = client.post("/station/start", data={"form_token": token})
    assert (answer.status_code, "The station has failed." in answer.text) == (409, True)
    assert client.post("/station/abort", data={"form_token": token}).status_code == 422


def test_engineers_are_signed_out_when_idle_and_operators_after_their_shift(station: WebStation) -> None:
    engineer, operator = station.signed_in("engineer"), station.signed_in("operator")
    station.clock.now += 1799
    assert engineer.get("/").status_code == 200
    station.clock.now += 1799
    assert engineer.get("/").status_code == 200
    station.clock.now += 1801
    assert engineer.get("/").status_code == 303
    assert operator.get("/").status_code == 200
    station.clock.now += 43200
    assert operator.get("/").status_code == 303


def test_a_page_that_updates_itself_does_not_keep_an_engineer_signed_in(station: WebStation) -> None:
    engineer = station.signed_in("engineer")
    for _ in range(4):
        station.clock.now += 600
        engineer.get("/results")
    assert engineer.get("/").status_code == 303


def test_changes_of_an_account_end_its_sessions(station: WebStation) -> None:
    client = station.signed_in("operator")
    station.accounts.set_role("operator", "engineer", author="test")
    assert client.get("/").status_code == 303
    client = station.signed_in("operator")
    station.accounts.set_disabled("operator", True, author="test")
    assert client.get("/").status_code == 303


def test_a_made_up_cookie_is_nobody(station: WebStation) -> None:
    client = station.client()
    client.cookies.set("cmdiad", "made-up")
    assert client.get("/").status_code == 303


@pytest.mark.parametrize(
    "path", ["//evil.example", "https://evil.example", "/\\evil.example", "javascript:x", "/a\nb", ""]
)
def test_the_sign_in_page_leads_to_this_station_only(path: str) -> None:
    assert local_path(path) == "/"
    assert local_path("/review") == "/review"


def test_names_are_escaped(station: WebStation) -> None:
    answer = station.client().get("/login", params={"next": '/"><script>alert(1)</script>'})
    assert "<script>alert" not in answer.text
