"""Files of a manifest that are not on this machine."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Any

import fsspec
import pytest

from cmdiad_fleet.manifest import fetching
from cmdiad_fleet.manifest.fetching import local_files
from cmdiad_fleet.manifest.reading import read_rows
from cmdiad_runtime.errors import InputError
from http_servers import http_server
from patience import LIMIT_S, refusing_port


@pytest.fixture
def stored() -> Iterator[str]:
    """The URL of a file of eight bytes in the memory of this process."""
    url = "memory://plant/part 1.png"
    with fsspec.open(url, "wb") as file:
        file.write(b"8 bytes!")
    yield url
    fsspec.filesystem("memory").rm("/plant", recursive=True)


def test_a_path_stays_where_it_is() -> None:
    with local_files({"rgb": "/plant/a.png"}, 1) as paths:
        assert paths == {"rgb": Path("/plant/a.png")}


def test_a_url_becomes_a_temporary_copy_with_the_same_ending(stored: str) -> None:
    with local_files({"rgb": stored, "xyz": "/plant/a.tiff"}, LIMIT_S) as paths:
        copy = paths["rgb"]
        assert (copy.read_bytes(), copy.name, paths["xyz"]) == (b"8 bytes!", "part 1.png", Path("/plant/a.tiff"))
    assert not copy.exists()


def refusal(url: str, limit_s: float = LIMIT_S) -> InputError:
    """Return the error of a file that cannot be copied."""
    with pytest.raises(InputError) as error, local_files({"rgb": url}, limit_s):
        pass
    return error.value


def test_a_file_that_does_not_exist() -> None:
    assert refusal("memory://plant/nothing.png").reason == "missing-file"


def test_a_file_that_is_too_large(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "MAX_FILE_BYTES", 8)
    with local_files({"rgb": stored}, LIMIT_S):
        pass
    monkeypatch.setattr(fetching, "MAX_FILE_BYTES", 7)
    assert refusal(stored).reason == "too-large"


def test_a_chain_of_urls_is_refused() -> None:
    assert refusal("simplecache::http://host/a.png").reason == "unsupported"


@pytest.mark.parametrize("scheme", ["gopher", "reference", "git", "dask", "zip", "ftp", "HTTPS+x"])
def test_a_url_of_another_kind_than_a_store_of_files_is_refused(scheme: str) -> None:
    assert refusal(f"{scheme}://host/a.png").reason == "unsupported"


def test_a_server_that_never_answers(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    released = Event()
    monkeypatch.setattr(fetching, "_stream", lambda url, target: released.wait())
    assert refusal(stored, limit_s=0.05).reason == "timeout"
    released.set()


def test_a_file_is_requested_again_after_an_error(stored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream, problems = fetching._stream, [ConnectionResetError("https://me:secret@host/a")]

    def unstable(url: str, target: Path) -> None:
        if problems:
            raise problems.pop()
        stream(url, target)

    monkeypatch.setattr(fetching, "_stream", unstable)
    with local_files({"rgb": stored}, LIMIT_S) as paths:
        assert paths["rgb"].read_bytes() == b"8 bytes!"
    problems.extend([ConnectionResetError("https://me:secret@host/a")] * fetching.ATTEMPTS)
    error = refusal(stored)
    assert error.reason == "unreadable"
    assert "ConnectionResetError" in str(error) and "secret" not in str(error)


def test_http_without_a_server_is_no_missing_file() -> None:
    with refusing_port() as port:
        error = refusal(f"http://127.0.0.1:{port}/a.png")
    assert (error.reason, error.found) == ("unreadable", "a server that does not answer")


def test_http(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"8 bytes!")
    handler = partial(_Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with local_files({"rgb": f"{url}/a.png?token=secret"}, LIMIT_S) as paths:
            assert paths["rgb"].read_bytes() == b"8 bytes!"
        assert refusal(f"{url}/b.png").reason == "missing-file"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "reason", "problem"),
    [
        (404, "missing-file", "no such file"),
        (410, "missing-file", "no such file"),
        (401, "unreadable", "a server that answers with status 401"),
        (403, "unreadable", "a server that answers with status 403"),
        (503, "unreadable", "a server that answers with status 503"),
        (302, "unreadable", "a file that cannot be copied (TooManyRedirects)"),
        (301, "unreadable", "a file that cannot be copied (NonHttpUrlRedirectClientError)"),
    ],
)
def test_only_a_file_that_does_not_exist_is_missing(status: int, reason: str, problem: str) -> None:
    """A redirect leads to the same place again, or for 301 to a file of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Location", "file:///etc/hostname" if status == 301 else self.path)
            self.end_headers()

        do_HEAD = do_GET  # noqa: N815 - the name of `http.server`

        def log_message(self, format: str, *arguments: Any) -> None:
            """Stay silent."""

    with http_server(Handler) as host:
        error = refusal(f"http://{host}/a.png")
        assert (error.reason, error.found) == (reason, problem)
        with pytest.raises(InputError, match=re.escape(problem)):
            list(read_rows(f"http://{host}/a.csv", ["rgb"]))


def test_http_at_an_address_of_ipv6(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"8 bytes!")
    try:
        server = _Six(("::1", 0), partial(_Quiet, directory=str(tmp_path)))
    except OSError:
        pytest.skip("this machine has no IPv6")
    with server:
        Thread(target=server.serve_forever, daemon=True).start()
        with local_files({"rgb": f"http://[::1]:{server.server_port}/a.png"}, LIMIT_S) as paths:
            assert paths["rgb"].read_bytes() == b"8 bytes!"
        server.shutdown()


class _Six(ThreadingHTTPServer):
    """A server at an address of IPv6."""

    address_family = socket.AF_INET6


class _Quiet(SimpleHTTPRequestHandler):
    """A server of files that writes no log."""

    def log_message(self, *arguments: object) -> None:
        """Write nothing."""
