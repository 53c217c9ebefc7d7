"""A running station changes to a pulled bundle between two parts, or keeps the recipe from before."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cmdiad_fleet.artefact import running_station as interface_module
from cmdiad_fleet.artefact.place import Access, open_place
from cmdiad_fleet.artefact.publish import publish
from cmdiad_fleet.artefact.reference import Reference
from cmdiad_fleet.artefact.running_station import RunningStation as Interface
from cmdiad_fleet.artefact.running_station import StationError, station_token
from cmdiad_fleet.cli.fleet import cli
from cmdiad_line.accounts.tokens import add_token
from cmdiad_line.recipes.store import RecipeStore
from cmdiad_line.records.reading import RecordReader
from cmdiad_line.web import desk
from cmdiad_line.web.address_file import ADDRESS_FILE
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.support.lock import lock_folder
from cmdiad_runtime.support.reporter import SILENT
from graphs import tiny_bundle
from helpers import Ended, assert_refused, command, set_threshold
from mqtt_broker import write_certificates
from patience import wait_until
from stations import RunningStation, running_station, write_station_file
from web_running import RunningWeb, running_web


def published(bundle: Path, folder: Path) -> str:
    """Return the name of a bundle in a layout."""
    reference = Reference.parse(f"oci:{folder}/{bundle.stem}.tar")
    publish(Bundle.open(bundle), None, open_place(reference, Access()), "7", SILENT)
    return f"{reference}:7"


def pull(name: str, state: Path, recipe: str, *options: object) -> Ended:
    return command(cli, "pull", name, "--station", state, "--recipe", recipe, "--allow-unsigned", *options)


def digest_of(bundle: Path) -> str:
    return manifest_hash(Bundle.open(bundle).manifest)


# --- a whole station, over TLS


class Line:
    """A running station, tokens by role, and a second bundle for the same camera."""

    def __init__(self, running: RunningStation, folder: Path, bundle: Path, other: Path) -> None:
        self.running, self.plc, self.state = running, running.plc, running.station.state
        self.bundle, self.other, self.folder = bundle, other, folder
        self.name = published(other, folder)

    def token(self, role: str) -> Path:
        return self.folder / f"{role}.token"

    def digest_in_row(self, part: int) -> str:
        with RecordReader(self.state) as records:
            row = records.by_id(part)
        assert row is not None
        return row.bundle_digest


@pytest.fixture(scope="module")
def line(exported: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder, bundle = tmp_path_factory.mktemp("line"), exported("rgb")
    other = Path(shutil.copytree(bundle, folder / "other.cmdiad"))
    set_threshold(other, 1.1 * Bundle.open(bundle).calibration.score_threshold)
    write_certificates(folder)
    for role in ("operator", "engineer"):
        (folder / f"{role}.token").write_text(add_token(folder / "tokens", role, role), encoding="utf-8")
    web = {
        "port": 0,
        "certificate": str(folder / "broker.pem"),
        "private_key": str(folder / "broker.key"),
        "token_file": str(folder / "tokens"),
    }
    file = write_station_file(folder, bundle, data / "gear" / "train", web=web)
    with running_station(file) as running:
        running.plc.wait_ready()
        wait_until(lambda: running.runs("web"))
        yield Line(running, folder, bundle, other)


@pytest.fixture(autouse=True)
def first_recipe(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test with the station begins and ends with a ready station and the first recipe."""
    yield
    if "line" in request.fixturenames:
        line: Line = request.getfixturevalue("line")
        assert line.plc.command("activate", recipe_id="gear").done
        line.running.wait_ok()


def test_a_running_station_changes_between_two_parts(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CMDIAD_STATION_TOKEN", line.token("engineer").read_text(encoding="utf-8"))
    with line.running.frozen("acquisition"):
        part = line.plc.trigger()
        line.running.wait_stage(part, "acquiring")
        ended = pull(line.name, line.state, "gear-7", "--activate")
        assert ended.code == 0, ended.err
    assert f"ready with gear-7, bundle {digest_of(line.other)}" in ended.err
    assert line.plc.result(part).verdict == "OK"
    assert line.digest_in_row(part) == digest_of(line.bundle), "a part in work keeps its recipe"
    result = line.plc.inspect()
    assert (result.verdict, result.recipe_id, result.bundle_digest) == ("OK", "gear-7", digest_of(line.other))
    assert line.digest_in_row(result.acquisition_id) == digest_of(line.other)
    active = RecipeStore(line.state).active()
    assert active is not None and active.recipe_id == "gear-7"


def test_the_same_pull_again_changes_nothing(line: Line) -> None:
    for _ in range(2):
        ended = pull(line.name, line.state, "gear-7", "--activate", "--station-token", line.token("engineer"))
        assert ended.code == 0, ended.err
        assert line.plc.inspect().recipe_id == "gear-7"


@pytest.mark.failure_mode("A pull into a running station with a wrong token")
@pytest.mark.parametrize("token", ["operator", "unknown", "none"])
def test_without_the_right_token_nothing_is_received(line: Line, tmp_path: Path, token: str) -> None:
    (tmp_path / "unknown.token").write_text("guess", encoding="utf-8")
    options = {
        "operator": ["--station-token", line.token("operator")],
        "unknown": ["--station-token", tmp_path / "unknown.token"],
        "none": [],
    }[token]
    before = RecipeStore(line.state).list()
    ended = pull(line.name, line.state, "gear-8", "--activate", *options)
    assert_refused(ended, 11, "role engineer")
    assert "guess" not in ended.err
    assert RecipeStore(line.state).list() == before
    assert line.plc.inspect().recipe_id == "gear"


@pytest.mark.failure_mode("A pulled bundle that a running station refuses")
def test_a_recipe_that_the_station_refuses_does_not_become_active(line: Line, tmp_path: Path) -> None:
    """The camera of this station delivers no points."""
    name = published(tiny_bundle(tmp_path / "tiny.cmdiad"), tmp_path)
    ended = pull(name, line.state, "points-1", "--activate", "--station-token", line.token("engineer"))
    assert_refused(ended, 11, "needs xyz", "active recipe was not changed")
    assert line.plc.inspect().recipe_id == "gear"
    line.plc.wait_for(lambda: "points-1" not in line.plc.state().prepared)


def test_a_damaged_artefact_never_reaches_the_station(line: Line, tmp_path: Path) -> None:
    archive = tmp_path / "other.tar"
    content = bytearray((line.folder / "other.tar").read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    ended = pull(f"oci:{archive}:7", line.state, "gear-9", "--activate", "--station-token", line.token("engineer"))
    assert ended.code in (1, 4), ended.err
    assert "gear-9" not in [recipe.recipe_id for recipe in RecipeStore(line.state).list()]
    assert line.plc.inspect().recipe_id == "gear"


# --- the web process with a supervisor that does what a test needs


@contextmanager
def scripted(folder: Path, **settings: Any) -> Iterator[RunningWeb]:
    """Run a web process whose supervisor carries out nothing, in a state folder that a station owns."""
    text = add_token(folder / "tokens", "fleet", "engineer")
    (folder / "token").write_text(text, encoding="utf-8")
    with running_web(folder, token_file=folder / "tokens", **settings) as web, lock_folder(web.state):
        yield web


def orders(web: RunningWeb) -> list[tuple[str, str]]:
    return [(order.name, order.arguments["recipe_id"]) for order in web.commands() if order.name != "note"]


def pull_tiny(web: RunningWeb, folder: Path) -> Ended:
    name = published(tiny_bundle(folder / "tiny.cmdiad"), folder)
    return pull(name, web.state, "gear-7", "--activate", "--station-token", folder / "token")


@pytest.mark.failure_mode("A running station that is not ready with a pulled bundle")
@pytest.mark.parametrize("chosen", ["gear-7", "nut"])
def test_a_station_that_is_not_ready_returns_to_the_recipe_from_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str
) -> None:
    """If a person has chosen another recipe in the meantime, that one stays."""
    monkeypatch.setattr(interface_module, "READY_S", 0.0)
    send = Interface._order
    with scripted(tmp_path) as web:

        def order(interface: Interface, name: str, recipe_id: str) -> None:
            send(interface, name, recipe_id)
            if name == "activate":
                active = chosen if recipe_id == "gear-7" else recipe_id
                web.state_is(recipe_id=active, phase="not-ready", message="The camera is away.")
                wait_until(lambda: interface.readiness().recipe_id == active)

        monkeypatch.setattr(Interface, "_order", order)
        ended = pull_tiny(web, tmp_path)
        returned = [("activate", "gear")] if chosen == "gear-7" else []
        assert orders(web) == [("prepare", "gear-7"), ("activate", "gear-7"), *returned]
        active = "gear" if returned else chosen
        assert_refused(ended, 11, "not ready with gear-7", "The camera is away", f"active recipe: {active}")


def test_ready_with_another_bundle_of_the_same_id_is_not_ready(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interface_module, "READY_S", 0.0)
    with scripted(tmp_path) as web:
        web.state_is(recipe_id="gear-7", bundle_digest="0" * 64)
        wait_until(lambda: Interface(web.state, "x").readiness().recipe_id == "gear-7")
        assert_refused(pull_tiny(web, tmp_path), 11, "0" * 64)


def test_a_station_that_is_not_ready_receives_nothing(tmp_path: Path) -> None:
    with scripted(tmp_path) as web:
        web.state_is(phase="not-ready", reason="camera-gone", message="The camera is away.")
        wait_until(lambda: not Interface(web.state, "x").readiness().ready)
        assert_refused(pull_tiny(web, tmp_path), 11, "The camera is away", "stop the station")
        assert not orders(web)
        assert not RecipeStore(web.state).list()


@pytest.mark.parametrize("ready", [True, False])
def test_a_supervisor_that_is_silent_is_no_fault_of_the_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ready: bool
) -> None:
    answers = {
        "recipes": (503, {"detail": "The supervisor does not answer."}),
        "readyz": (200 if ready else 503, {"message": ""}),
    }
    (tmp_path / "run").mkdir()
    (tmp_path / ADDRESS_FILE).write_text('{"url": "http://127.0.0.1:84/"}', encoding="utf-8")
    monkeypatch.setattr(Interface, "_request", lambda interface, method, path: answers[path])
    with pytest.raises(StationError, match=r"not ready \(The supervisor does not answer\).*Solve this"):
        Interface(tmp_path, "token").require_ready()


def test_a_supervisor_without_an_answer_is_a_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk, "_ANSWER_S", 0.1)
    with scripted(tmp_path) as web:
        web.answers = False
        assert_refused(pull_tiny(web, tmp_path), 11, "did not answer in time")
        assert orders(web) == [("prepare", "gear-7")]


def test_the_outcome_of_an_activation_without_an_answer_is_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an answer, `pull` asks the station which recipe is active."""
    monkeypatch.setattr(interface_module, "READY_S", 0.0)
    request = Interface._request

    def late(interface: Interface, method: str, path: str) -> tuple[int, dict[str, Any]]:
        if path == "recipes/gear-7/activate":
            return 504, {"detail": "The outcome is unknown."}
        return request(interface, method, path)

    monkeypatch.setattr(Interface, "_request", late)
    with scripted(tmp_path) as web:
        assert_refused(pull_tiny(web, tmp_path), 11, "not ready with gear-7", "active recipe: gear")
        digest = RecipeStore(web.state).recipe("gear-7").bundle_digest
        web.state_is(recipe_id="gear-7", bundle_digest=digest)
        wait_until(lambda: Interface(web.state, "x").readiness().recipe_id == "gear-7")
        name = f"oci:{tmp_path}/tiny.tar:7"
        assert pull(name, web.state, "gear-7", "--activate", "--station-token", tmp_path / "token").code == 0


def test_only_the_station_with_the_certificate_receives_the_token(tmp_path: Path) -> None:
    write_certificates(tmp_path)
    files = {"certificate": tmp_path / "broker.pem", "private_key": tmp_path / "broker.key"}
    with scripted(tmp_path, **files) as web:
        token = station_token(tmp_path / "token")
        Interface(web.state, token).require_ready()
        file = web.state / ADDRESS_FILE
        content = json.loads(file.read_text(encoding="utf-8"))
        for fingerprint, problem in (("0" * 64, "no answer"), ("", "no address")):
            file.write_text(json.dumps({**content, "certificate": fingerprint}), encoding="utf-8")
            with pytest.raises(StationError, match=problem):
                Interface(web.state, token).require_ready()


@pytest.mark.parametrize(
    "content",
    [None, "no JSON", "[]", '{"url": "http://10.1.2.3:80/"}', '{"url": "http://127.0.0.1:x/"}', '{"url": "file:///"}'],
)
def test_without_the_address_of_a_running_station_nothing_is_received(tmp_path: Path, content: str | None) -> None:
    (tmp_path / "run").mkdir()
    if content is not None:
        (tmp_path / ADDRESS_FILE).write_text(content, encoding="utf-8")
    with pytest.raises(StationError, match="no address of a running station"):
        Interface(tmp_path, "token")


def test_a_station_bound_to_all_addresses_is_called_on_this_machine(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    for url, called in (("http://0.0.0.0:84/", "http://127.0.0.1:84"), ("http://[::]:84/", "http://[::1]:84")):
        (tmp_path / ADDRESS_FILE).write_text(json.dumps({"url": url}), encoding="utf-8")
        assert Interface(tmp_path, "token")._url == called


@pytest.mark.parametrize("content", [b"", b" \n", b"two words", "tökén".encode(), b"\x00", b"a\r\nX-Header: b"])
def test_a_text_that_is_no_token_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(StationError, match=r"token.*token"):
        station_token(tmp_path / "token")


def test_the_token_of_the_environment_is_used_without_a_file() -> None:
    assert station_token(None, {"CMDIAD_STATION_TOKEN": "abc\n"}) == "abc"
