"""How far a TensorRT build is, and stopping it: safe for the builder's threads and for Ctrl-C."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

BuildProgress = Callable[[str, float], None]
"""Called with the name of the current phase and the fraction done of the whole build, 0-1, never falling."""


class Tracker:
    """Where the build is, and whether it has to stop. Safe to call from the builder's threads."""

    def __init__(self, progress: BuildProgress | None) -> None:
        self.stopped = False
        self._progress = progress
        self._failure: BaseException | None = None
        self._fraction = 0.0
        self._phases: dict[str, tuple[str | None, int, int]] = {}  # name -> parent, steps, steps done
        self._lock = threading.RLock()

    def begin(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase of so many steps begins inside the running step of its parent."""
        with self._lock:
            self._phases[phase] = (parent, max(steps, 1), 0)
            self.report(phase, self._reached(phase))

    def advance(self, phase: str, step: int) -> None:
        """This step of the phase, counted from 0, is done."""
        with self._lock:
            parent, steps, _ = self._phases.get(phase, (None, step + 1, 0))
            self._phases[phase] = (parent, steps, min(step + 1, steps))
            self.report(phase, self._reached(phase))

    def report(self, phase: str, fraction: float) -> None:
        """Tell the caller; what the caller raises stops the build, but never travels through the library."""
        with self._lock:
            self._fraction = max(self._fraction, fraction)
            if self.stopped or self._progress is None:
                return
            try:
                self._progress(phase, self._fraction)
            except BaseException as failure:
                self.stop(failure)

    def stop(self, failure: BaseException) -> None:
        """Have the build cancelled; `reraise` raises the first failure."""
        self._failure = self._failure or failure
        self.stopped = True

    def reraise(self) -> None:
        """Raise what stopped the build, if anything did."""
        if self._failure is not None:
            raise self._failure

    def _reached(self, phase: str) -> float:
        """Fraction of the outermost phase, each phase filling the running step of its parent."""
        fraction, current = 0.0, self._phases.get(phase)
        while current is not None:
            parent, steps, done = current
            fraction = min((done + fraction) / steps, 1.0)
            current = self._phases.get(parent) if parent else None
        return fraction


@contextmanager
def interrupts_deferred(tracker: Tracker) -> Iterator[None]:
    """Let Ctrl-C stop the tracker instead of raising inside a callback of the library.

    A KeyboardInterrupt may be raised between any two instructions, also in a callback before its `try`;
    from there it would have to cross C++ frames. Only the main thread receives signals.
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
    """The library's IProgressMonitor that tells the tracker, and cancels the build once the tracker has stopped."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the library is known when it runs
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            tracker.begin(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            tracker.advance(phase_name, step)
            return not tracker.stopped

        def phase_finish(self, phase_name: str) -> None:
            """Part of the interface; the parent's next step says the same."""

    return Monitor()
