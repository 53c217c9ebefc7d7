"""A real OCI registry (Debian's `docker-registry`) for tests, with basic authentication and TLS on request."""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from patience import LIMIT_S, free_port

BINARY = shutil.which("docker-registry")
USER, PASSWORD = "line7", "line7-secret"
HTPASSWD = f"{USER}:$2y$05$abcdefghijklmnopqrstuu1b2JtC/1/kdTl3JhZvXOZ2JnhuH6u5e\n"
"""Entry of the password file: bcrypt of PASSWORD with a fixed salt."""


@dataclass(frozen=True)
class Running:
    """A running registry.

    Attributes:
        host: Host with port.
        storage: Folder of the registry.
    """

    host: str
    storage: Path

    def blob(self, digest: str) -> Path:
        """Return the file in which the registry keeps a blob."""
        value = digest.removeprefix("sha256:")
        return self.storage / "docker/registry/v2/blobs/sha256" / value[:2] / value / "data"


@contextmanager
def registry(folder: Path, *, password: bool = False, tls: Path | None = None) -> Iterator[Running]:
    """Run a registry on a free port of this machine until the block ends.

    Args:
        folder: Folder for configuration and storage.
        password: True to require USER and PASSWORD.
        tls: Folder with `broker.pem` and `broker.key` for TLS, see `mqtt_broker.write_certificates`, or None.
    """
    if BINARY is None:
        pytest.skip("needs the registry of Debian (apt-get install docker-registry)")
    port = free_port()
    lines = [
        "version: 0.1",
        "log: {level: error}",
        f"storage: {{filesystem: {{rootdirectory: {folder}}}, maintenance: {{uploadpurging: {{enabled: false}}}}}}",
        f"http: {{addr: '127.0.0.1:{port}'{_tls(tls)}}}",
    ]
    if password:
        (folder / "htpasswd").write_text(HTPASSWD)
        lines.append(f"auth: {{htpasswd: {{realm: plant, path: {folder / 'htpasswd'}}}}}")
    config = folder / "registry.yml"
    config.write_text("\n".join(lines) + "\n")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([BINARY, "serve", str(config)], stdout=log, stderr=log)
    try:
        _wait(process, port, folder / "log")
        yield Running(f"127.0.0.1:{port}", folder)
    finally:
        process.kill()
        process.wait(timeout=LIMIT_S)


def _tls(folder: Path | None) -> str:
    return "" if folder is None else f", tls: {{certificate: {folder / 'broker.pem'}, key: {folder / 'broker.key'}}}"


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + LIMIT_S
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S).close()
            return
        except OSError:
            assert process.poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.02)
