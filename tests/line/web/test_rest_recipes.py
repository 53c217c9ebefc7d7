"""REST for programs that change the recipe: roles, orders, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cmdiad_line.recipes.store import ImportOptions
from cmdiad_line.web.orders import UNKNOWN_OUTCOME
from graphs import tiny_bundle
from web_doubles import READY, WebStation, form_token


@pytest.fixture
def station(tmp_path: Path) -> WebStation:
    return WebStation(tmp_path)


def test_recipes_are_listed_with_their_present_state(station: WebStation, tmp_path: Path) -> None:
    bundle = tiny_bundle(tmp_path / "tiny.cmdiad")
    for recipe_id in ("gear-1", "gear-2", "gear-3"):
        station.services.recipes.import_bundle(bundle, ImportOptions(recipe_id=recipe_id, product_id="A-17"))
    station.supervisor.desk.receive(replace(READY, recipe_id="gear-1", prepared=("gear-1", "gear-2")))
    client = station.client(role="engineer")
    listed = client.get("/recipes").json()
    assert [(row["recipe_id"], row["active"], row["prepared"]) for row in listed] == [
        ("gear-1", True, True),
        ("gear-2", False, True),
        ("gear-3", False, False),
    ]
    assert listed[0]["bundle_digest"] == station.services.recipes.recipe("gear-1").bundle_digest
    schema = client.get("/openapi.json").json()["components"]["schemas"]["StoredRecipe"]
    assert set(listed[0]) == set(schema["properties"])


def test_without_the_supervisor_no_recipe_counts_as_active(station: WebStation) -> None:
    assert station.client(role="engineer").get("/recipes").status_code == 503


@pytest.mark.parametrize("order", ["prepare", "unprepare", "activate"])
def test_an_order_goes_to_the_supervisor_in_the_name_of_the_program(station: WebStation, order: str) -> None:
    answer = station.client(role="engineer").post(f"/recipes/gear-2/{order}")
    assert (answer.status_code, answer.json()) == (200, {"message": "Done."})
    (command,) = station.supervisor.commands
    assert (command.name, command.user, command.arguments) == (order, "engineer-program", {"recipe_id": "gear-2"})


def test_a_refusal_and_no_answer_are_no_success(station: WebStation) -> None:
    station.supervisor.refusal = "There is no recipe 'gear-2'."
    answer = station.client(role="engineer").post("/recipes/gear-2/activate")
    assert (answer.status_code, answer.json()["detail"]) == (409, "There is no recipe 'gear-2'.")
    station.supervisor.full = True
    answer = station.client(role="engineer").post("/recipes/gear-2/activate")
    assert answer.status_code == 503, "the order never reached the supervisor"


def test_the_outcome_of_an_order_without_an_answer_is_unknown(
    station: WebStation, monkeypatch: pytest.MonkeyPatch
) -> None:
    station.supervisor.silent = True
    monkeypatch.setattr("cmdiad_line.web.desk._ANSWER_S", 0.05)
    answer = station.client(role="engineer").post("/recipes/gear-2/activate")
    assert (answer.status_code, answer.json()) == (504, {"detail": UNKNOWN_OUTCOME})
    schema = station.client().get("/openapi.json").json()
    assert {"409", "503", "504"} <= set(schema["paths"]["/recipes/{recipe_id}/{order}"]["post"]["responses"])
    session = station.signed_in("engineer")
    form = {"form_token": form_token(session.get("/engineer").text), "recipe_id": "gear-2"}
    page = session.post("/engineer/recipe/activate", data=form)
    assert (page.status_code, UNKNOWN_OUTCOME in page.text) == (504, True)
    station.supervisor.full = True
    page = session.post("/engineer/recipe/activate", data=form)
    assert (page.status_code, "takes no requests now" in page.text) == (503, True)


def test_orders_need_a_token_of_the_role_engineer(station: WebStation) -> None:
    station.supervisor.desk.receive(READY)
    for method, path in (("GET", "/recipes"), ("POST", "/recipes/gear-2/activate")):
        assert station.client().request(method, path).status_code == 401
        assert station.client(role="operator").request(method, path).status_code == 403
        assert station.client(role="admin").request(method, path).status_code == 200
    session = station.signed_in("admin")
    token = form_token(session.get("/").text)
    assert session.post("/recipes/gear-2/activate", data={"form_token": token}).status_code == 401
    assert len(station.supervisor.commands) == 1


@pytest.mark.parametrize("path", ["gear/rollback", "..%2fgear/activate", "x" * 65 + "/activate", "a%0ab/activate"])
def test_other_orders_and_ids_are_refused(station: WebStation, path: str) -> None:
    assert station.client(role="engineer").post(f"/recipes/{path}").status_code in (404, 422)
    assert not station.supervisor.commands
