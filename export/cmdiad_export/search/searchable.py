"""Access to the detector of a run as one with memory banks."""

from __future__ import annotations

from cmdiad_runtime.errors import EngineError
from cmdiad_train.detectors.family import SearchableDetector
from cmdiad_train.runs.run import Run


def has_banks(run: Run) -> bool:
    """Return True if the detector of a run searches memory banks."""
    return isinstance(run.detector, SearchableDetector)


def searchable(run: Run, option: str) -> SearchableDetector:
    """Return the detector of a run, which must have memory banks.

    Args:
        run: A finished run.
        option: Option of `cmdiad-export` that needs banks, for the message.

    Raises:
        EngineError: The detector's family has no memory banks.
    """
    detector = run.detector
    if isinstance(detector, SearchableDetector):
        return detector
    raise EngineError(
        option,
        found=f"a run without memory banks ({run.path})",
        expected="a detector that searches memory banks",
        action=f"export without {option}",
    )
