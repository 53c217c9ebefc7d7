"""Read the address of the pages from the state folder, where the web process writes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cmdiad_runtime.support.regular_file import read_regular

ADDRESS_FILE = "run/web.json"
"""Path in the state folder."""
_LIMIT = 4096  # bytes


def read_address(state: Path) -> dict[str, Any]:
    """Return the content of the file; {} if it is missing or damaged.

    "url" is the address, "port" the port, "process" the id of the web process, and "certificate" the SHA-256 of the
    certificate as hexadecimal digits, "" without TLS.

    Args:
        state: State folder of the station.
    """
    try:
        content = json.loads(read_regular(state / ADDRESS_FILE, _LIMIT))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
