"""`cmdiad-fleet serve`: one service of Ray Serve, asked over HTTP as a line would, and its parts without Ray."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from cmdiad_fleet.cli.fleet import cli
from cmdiad_fleet.serving.detectors import ServedBundle
from cmdiad_fleet.serving.upload import Upload
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.cli.run import cli as run
from cmdiad_runtime.errors import BundleError, EngineError
from cmdiad_runtime.readers.worker import TimedReader
from helpers import assert_refused, command, sample_files
from patience import LIMIT_S, free_port

pytestmark = pytest.mark.slow
Cached = Callable[..., Path]
TOKEN = "0123456789abcdef-of-the-tests"
LARGEST = 2 << 20


@pytest.fixture(scope="module")
def bundles(exported: Cached) -> dict[str, Path]:
    """Bundles of both sensors by their digests."""
    folders = [exported("rgb"), exported("xyz")]
    return {manifest_hash(Bundle.open(folder).manifest): folder for folder in folders}


@pytest.fixture(scope="module")
def client(bundles: dict[str, Path]) -> Iterator[httpx2.Client]:
    """A client of the running service, with the token."""
    ray = pytest.importorskip("ray")
    from cmdiad_fleet.serving.ray_application import Service, hash_of
    from cmdiad_fleet.serving.run_service import running_service

    port = free_port()
    service = Service(
        bundles=bundles,
        names={digest: Bundle.open(path).name for digest, path in bundles.items()},
        cores=0.5,
        largest=LARGEST,
        token_sha256=hash_of(TOKEN),
    )
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=80 << 20)
    try:
        with (
            running_service(service, "127.0.0.1", port),
            httpx2.Client(
                base_url=f"http://127.0.0.1:{port}",
                headers={"Authorization": f"Bearer {TOKEN}"},
                timeout=LIMIT_S,
                trust_env=False,
            ) as opened,
        ):
            yield opened
    finally:
        ray.shutdown()


@pytest.fixture
def rgb(bundles: dict[str, Path]) -> str:
    return f"/bundles/{next(iter(bundles))}"


@pytest.fixture
def photo(data: Path) -> Path:
    return sample_files(data, "test", "good", "rgb")[0]


def form(path: Path, field: str = "rgb") -> dict[str, Any]:
    return {"files": {field: (path.name, path.read_bytes())}}


def test_the_bundles_are_listed(client: httpx2.Client, bundles: dict[str, Path]) -> None:
    answer = client.get("/bundles")
    assert answer.status_code == 200
    assert {entry["digest"] for entry in answer.json()} == set(bundles)


@pytest.mark.parametrize("modality", ["rgb", "xyz"])
def test_an_answer_is_the_line_of_the_command(
    client: httpx2.Client, bundles: dict[str, Path], data: Path, tmp_path: Path, modality: str
) -> None:
    digest, folder = list(bundles.items())[modality == "xyz"]
    for number, defect in enumerate(sorted(path.name for path in (data / "gear" / "test").iterdir())):
        file = sample_files(data, "test", defect, modality)[0]
        answer = client.post(f"/bundles/{digest}", **form(file, modality), data={"id": f"part {number}"})
        ended = command(run, folder, file, "--output", tmp_path / defect, "--no-overlays")
        assert ended.code == 0
        line = json.loads((tmp_path / defect / "results.jsonl").read_text())
        assert answer.status_code == 200
        assert answer.json()["id"] == f"part {number}"
        assert answer.json().keys() == line.keys()
        differing = {"time", "id", "input", "timings_ms", "score", "map_max", "message"}
        assert {k: v for k, v in answer.json().items() if k not in differing} == {
            k: v for k, v in line.items() if k not in differing
        }
        assert answer.json()["score"] == pytest.approx(line["score"], rel=1e-4)


@pytest.mark.failure_mode("A damaged file that is sent to `cmdiad-fleet serve`")
def test_files_that_cannot_be_used_are_ng(client: httpx2.Client, rgb: str, photo: Path) -> None:
    cut = client.post(rgb, files={"rgb": ("../../photo.png", photo.read_bytes()[:500])})
    assert (cut.status_code, cut.json()["verdict"], cut.json()["reason"]) == (422, "NG", "unreadable")
    assert cut.json()["message"].startswith("rgb-photo.png: ")
    other = client.post(rgb, **form(photo, "xyz"))
    assert (other.status_code, other.json()["verdict"], other.json()["reason"]) == (422, "NG", "missing-modality")


@pytest.mark.failure_mode("A request without token, too large, or no form")
def test_wrong_requests_are_refused_with_a_reason(client: httpx2.Client, rgb: str, photo: Path) -> None:
    nameless = {"Authorization": ""}
    large = b"\0" * (LARGEST + 1)
    answers = {
        401: [client.post(rgb, **form(photo), headers=nameless), client.get("/bundles", headers=nameless)],
        404: [client.post("/bundles/0", **form(photo)), client.get("/"), client.post(f"{rgb}/x", **form(photo))],
        405: [client.get(rgb), client.post("/bundles")],
        413: [client.post(rgb, files={"rgb": ("large.png", large)}), _chunked(client, rgb, large)],
        415: [client.post(rgb, content=photo.read_bytes())],
        400: [
            client.post(rgb, **form(photo, "moon")),
            client.post(rgb, data={"rgb": "text"}, files={"xyz": b""}),
            client.post(rgb, files={"rgb": photo.read_bytes()}, data={"id": "../x"}),
            client.post(rgb, content=b"--", headers={"Content-Type": "multipart/form-data; boundary=x"}),
            client.post(rgb, content=b"--", headers={"Content-Type": "multipart/form-data"}),
        ],
    }
    for status, several in answers.items():
        assert [answer.status_code for answer in several] == [status] * len(several)
        assert all(answer.json().keys() == {"error"} for answer in several)


def _chunked(client: httpx2.Client, path: str, content: bytes) -> httpx2.Response:
    """Send a body without its length."""
    head = b'--x\r\nContent-Disposition: form-data; name="rgb"; filename="a.png"\r\n\r\n'
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    return client.post(path, content=iter([head, content, b"\r\n--x--\r\n"]), headers=headers)


# --- without Ray


@pytest.fixture
def reader() -> Iterator[TimedReader]:
    with TimedReader(LIMIT_S) as opened:
        yield opened


@pytest.mark.failure_mode("A bundle that is replaced while `cmdiad-fleet serve` runs")
def test_another_bundle_in_the_folder_is_refused(own_bundle: Path, reader: TimedReader) -> None:
    with pytest.raises(BundleError, match="another bundle than at the start"):
        ServedBundle.open(own_bundle, "0" * 64, "cpu", reader)


def test_no_verdict_without_a_passed_self_test(
    own_bundle: Path, reader: TimedReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cmdiad_runtime.bundle import engine_selection
    from cmdiad_runtime.engines import open_engine

    class Off:
        identity = description = "off 1.0"

        def __init__(self, graph: Path) -> None:
            self._engine = open_engine(graph)

        def run(self, inputs: Any) -> Any:
            return {name: array * 2 for name, array in self._engine.run(inputs).items()}

        def close(self) -> None:
            self._engine.close()

    monkeypatch.setattr(engine_selection, "open_engine", lambda graph, name: Off(graph))
    digest = manifest_hash(Bundle.open(own_bundle).manifest)
    with pytest.raises(EngineError, match="failed self-test"):
        ServedBundle.open(own_bundle, digest, "cpu", reader)


def test_a_closed_bundle_gives_no_verdict(own_bundle: Path, reader: TimedReader, photo: Path) -> None:
    """Ray closes a bundle that makes place for another one."""
    served = ServedBundle.open(own_bundle, manifest_hash(Bundle.open(own_bundle).manifest), "cpu", reader)
    upload = Upload("1", {"rgb": (photo.name, photo.read_bytes())})
    assert served.inspect(upload)["inspected"]
    served.__del__()
    with pytest.raises(EngineError, match="closed engine"):
        served.inspect(upload)


@pytest.mark.parametrize("token", [None, "short"])
def test_other_machines_need_a_token(own_bundle: Path, tmp_path: Path, token: str | None) -> None:
    words: list[object] = ["serve", own_bundle, "--host", "0.0.0.0"]
    if token is not None:
        (tmp_path / "token").write_text(token)
        words += ["--token-file", tmp_path / "token"]
    ended = command(cli, *words)
    assert ended.code == 2
    assert "token" in ended.err


def test_a_client_that_hangs_up_does_not_free_the_engine() -> None:
    pytest.importorskip("ray")
    from cmdiad_fleet.serving.ray_application import uninterrupted

    async def two_requests() -> list[str]:
        lock, events, done = asyncio.Lock(), [], threading.Event()

        async def work(name: str) -> None:
            async with lock:
                events.append(f"{name} begins")
                await asyncio.to_thread(done.wait, LIMIT_S)
                events.append(f"{name} ends")

        first = asyncio.create_task(uninterrupted(work("first")))
        while not events:
            await asyncio.sleep(0)
        first.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await first
        second = asyncio.create_task(uninterrupted(work("second")))
        for _ in range(10):
            await asyncio.sleep(0)
        done.set()
        await second
        return events

    assert asyncio.run(two_requests()) == ["first begins", "first ends", "second begins", "second ends"]


def test_a_port_in_use_is_named(bundles: dict[str, Path]) -> None:
    pytest.importorskip("ray")
    from cmdiad_fleet.serving.ray_application import Service
    from cmdiad_fleet.serving.run_service import running_service

    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        with (
            pytest.raises(EngineError, match=rf"127\.0\.0\.1:{port}: found an address that cannot be"),
            running_service(Service(bundles=bundles, names={}), "127.0.0.1", port),
        ):
            raise AssertionError("the service must not start")


def test_a_damaged_bundle_is_not_served(own_bundle: Path) -> None:
    (own_bundle / "golden.npz").unlink()
    assert_refused(command(cli, "serve", own_bundle), 4, "golden.npz")
