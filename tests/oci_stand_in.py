"""A stand-in for an OCI registry that can lie, break off, redirect and ask for credentials."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from urllib.parse import parse_qs, urlsplit

from http_servers import http_server


@dataclass
class StandIn:
    """State of the stand-in.

    Attributes:
        manifests: Bytes by tag or digest.
        blobs: Bytes by digest.
        cut: Bytes after which each transfer of a blob breaks off, or None.
        ignore_range: True to answer a request for a range with the whole blob.
        answer: Function that may answer a request itself, and then returns True.
        seen: Path and headers of each GET request.
        host: Host with port.
    """

    manifests: dict[str, bytes] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    cut: int | None = None
    ignore_range: bool = False
    answer: Callable[[BaseHTTPRequestHandler], bool] = lambda handler: False
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    host: str = ""

    def header(self, name: str) -> list[str]:
        """Return the values of a header of all requests, "" where there was none."""
        return [headers.get(name, "") for _, headers in self.seen]


def send(handler: BaseHTTPRequestHandler, status: int, body: bytes = b"", **headers: str) -> bool:
    """Send an answer, with underscores in the names of headers for hyphens."""
    handler.send_response(status)
    for name, value in ({"Content_Length": str(len(body))} | headers).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(body)
    return True


@contextmanager
def stand_in() -> Iterator[StandIn]:
    """Run a stand-in until the block ends."""
    state = StandIn()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            state.seen.append((self.path, dict(self.headers)))
            if not state.answer(self):
                self.usual()

        def do_HEAD(self) -> None:
            if not state.answer(self):
                send(self, 200 if self.path.split("/")[-1] in state.blobs else 404)

        def do_POST(self) -> None:
            if not state.answer(self):
                send(self, 202, Location=f"{self.path}1?state=a")

        def do_PUT(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            if state.answer(self):
                return
            digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
            if "/uploads/" in self.path:
                right = parse_qs(urlsplit(self.path).query) == {"state": ["a"], "digest": [digest]}
                state.blobs |= {digest: content} if right else {}
            else:
                right = True
                state.manifests |= {digest: content, self.path.split("/")[-1]: content}
            send(self, 201 if right else 400)

        def usual(self) -> None:
            kind, name = self.path.split("/")[-2:]
            content = (state.manifests if kind == "manifests" else state.blobs).get(name)
            if content is None:
                send(self, 404)
            elif kind == "manifests":
                send(self, 200, content)
            else:
                self.send_blob(content)

        def send_blob(self, content: bytes) -> None:
            extent = self.headers.get("Range", "")
            start = 0 if state.ignore_range or not extent else int(extent.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.send_header("Content-Length", str(len(content) - start))
            self.end_headers()
            end = None if state.cut is None else start + state.cut
            self.wfile.write(content[start:end])
            self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    with http_server(Handler) as state.host:
        yield state
