"""Progress and cancellation of a TensorRT build, safe for the builder's threads and for Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from cmdiad_runtime.support.reporter import Reporter


class Tracker:
    """State of one build: the fraction done, and the request to stop.

    Safe to call from the builder's threads.

    Attributes:
        stopped: True if the build must be cancelled.
    """

    def __init__(self, reporter: Reporter) -> None:
        self.stopped = False
        self._reporter = reporter
        self._failure: BaseException | None = None
        self._fraction = 0.0
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # Name to parent, steps, steps done.
        self._lock = threading.RLock()

    def begin(self, phase: str, parent: str | None, steps: int) -> None:
        """Note that a phase with this number of steps begins inside the current step of its parent."""
        with self._lock:
            self._phases[phase] = (parent, max(steps, 1), 0)
            self.report(phase, self._reached(phase))

    def advance(self, phase: str, step: int) -> None:
        """Note that a step of the phase, counted from 0, is done."""
        with self._lock:
            parent, steps, _ = self._phases.get(phase, (None, step + 1, 0))
            self._phases[phase] = (parent, steps, min(step + 1, steps))
            self.report(phase, self._reached(phase))

    def report(self, phase: str, fraction: float) -> None:
        """Report the fraction done, which never falls. If the reporter raises, stop; the library sees no exception."""
        with self._lock:
            self._fraction = max(self._fraction, fraction)
            if self.stopped:
                return
            try:
                self._reporter.step(f"engine ({phase})", int(100 * self._fraction), 100)
            except BaseException as failure:
                self.stop(failure)

    def stop(self, failure: BaseException) -> None:
        """Request cancellation of the build; `reraise` raises the first failure."""
        self._failure = self._failure or failure
        self.stopped = True

    def reraise(self) -> None:
        """Raise the exception that stopped the build, if there is one."""
        if self._failure is not None:
            raise self._failure

    def _reached(self, phase: str) -> float:
        """Return the fraction of the outermost phase; a phase fills the current step of its parent."""
        fraction, current = 0.0, self._phases.get(phase)
        while current is not None:
            parent, steps, done = current
            fraction = min((done + fraction) / steps, 1.0)
            current = self._phases.get(parent) if parent else None
        return fraction


@contextmanager
def interrupts_deferred(tracker: Tracker) -> Iterator[None]:
    """Let Ctrl-C stop the tracker instead of raising inside a callback of the library.

    Python can raise KeyboardInterrupt between any two instructions, also in a callback before its `try`. From there
    the exception would have to cross C++ frames. Only the main thread receives signals.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or before in (None, signal.SIG_IGN):
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> None:
        tracker.stop(KeyboardInterrupt())

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def monitor(trt: Any, tracker: Tracker) -> Any:
    """Return an IProgressMonitor that reports to the tracker and cancels the build once the tracker has stopped."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # The library is known at run time only.
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tracker.begin(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            tracker.advance(phase_name, step)
            return not tracker.stopped

        def phase_finish(self, phase_name: str) -> None:
            """Do nothing: the next step of the parent reports the same."""

    return Monitor()
