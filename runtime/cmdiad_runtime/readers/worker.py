"""`TimedReader`: read files in processes that can be ended, so that no file can stop an inspection.

::

    with TimedReader(timeout_s=10) as reader:
        sample = reader.read_files("part 7", Path("rgb/7.png"), Path("xyz/7.tiff"), colour="rgb")

`TimedReader.read_files` has the arguments, the result and the errors of `reading.read_files`. In addition, a file
whose reading takes longer than the limit is refused with the reason "timeout", and a file whose reading ends the
process (a fault of a decoder, or too little memory) is refused with "unreadable" or "out-of-memory". The process is
replaced; the next file is read as usual.

Processes are started when they are needed, one for each thread that reads at the same time, and are kept for the
following files. They import the readers only (0.15 s, 40 MB) and inherit no file, thread or lock. Arrays come back
through a pipe.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Any, BinaryIO, cast

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.colour import colour_to_json
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.readers import Colour
from cmdiad_runtime.reasons import Reason
from cmdiad_runtime.sample import Sample

INPUT_MEMORY = 4 << 30
"""Largest address space of a reading process in bytes: three times the need of the largest accepted file."""

_START_S = 60.0
"""Seconds within which a process must be ready on the slowest machine."""
_ORPHAN_S = 30.0
"""Seconds beyond the limit after which a process without a parent ends itself."""
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from cmdiad_runtime.readers.worker_process import main
main()
"""

_Answer = tuple[dict[str, Any], dict[str, npt.NDArray[Any]]]
"""Header and arrays of an answer."""


class TimedReader:
    """Reader of files with a limit on time and memory. Several threads may use one instance.

    Args:
        timeout_s: Seconds for the files of one sample, above 0.
        memory_bytes: Largest address space of a reading process, or 0 for no limit. Only POSIX systems apply this.

    Raises:
        ValueError: The time limit is not above 0.
    """

    def __init__(self, timeout_s: float, *, memory_bytes: int = INPUT_MEMORY) -> None:
        if not timeout_s > 0:
            raise ValueError(f"a time limit must be above 0 seconds, not {timeout_s:g}")
        self.timeout_s = timeout_s
        self._memory_bytes = memory_bytes
        self._folder = Path.cwd()  # Relative paths refer to the same folder, whichever process reads them.
        self._lock = Lock()
        self._all: set[_Process] = set()
        self._idle: list[_Process] = []
        self._closed = False
        self._idle.append(self._start())  # The start takes place while the caller opens the bundle.

    def read_files(self, name: str, rgb: Path | None, xyz: Path | None, *, colour: Colour = "rgb") -> Sample:
        """Read the files of one sample; see `reading.read_files`.

        Args:
            name: Name of the sample.
            rgb: Image file, or None.
            xyz: Cloud file, or None.
            colour: Kind of image that the detector was trained on.

        Raises:
            InputError: A file cannot be read or used, or reading takes too long or ends the process.
            ValueError: The reader is closed.
        """
        process = self._take()
        request = {"rgb": _text(rgb), "xyz": _text(xyz), "colour": colour_to_json(colour)}
        try:
            header, arrays = process.ask(request, self.timeout_s)
        except (TimeoutError, EOFError) as error:
            self._discard(process)
            raise self._refusal(name, error, process) from error
        except BaseException:  # An interruption leaves an answer in the pipe that nobody has read.
            self._discard(process)
            raise
        with self._lock:
            self._idle.append(process)
        if "error" in header:
            error_fields = header["error"]
            raise InputError(error_fields.pop("subject"), **error_fields)
        if "failure" in header:
            raise _refused(name, f"a file whose reading failed ({header['failure']})", "internal")
        return Sample(name, rgb=arrays.get("rgb"), xyz=arrays.get("xyz"))

    def close(self) -> None:
        """End all processes. Idempotent; a reading in another thread ends with an InputError."""
        with self._lock:
            self._closed = True
            processes, self._all, self._idle = self._all, set(), []
        for process in processes:
            process.end()

    def __enter__(self) -> TimedReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _take(self) -> _Process:
        with self._lock:
            if self._closed:
                raise ValueError("the reader is closed")
            while self._idle:
                process = self._idle.pop()
                if process.is_running():
                    return process
        return self._start()

    def _start(self) -> _Process:
        process = _Process(self._folder, self.timeout_s + _ORPHAN_S, self._memory_bytes)
        with self._lock:
            if not self._closed:
                self._all.add(process)
                return process
        process.end()
        raise ValueError("the reader was closed while a process started")

    def _discard(self, process: _Process) -> None:
        with self._lock:
            self._all.discard(process)
        process.end()

    def _refusal(self, name: str, error: Exception, process: _Process) -> InputError:
        status = process.exit_status()
        if not process.is_ready:
            return _refused(name, f"a reading process that does not start (status {status})", "internal")
        if isinstance(error, TimeoutError):
            return _refused(name, f"a file that takes longer than {self.timeout_s:g} s to read", "timeout")
        killed = status == -9  # The system ends the process that uses most when memory is short.
        problem = "a file whose reading ends the process" + (" (out of memory)" if killed else f" (status {status})")
        return _refused(name, problem, "out-of-memory" if killed else "unreadable")


class _Process:
    """One reading process, with a thread that receives its answers.

    Args:
        folder: Working directory.
        limit_s: Seconds after which the process ends itself during a request.
        memory_bytes: Largest address space, or 0.

    Attributes:
        is_ready: True once the process has started.
    """

    def __init__(self, folder: Path, limit_s: float, memory_bytes: int) -> None:
        arguments = [sys.executable, "-I", "-c", _START, json.dumps(sys.path), str(limit_s), str(memory_bytes)]
        # Threads of a linear algebra library would take address space and are of no use for reading.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter with our own module
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            pipesize=1 << 20,
        )
        self._answers: SimpleQueue[_Answer | None] = SimpleQueue()
        self.is_ready = False
        Thread(target=self._receive, name="cmdiad-answers", daemon=True).start()

    def ask(self, request: dict[str, Any], timeout_s: float) -> _Answer:
        """Send a request and return the answer.

        Raises:
            TimeoutError: The answer takes longer.
            EOFError: The process has ended.
        """
        if not self.is_ready:
            self._next(_START_S)
            self.is_ready = True
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(request).encode() + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise EOFError from error
        return self._next(timeout_s)

    def is_running(self) -> bool:
        """Return True if the process has not ended."""
        return self._process.poll() is None

    def exit_status(self) -> int | None:
        """Return the exit status of the ended process; the negative number of the signal that ended it."""
        return self._process.returncode

    def end(self) -> None:
        """End the process. Does not wait for a process that the system cannot end, as on a dead network drive."""
        assert self._process.stdin is not None
        self._process.kill()
        try:
            self._process.stdin.close()
            self._process.wait(1)
        except (OSError, subprocess.TimeoutExpired):
            pass

    def _next(self, timeout_s: float) -> _Answer:
        try:
            answer = self._answers.get(timeout=timeout_s)
        except Empty as error:
            raise TimeoutError from error
        if answer is None:
            raise EOFError
        return answer

    def _receive(self) -> None:
        """Put answers into the queue until the process ends, then None."""
        assert self._process.stdout is not None
        stream = cast(BinaryIO, self._process.stdout)
        with stream:
            try:
                while line := stream.readline():
                    header = json.loads(line)
                    kinds = [kind for kind in ("rgb", "xyz") if kind in header]
                    self._answers.put((header, {kind: _read_array(stream, *header[kind]) for kind in kinds}))
            except (OSError, EOFError, ValueError):
                pass
        self._answers.put(None)


def _read_array(stream: BinaryIO, dtype: str, shape: list[int]) -> npt.NDArray[Any]:
    array = np.empty(shape, dtype=dtype)
    left = array.data.cast("B")
    while left:
        count = stream.readinto(left)  # type: ignore[attr-defined]  # buffered streams have this method
        if not count:
            raise EOFError
        left = left[count:]
    return array


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _refused(name: str, problem: str, reason: Reason) -> InputError:
    return InputError(
        name,
        found=problem,
        expected="a file that can be read within the limits of time and memory",
        action="record the sample again; if the file is good, raise --input-timeout, or report this",
        reason=reason,
    )
