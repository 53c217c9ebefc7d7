"""The process that reads files for `TimedReader`. Started by `worker`, never imported by anything else.

Protocol: each request is one line of JSON. Each answer is a line of JSON with the arrays' types and shapes, or an
error, followed by the bytes of the arrays in that order. The first line after the start is `{}`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.colour import colour_from_json
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers._files import refusing_failures
from cmdiad_runtime.readers.reading import read_files
from cmdiad_runtime.support.process_limits import end_after, ignore_keyboard, limit_memory

ERROR_FIELDS = ("subject", "found", "expected", "action", "reason")
"""Fields of an InputError in an answer."""


def serve(requests: BinaryIO, answers: BinaryIO, limit_s: float) -> None:
    """Answer requests until there are no more.

    Args:
        requests: Stream of requests.
        answers: Stream of answers.
        limit_s: Seconds after which this process ends itself during a request. The parent process ends a slow process
            earlier; this limit is for a parent that does not exist any more.
    """
    _send(answers, {}, [])
    for line in requests:
        end_after(limit_s)
        header, arrays = _answer(json.loads(line))
        _send(answers, header, arrays)
        end_after(0)


def main() -> None:
    """Serve standard input and output. Arguments: seconds per request, bytes of memory (0: no limit)."""
    limit_s, memory = float(sys.argv[2]), int(sys.argv[3])
    ignore_keyboard()
    if memory:
        limit_memory(memory)
    # A library that prints must not disturb the protocol: its output goes where the errors go.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, answers, limit_s)


def _answer(request: dict[str, Any]) -> tuple[dict[str, Any], list[npt.NDArray[Any]]]:
    """Return the header of the answer and the arrays that follow."""
    rgb, xyz = (None if request[kind] is None else Path(request[kind]) for kind in ("rgb", "xyz"))
    try:
        with refusing_failures(rgb or xyz or "", expected="a file that can be read"):
            sample = read_files("", rgb, xyz, colour=colour_from_json(request["colour"]))
    except InputError as error:
        return {"error": {name: getattr(error, name) for name in ERROR_FIELDS}}, []
    except Exception as error:
        return {"failure": f"{type(error).__name__}: {error}"}, []
    arrays = {kind: array for kind, array in (("rgb", sample.rgb), ("xyz", sample.xyz)) if array is not None}
    return {kind: [array.dtype.str, array.shape] for kind, array in arrays.items()}, list(arrays.values())


def _send(answers: BinaryIO, header: dict[str, Any], arrays: list[npt.NDArray[Any]]) -> None:
    answers.write(json.dumps(header).encode() + b"\n")
    for array in arrays:
        answers.write(np.ascontiguousarray(array).data.cast("B"))
    answers.flush()
