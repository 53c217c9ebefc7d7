"""A local stand-in for timm's hub: serves files over HTTP, resumes by ranges, and can break off a transfer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from http_servers import http_server


@dataclass
class StandIn:
    """State of the stand-in.

    Attributes:
        files: Content by path, for example "timm/test_resnet.r160_in1k/model.safetensors".
        cut: Bytes after which transfers break off for good, or None.
        false_hash: True to state another hash than that of the content.
        ranges: Range header of each GET request, "" without one.
        url: Address of the server.
    """

    files: dict[str, bytes]
    cut: int | None = None
    false_hash: bool = False
    ranges: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def hub(files: dict[str, bytes]) -> Iterator[StandIn]:
    """Serve files until the block ends."""
    state = StandIn(files)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer(None)

        def do_GET(self) -> None:
            state.ranges.append(self.headers.get("Range", ""))
            if state.cut is not None and len(state.ranges) > 1:
                self.send_error(503)
                return
            self.answer(int(state.ranges[-1].removeprefix("bytes=").rstrip("-") or 0))

        def answer(self, start: int | None) -> None:
            """Send the headers of a file, and its content from a position unless that is None."""
            content = state.files.get(self.path.removeprefix("/").replace("/resolve/main", ""))
            if content is None:
                self.send_response(404)
                self.send_header("X-Error-Code", "EntryNotFound")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            self.send_header("ETag", f'"{hashlib.sha256(b"" if state.false_hash else content).hexdigest()}"')
            self.send_header("X-Repo-Commit", "0" * 40)
            self.send_header("Content-Length", str(len(content) - (start or 0)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
            self.end_headers()
            if start is not None:
                self.wfile.write(content[start : state.cut])
                self.close_connection = True

        def log_message(self, *_: object) -> None: ...

    with http_server(Handler) as host:
        state.url = f"http://{host}"
        yield state
