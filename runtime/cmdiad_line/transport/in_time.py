"""The last check before a process shows the plant a result: an OK after its deadline is NG."""

from __future__ import annotations

from dataclasses import replace

from cmdiad_line.reasons import STATION_REASONS
from cmdiad_line.transport.messages import Command, Result


def in_time(result: Result, now_ns: int) -> Result:
    """Return a result as it may be shown for the first time: an OK after its deadline becomes NG `deadline`.

    The supervisor publishes NG at the deadline. An OK arrives later only if the process that receives it was held up.

    Args:
        result: Result of the supervisor. One that was replayed was shown before and stays as it is.
        now_ns: Present monotonic time.
    """
    if result.verdict != "OK" or result.replayed or now_ns <= result.deadline_ns:
        return result
    return replace(result, verdict="NG", reason="deadline", message=STATION_REASONS["deadline"])


def late_note(result: Result, channel: str) -> Command:
    """Return the entry of the audit log for a result whose OK came too late to be shown.

    Args:
        result: Result as it was shown.
        channel: Process that showed it.
    """
    details = {"acquisition_id": result.acquisition_id, "shown": "NG", "reason": result.reason}
    return Command(
        token=0, name="note", user=channel, arguments={"action": "late OK", "subject": channel, "details": details}
    )
