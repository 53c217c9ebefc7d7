"""The accounts page, the review forms and the page of one part."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from cmdiad_line.web.audit import copy_once
from web_doubles import PASSWORD, READY, WebStation, form_token, make_result


@pytest.fixture
def station(tmp_path: Path) -> WebStation:
    station = WebStation(tmp_path)
    station.supervisor.desk.receive(READY)
    return station


def test_an_admin_manages_accounts(station: WebStation) -> None:
    admin = station.signed_in("admin")
    token = {"form_token": form_token(admin.get("/accounts").text)}
    added = admin.post("/accounts/add", data={**token, "name": "ben", "role": "operator", "password": PASSWORD})
    assert added.status_code == 303
    assert admin.post("/accounts/ben/role", data={**token, "role": "engineer"}).status_code == 303
    assert admin.post("/accounts/ben/password", data={**token, "password": "another password"}).status_code == 303
    assert admin.post("/accounts/ben/disable", data=token).status_code == 303
    account = station.accounts.account("ben")
    assert account is not None
    assert (account.role, account.disabled) == ("engineer", True)
    authors = {change.author for change in station.accounts.unnoted() if change.name == "ben"}
    assert authors == {"admin"}


def test_a_change_is_copied_to_the_audit_log_as_soon_as_the_supervisor_reads_again(station: WebStation) -> None:
    station.accounts.add("ben", "operator", PASSWORD, author="command line")
    station.supervisor.full = True
    asyncio.run(copy_once(station.services))
    assert len(station.accounts.unnoted()) == 1
    station.supervisor.full = False
    asyncio.run(copy_once(station.services))
    assert station.accounts.unnoted() == []
    assert [command.name for command in station.supervisor.commands] == ["note"]


def test_refused_changes_say_why(station: WebStation) -> None:
    admin = station.signed_in("admin")
    token = {"form_token": form_token(admin.get("/accounts").text)}
    short = admin.post("/accounts/add", data={**token, "name": "ben", "role": "operator", "password": "short"})
    assert (short.status_code, "10 to 200 characters" in short.text) == (422, True)
    last = admin.post("/accounts/admin/disable", data=token)
    assert (last.status_code, "no other admin" in last.text) == (422, True)
    assert admin.post("/accounts/ben/destroy", data=token).status_code == 422
    assert station.accounts.account("ben") is None


@pytest.mark.parametrize("path", ["/accounts/add", "/accounts/admin/role", "/accounts/admin/disable"])
def test_only_admins_manage_accounts(station: WebStation, path: str) -> None:
    station.signed_in("admin")
    engineer = station.signed_in("engineer")
    form = {"form_token": form_token(engineer.get("/").text), "name": "x", "role": "admin", "password": PASSWORD}
    assert engineer.post(path, data=form).status_code == 403


def test_an_override_keeps_the_name_and_the_reason(station: WebStation) -> None:
    station.records.add(make_result(1, "NG", "score"))
    operator = station.signed_in("operator")
    form = {"form_token": form_token(operator.get("/parts/1").text), "verdict": "OK", "note": "only dust"}
    assert operator.post("/parts/1/override", data=form).status_code == 303
    command = station.supervisor.commands[0]
    assert (command.name, command.user) == ("override", "operator")
    assert command.arguments == {"acquisition_id": 1, "verdict": "OK", "note": "only dust"}
    assert operator.post("/parts/1/override", data={**form, "note": ""}).status_code == 422
    assert operator.get("/parts/2").status_code == 404


def test_the_queue_contains_ng_and_near_parts_until_they_are_judged(station: WebStation) -> None:
    for number, score in ((1, 0.5), (2, 0.95)):
        station.records.add(make_result(number, score=score))
    station.records.add(make_result(3, "NG", "score"))
    queue = station.services.history.queue
    assert [part.acquisition_id for part in queue()] == [3, 2]
    station.records.judge(3, "ben", "defect")
    assert [part.acquisition_id for part in queue()] == [2]
    assert [part.acquisition_id for part in queue(second_look_by="ada")] == [3]
    assert queue(second_look_by="ben") == []
    station.records.judge(3, "ada", "good")
    assert queue(second_look_by="cleo") == []


def test_a_judgement_that_is_not_stored_is_reported(station: WebStation) -> None:
    station.records.add(make_result(3, "NG", "score"))
    operator = station.signed_in("operator")
    form = {"form_token": form_token(operator.get("/review").text), "judgement": "good"}
    station.supervisor.refusal = "The disk is full."
    answer = operator.post("/review/3", data=form)
    assert (answer.status_code, "The disk is full." in answer.text) == (409, True)
    assert operator.post("/review/3", data={**form, "judgement": "ok"}).status_code == 422
    assert operator.post("/review/3", data={**form, "note": "a\nb"}).status_code == 422
