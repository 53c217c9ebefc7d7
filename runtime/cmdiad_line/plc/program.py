"""The PLC's side of the handshake as a program that runs once per scan cycle, as in a controller.

It reads all outputs of the station at one moment and sets the levels of the PLC's bits. It uses neither clock nor
sockets, so tests can control it. docs/plc.md describes the same program as text.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

from cmdiad_line.plc.signals import INPUTS, Outputs, ShownResult

COUNTS: dict[str, str] = {
    "triggers": "Rising edges of trigger.",
    "identified": "Triggers that got an id.",
    "missed": "Triggers without an id that the station reported as missed.",
    "unanswered": "Triggers that the station did not answer within the time limit.",
    "results": "Results taken, every id counted once.",
    "passed": "Results with job_pass.",
    "repeated": "Results taken a second time with the same id, after a restart.",
    "foreign": "Results of no known part, for example from before the PLC was started.",
    "swapped": "Results whose part id belongs to another acquisition id.",
    "timed_out": "Parts without a result within the time limit; the PLC rejects them.",
    "late": "Results of parts that had timed out.",
}
"""Counts of a program, with the meaning of each."""
_REMEMBERED = 1000
"""Number of taken ids and of rejected parts that are remembered."""


@dataclass(frozen=True, kw_only=True)
class TakenResult:
    """A result that the PLC has taken and acknowledged.

    Attributes:
        shown: Result fields.
        passed: True if `job_pass` was true.
        part_id: Id of the part that this result belongs to, or "" if the PLC knows no such part.
        seconds: Seconds from the trigger to the scan cycle that read the result; None for an unknown part.
    """

    shown: ShownResult
    passed: bool
    part_id: str
    seconds: float | None


@dataclass
class _Part:
    """A part on the line that waits for its result; `acquisition_id` is 0 until the station has answered."""

    part_id: str
    triggered_s: float
    acquisition_id: int = 0


@dataclass(kw_only=True)
class PlcProgram:
    """State of the PLC's program.

    Attributes:
        taken: Receives every result that is taken, except repeated ones.
        parts: Number of triggers to send.
        takt_s: Seconds between two triggers.
        timeout_s: Seconds from a trigger after which a part without a result is rejected.
        storm: True to send a trigger at every takt, also without `trigger_ready`.
        acknowledge: False to never acknowledge a result.
        name: First part of the part ids.
        counts: See COUNTS.
        levels: Levels of the inputs of the station.
        part_id: Text for the register `part_id`.
    """

    taken: Callable[[TakenResult], None] = lambda result: None
    parts: int = 0
    takt_s: float = 1.0
    timeout_s: float = 5.0
    storm: bool = False
    acknowledge: bool = True
    name: str = "part"
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(COUNTS, 0)))
    levels: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(INPUTS, False))
    part_id: str = ""

    def __post_init__(self) -> None:
        self._open: list[_Part] = []
        self._rejected: deque[_Part] = deque(maxlen=_REMEMBERED)
        self._taken_ids: deque[int] = deque(maxlen=_REMEMBERED)
        self._current: _Part | None = None  # The part whose trigger is high.
        self._missed_before = 0
        self._next_s = 0.0

    @property
    def done(self) -> bool:
        """Return True if every trigger was sent, no part waits for a result, and both handshakes are at rest."""
        at_rest = not self.levels["trigger"] and not self.levels["results_ack"]
        return self.counts["triggers"] >= self.parts and not self._open and at_rest

    def reconnected(self) -> None:
        """Lower every bit: after a lost connection the station may have restarted."""
        if self._current is not None:
            self._lower_trigger("unanswered")
        self.levels.update(dict.fromkeys(INPUTS, False))

    def scan(self, outputs: Outputs, now_s: float) -> None:
        """Run one cycle: set `levels` and `part_id`.

        Args:
            outputs: Outputs of the station, all of the same moment.
            now_s: Time of this cycle in seconds.
        """
        self.levels["trigger_enable"] = True
        idle = self._current is None  # Lowered in an earlier cycle: a bit needs one cycle to be seen as low.
        if self._current is not None:
            self._end_trigger(self._current, outputs, now_s)
        self._take_result(outputs, now_s)
        self._reject_late(now_s)
        if idle and "trigger_ack" not in outputs.bits:
            self._begin_trigger(outputs, now_s)

    # --- triggers ----------------------------------------------------------------------------------------------------

    def _begin_trigger(self, outputs: Outputs, now_s: float) -> None:
        """Raise trigger if the next part is due and the station is ready (in a storm: always)."""
        self._missed_before = outputs.missed_count
        due = self.counts["triggers"] < self.parts and now_s >= self._next_s
        if not due or not (self.storm or "trigger_ready" in outputs.bits):
            return
        behind = now_s - self._next_s > self.takt_s  # At the first part too.
        self._next_s = (now_s if behind else self._next_s) + self.takt_s
        self.counts["triggers"] += 1
        self.part_id = f"{self.name}-{self.counts['triggers']}"
        self._current = _Part(self.part_id, now_s)
        self._open.append(self._current)
        self.levels["trigger"] = True

    def _end_trigger(self, part: _Part, outputs: Outputs, now_s: float) -> None:
        """Lower trigger as soon as the station has given an id, or has reported the trigger as missed."""
        if "trigger_ack" in outputs.bits:
            part.acquisition_id = outputs.trigger_id
            self._lower_trigger("identified")
        elif outputs.missed_count != self._missed_before:
            self._open.remove(part)
            self._lower_trigger("missed")
        elif now_s - part.triggered_s > self.timeout_s:
            self._lower_trigger("unanswered")

    def _lower_trigger(self, count: str) -> None:
        self.counts[count] += 1
        self.levels["trigger"] = False
        self._current = None

    # --- results -----------------------------------------------------------------------------------------------------

    def _take_result(self, outputs: Outputs, now_s: float) -> None:
        """Read a valid result once, raise results_ack, and lower it when results_valid has fallen."""
        if outputs.result is None:
            self.levels["results_ack"] = False
        elif not self.levels["results_ack"]:
            self.levels["results_ack"] = self.acknowledge
            self._sort(outputs.result, "job_pass" in outputs.bits, now_s)

    def _sort(self, shown: ShownResult, passed: bool, now_s: float) -> None:
        """Assign a result to its part by id, and check the part id."""
        if shown.acquisition_id in self._taken_ids:
            self.counts["repeated"] += self.acknowledge
            return
        self._taken_ids.append(shown.acquisition_id)
        part = _find(self._open, shown)
        self.counts["results"] += 1
        self.counts["passed"] += passed
        if part is not None:
            self._open.remove(part)
            self.counts["swapped"] += part.part_id != shown.part_id
        else:
            self.counts["late" if _find(self._rejected, shown) else "foreign"] += 1
        self.taken(
            TakenResult(
                shown=shown,
                passed=passed,
                part_id=part.part_id if part else "",
                seconds=now_s - part.triggered_s if part else None,
            )
        )

    def _reject_late(self, now_s: float) -> None:
        """Reject the parts whose time is over: without a result in time a part is never OK."""
        for part in self._open[:]:
            if part is not self._current and now_s - part.triggered_s > self.timeout_s:
                self._open.remove(part)
                self._rejected.append(part)
                self.counts["timed_out"] += 1


def _find(parts: Collection[_Part], shown: ShownResult) -> _Part | None:
    """Return the part with the id of a result, or the part without an id (a lost answer) that has its part id."""
    for part in parts:
        if part.acquisition_id == shown.acquisition_id:
            return part
    return next((part for part in parts if not part.acquisition_id and part.part_id == shown.part_id), None)
