"""Uploads reach the acquisition's own receiver, and the answer is the result of exactly this upload."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import httpx2 as httpx
import pytest

from cmdiad_line.accounts.tokens import add_token
from cmdiad_line.acquisition.source import Frame, FrameRefusedError, FrameTimeoutError
from cmdiad_line.acquisition.sources import push as receiver
from cmdiad_line.station_file.source import PushSource
from cmdiad_line.web import push as sender
from cmdiad_line.web.push import Push, push_of
from patience import LIMIT_S
from web_doubles import make_result, png
from web_running import RunningWeb, make_station, running_web


class Acquisition:
    """The receiver of the acquisition in a thread; gives ids from 501 on and publishes a result for each."""

    def __init__(self, web: RunningWeb) -> None:
        self.frames: list[Frame] = []
        self._web = web
        self._source = receiver.make(PushSource(kind="push", timeout_ms=60_000), web.state)
        self._source.open()
        self._ending = False
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._ending = True
        self._thread.join()
        self._source.close()

    def _run(self) -> None:
        number = 500
        while not self._ending:
            try:
                frame = self._source.frame(0.05)
            except FrameTimeoutError:
                continue
            except FrameRefusedError as refused:
                number += 1
                self._web.send(make_result(number, "NG", refused.reason))
                assert refused.answer is not None
                refused.answer(number)
                continue
            number += 1
            self.frames.append(frame)
            self._web.send(make_result(number, part_id=frame.part_id, channel="acquisition"))
            assert frame.answer is not None
            frame.answer(number)


@pytest.fixture
def upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[RunningWeb, dict[str, str]]]:
    monkeypatch.setattr(sender, "_PATIENCE_S", LIMIT_S)
    monkeypatch.setattr(receiver, "_SENDER_S", LIMIT_S)
    tokens = tmp_path / "tokens"
    header = {"Authorization": f"Bearer {add_token(tokens, 'mes', 'operator')}"}
    with running_web(tmp_path, push=True, token_file=tokens) as web:
        yield web, header


def test_an_upload_is_answered_with_its_own_result(upload: tuple[RunningWeb, dict[str, str]]) -> None:
    web, header = upload
    acquisition = Acquisition(web)
    try:
        files = {"image": ("../../camera.PNG", png(77))}
        answer = httpx.post(f"{web.url}/inspect", data={"part_id": "A-1"}, files=files, headers=header, timeout=LIMIT_S)
        second = httpx.post(f"{web.url}/inspect", files=files, headers=header, timeout=LIMIT_S)
    finally:
        acquisition.close()
    assert (answer.status_code, answer.json()["acquisition_id"], answer.json()["part_id"]) == (200, 501, "A-1")
    assert second.json()["acquisition_id"] == 502
    assert acquisition.frames[0].arrays["rgb"].shape == (24, 32, 3)
    assert acquisition.frames[0].arrays["rgb"][0, 0].tolist() == [77, 77, 77]


def test_a_damaged_upload_is_ng(upload: tuple[RunningWeb, dict[str, str]]) -> None:
    web, header = upload
    acquisition = Acquisition(web)
    try:
        files = {"image": ("camera.png", png()[:50])}
        answer = httpx.post(f"{web.url}/inspect", files=files, headers=header, timeout=LIMIT_S)
    finally:
        acquisition.close()
    assert (answer.json()["verdict"], answer.json()["acquisition_id"]) == ("NG", 501)
    assert not acquisition.frames


def test_without_the_acquisition_there_is_no_result(upload: tuple[RunningWeb, dict[str, str]]) -> None:
    web, header = upload
    files = {"image": ("camera.png", png())}
    answer = httpx.post(f"{web.url}/inspect", files=files, headers=header, timeout=LIMIT_S)
    assert (answer.status_code, answer.json()["detail"][:3]) == (503, "NG.")
    wrong = httpx.post(f"{web.url}/inspect", files={"image": ("camera.exe", png())}, headers=header, timeout=LIMIT_S)
    assert wrong.status_code == 415


def test_an_upload_beyond_the_limit_is_refused(upload: tuple[RunningWeb, dict[str, str]]) -> None:
    web, header = upload

    def too_much() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
        for _ in range(70):
            yield b"x" * 1_000_000
        yield b"\r\n--x--\r\n"

    form = {**header, "Content-Type": "multipart/form-data; boundary=x"}
    with pytest.raises(httpx.HTTPError):
        httpx.post(f"{web.url}/inspect", content=too_much(), headers=form, timeout=LIMIT_S).raise_for_status()
    with closing(http.client.HTTPConnection(web.url.removeprefix("http://"), timeout=LIMIT_S)) as connection:
        connection.putrequest("POST", "/inspect")
        for name, text in {**form, "Content-Length": "65000000"}.items():
            connection.putheader(name, text)
        connection.endheaders()
        assert connection.getresponse().status == 413
    assert httpx.get(f"{web.url}/healthz", timeout=LIMIT_S).status_code == 200


def test_an_answer_without_an_id_is_no_result(tmp_path: Path) -> None:
    async def exchange(text: bytes) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(10_000)
            writer.write(len(text).to_bytes(4, "big") + text)
            writer.close()

        server = await asyncio.start_unix_server(serve, tmp_path / "push.sock")
        async with server:
            with pytest.raises(Exception, match="NG"):
                await Push(tmp_path / "push.sock", 1000).send("A", image=None, cloud=None)

    for text in (b"{}", b"[]", b'{"acquisition_id": "17"}', b"no JSON", b""):
        asyncio.run(exchange(text))


def test_only_a_source_that_takes_uploads_opens_the_way(tmp_path: Path) -> None:
    assert push_of(make_station(tmp_path)) is None
    push = push_of(make_station(tmp_path, push=True))
    assert push is not None
    assert push.largest_bytes == 64_000_000
