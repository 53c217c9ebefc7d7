"""Write the position of the row that a worker scores to a file, which tells the driver where a dead worker was.

Eight bytes are rewritten in place before every sample. They must outlast the process but not a power failure, so
nothing is flushed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_BYTES = 8


@contextmanager
def open_mark(path: Path) -> Iterator[Callable[[int], None]]:
    """Yield a function that notes the position of the row in work. The file stays if the process dies.

    Args:
        path: File of the mark; an earlier mark is removed.
    """
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    try:
        yield lambda position: _write(file, position)
    finally:
        os.close(file)


def marked_position(path: Path) -> int | None:
    """Return the position of the row that was in work, or None if there is no mark."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    return int.from_bytes(content, "little") if len(content) == _BYTES else None


def _write(file: int, position: int) -> None:
    os.pwrite(file, position.to_bytes(_BYTES, "little"), 0)
