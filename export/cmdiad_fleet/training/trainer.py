"""`Trainer`: a process that has the imports of a training and forks another one for each detector.

The import of torch takes seconds, which is much of the time of a small detector. See `worker` for the other side.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

WORKER = "cmdiad_fleet.training.worker"
"""Module of the process that trains detectors."""
_POLL_SECONDS = 0.1
_END_SECONDS = 30.0
"""Time after which a process that was asked to end is killed."""
_LONGEST_ANSWER = 64


class Trainer:
    """Trains detectors one after the other. The process starts with the first one, and again after it has died."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._environment: Mapping[str, str] = {}

    def train(self, request: Mapping[str, Any], environment: Mapping[str, str], stop: threading.Event | None) -> int:
        """Train one detector.

        Args:
            request: Request of `run_job.request_of`, JSON-ready. With `fork` false, the process itself trains, and
                ends.
            environment: Environment of the process. Another one than before starts another process, because
                libraries read the number of threads once.
            stop: Event that ends the training early; None if only an exception ends it.

        Returns:
            The exit code of the process that has trained, negative for a signal.
        """
        process = self._started(environment, request["log"])
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with suppress(BrokenPipeError):  # The process has ended, so there is no answer either.
                process.stdin.write(json.dumps(request).encode() + b"\n")
                process.stdin.flush()
            while not select.select([process.stdout], [], [], _POLL_SECONDS)[0]:
                if stop is not None and stop.is_set():
                    self.close()
                    return -signal.SIGTERM
            answer = os.read(process.stdout.fileno(), _LONGEST_ANSWER)
        except BaseException:
            self.close()
            raise
        if answer:
            return int(answer)
        self.close()
        # A process that ends between two detectors has trained nothing, whatever its exit code says.
        return process.returncode or int(bool(request["fork"]))

    def close(self) -> None:
        """End the process in order, with the training that it may run. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(BrokenPipeError):
            process.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
        with suppress(ProcessLookupError):  # Also a forked process whose parent was killed.
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()

    def _started(self, environment: Mapping[str, str], log: str) -> subprocess.Popen[bytes]:
        """Return the process. If it must be started, errors of the imports are written into the log."""
        if self._process is not None and (self._environment != environment or self._process.poll() is not None):
            self.close()
        if self._process is None:
            self._environment = dict(environment)
            with Path(log).open("ab") as errors:
                self._process = subprocess.Popen(  # noqa: S603 - the interpreter that executes this module
                    [sys.executable, "-m", WORKER],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=self._environment,
                    start_new_session=True,  # Ctrl-C reaches the process through its parent alone.
                )
        return self._process
