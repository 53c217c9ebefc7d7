"""The handshake with a PLC, as a state machine without clock, sockets or threads.

The handshake takes levels of inputs and messages of the supervisor. It returns messages for the supervisor and the
levels of the outputs. Three rules make it safe:

* `job_pass` requires a shown result with the verdict OK **and** a recent message of the supervisor.
* The result fields belong to one part. They change only while `results_valid` is false, and the next result is shown
  only after the PLC has lowered `results_ack`.
* Every rising edge of `trigger` is answered, with `trigger_ack` (an id, and exactly one result under it), with
  `missed_acquisition`, or with both.

The first level of an input after the start is not an edge, because the PLC may have held it since before the start.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from cmdiad_line.plc.signals import COMMANDS_OF_INPUTS, INPUTS, Offline, Outputs, ShownResult
from cmdiad_line.transport.in_time import in_time, late_note
from cmdiad_line.transport.messages import (
    Acknowledge,
    AcquisitionDone,
    Answer,
    Command,
    Message,
    Result,
    StationState,
    Trigger,
    Triggered,
)

SHOWN_CHANNELS = ("plc", "acquisition")
"""Channels whose results the PLC sees: its own triggers, and frames that arrive by themselves."""
_OFFLINE = {
    "starting": Offline.STARTING,
    "ready": Offline.ONLINE,
    "stopped": Offline.STOPPED,
    "not-ready": Offline.NOT_READY,
    "failed": Offline.FAILED,
}


@dataclass(frozen=True, kw_only=True)
class HandshakeSettings:
    """Times and sizes of a handshake.

    Attributes:
        buffer: Largest number of results that wait for an acknowledgement, with parts in work. With 1, a trigger also
            takes back the result of the part before, and a result is shown only if its trigger was the last one. The
            result of a frame that arrived by itself replaces the one before.
        silent_ns: Time without a message of the supervisor after which the station counts as silent.
        heartbeat_ns: Time between two changes of `heartbeat`.
        gap_ns: Time for which `results_valid` is false when a result replaces one that the PLC has not acknowledged.
    """

    buffer: int = 8
    silent_ns: int = 2_000_000_000
    heartbeat_ns: int = 500_000_000
    gap_ns: int = 50_000_000


class Handshake:
    """The handshake with one PLC. Every `now_ns` is a time of `time.monotonic_ns()`.

    Args:
        settings: Times and sizes.
    """

    def __init__(self, settings: HandshakeSettings) -> None:
        self._settings = settings
        self._levels: dict[str, bool] = {}
        self._texts = {"requested_recipe": "", "part_id": ""}
        self._state: StationState | None = None
        self._heard_ns: int | None = None
        self._token = 0
        self._pending: list[int] = []  # Tokens of triggers without an id yet.
        self._in_work: set[int] = set()  # Ids of own triggers without a result yet.
        self._last_token = 0  # Token of the last rising edge of `trigger`, or 0 if that edge was refused.
        self._trigger_id = 0
        self._trigger_acknowledged = False
        self._exposed = False
        self._missed = False
        self._missed_count = 0
        self._overrun = False
        self._waiting: deque[Result] = deque()
        self._shown: Result | None = None
        self._shown_ns = 0
        self._replaced_ns: int | None = None
        self._repeated = False
        self._command_token = 0
        self._command_done: bool | None = None

    # --- from the PLC ------------------------------------------------------------------------------------------------

    def write_text(self, name: str, text: str) -> None:
        """Store `requested_recipe` or `part_id`; used at the next rising edge that needs it."""
        assert name in self._texts, name
        self._texts[name] = text

    def write(self, levels: Mapping[str, bool], now_ns: int, edge_ns: int | None = None) -> list[Message]:
        """Take levels of inputs that the PLC has set at once, and return the messages for the supervisor.

        Args:
            levels: Levels by name.
            now_ns: Present time.
            edge_ns: Time at which the levels changed, if it is known to be earlier.
        """
        assert levels.keys() <= INPUTS.keys(), levels.keys() - INPUTS.keys()
        raised = {name for name, level in levels.items() if level and not self._levels.get(name, False)}
        known = {name for name in raised if name in self._levels}
        self._levels.update(levels)
        messages: list[Message] = []
        if "results_ack" in raised:
            messages += self._take_acknowledgement("results_ack" in known, now_ns)
        for name in COMMANDS_OF_INPUTS:
            if name in raised:
                messages += self._take_command(name, name in known, now_ns)
        if levels.get("trigger") is False:
            self._trigger_acknowledged = False
        if "trigger" in raised:
            messages += self._take_trigger("trigger" in known, now_ns, now_ns if edge_ns is None else edge_ns)
        self._show_next(now_ns)
        return messages

    def _take_acknowledgement(self, edge: bool, now_ns: int) -> list[Message]:
        """Forget the shown result if the PLC can have seen it as valid. Otherwise show it again later."""
        if self._shown is None:
            return []
        if not edge or not self._heard(now_ns) or self._in_gap(now_ns):
            self._repeated = True
            return []
        return self._forget_shown()

    def _forget_shown(self) -> list[Message]:
        shown, self._shown = self._shown, None
        return [] if shown is None else [Acknowledge(acquisition_id=shown.acquisition_id)]

    def _take_command(self, name: str, edge: bool, now_ns: int) -> list[Message]:
        """Return the command of an input, or refuse it at once."""
        self._token += 1
        self._command_token, self._command_done = self._token, None
        recipe = name in ("prepare_recipe", "activate_recipe")
        if not edge or not self._heard(now_ns) or (recipe and not self._texts["requested_recipe"]):
            self._command_done = False
            return []
        messages = self._clear() if name == "reset" else []
        if name == "reset" and self._state is not None and self._state.phase != "failed":
            self._command_done = True
            return messages
        arguments = {"recipe_id": self._texts["requested_recipe"]} if recipe else {}
        command = Command(token=self._token, name=COMMANDS_OF_INPUTS[name], user="plc", arguments=arguments)
        return [*messages, command]

    def _clear(self) -> list[Message]:
        """Forget waiting results and latched bits."""
        self._missed = self._overrun = False
        return self._forget_results()

    def _forget_results(self) -> list[Message]:
        """Forget all results; the supervisor must not send them again."""
        messages = self._forget_shown()
        messages += [Acknowledge(acquisition_id=result.acquisition_id) for result in self._waiting]
        self._waiting.clear()
        return messages

    def _take_trigger(self, edge: bool, now_ns: int, edge_ns: int) -> list[Message]:
        """Return the trigger for the supervisor, or count it as missed."""
        messages = self._forget_results() if self._settings.buffer == 1 else []
        self._last_token = self._trigger_id = 0
        self._trigger_acknowledged = self._exposed = False
        if not (edge and self._levels.get("trigger_enable") and self._heard(now_ns)):
            self._miss()
            return messages
        if self._outstanding >= self._settings.buffer:
            self._overrun = True
            self._miss()
            return messages
        self._token += 1
        self._last_token = self._token
        self._pending.append(self._token)
        return [*messages, Trigger(token=self._token, part_id=self._texts["part_id"], sent_ns=edge_ns)]

    def _miss(self) -> None:
        self._missed = True
        self._missed_count += 1

    @property
    def _outstanding(self) -> int:
        """Number of results that wait or are still to come."""
        return len(self._pending) + len(self._in_work) + self._kept

    @property
    def _kept(self) -> int:
        return len(self._waiting) + (self._shown is not None)

    # --- from the supervisor -----------------------------------------------------------------------------------------

    def receive(self, message: Message, now_ns: int) -> list[Message]:
        """Take a message of the supervisor, and return the messages for it."""
        self._heard_ns = now_ns
        if isinstance(message, StationState):
            self._state = message
        elif isinstance(message, Triggered):
            self._take_id(message)
        elif isinstance(message, AcquisitionDone):
            self._exposed = self._exposed or message.acquisition_id == self._trigger_id
        elif isinstance(message, Answer) and message.token == self._command_token:
            self._command_done = message.done
        elif isinstance(message, Result) and message.channel in SHOWN_CHANNELS:
            return self._take_result(message, now_ns)
        return []

    def _take_id(self, message: Triggered) -> None:
        """Store the id of a trigger. Only the last trigger is acknowledged, while the PLC holds it."""
        if message.token not in self._pending:
            return
        last = message.token == self._last_token
        self._pending.remove(message.token)
        self._in_work.add(message.acquisition_id)
        if last:
            self._trigger_id = message.acquisition_id
            self._trigger_acknowledged = self._levels.get("trigger", False)
        if not message.accepted:
            self._miss()
        elif last:
            self._missed = False

    def _take_result(self, result: Result, now_ns: int) -> list[Message]:
        """Keep a result until the PLC acknowledges it."""
        self._exposed = self._exposed or result.acquisition_id == self._trigger_id
        own = result.acquisition_id in self._in_work
        self._in_work.discard(result.acquisition_id)
        if self._shown is not None and self._shown.acquisition_id == result.acquisition_id:
            return []
        if any(waiting.acquisition_id == result.acquisition_id for waiting in self._waiting):
            return []
        messages: list[Message] = []
        shown = in_time(result, now_ns)
        if shown is not result:
            messages.append(late_note(shown, "plc"))
        result = shown
        single = self._settings.buffer == 1
        if single and result.channel == "acquisition" and self._kept:  # The part before is gone.
            messages += self._forget_results()
            self._replaced_ns = now_ns
        if single and result.channel == "plc" and (not own or result.acquisition_id != self._trigger_id):
            return [*messages, Acknowledge(acquisition_id=result.acquisition_id)]  # The part is gone: never show it.
        if self._outstanding >= self._settings.buffer and not own:
            self._overrun = True
            return messages
        self._waiting.append(result)
        self._show_next(now_ns)
        return messages

    def _show_next(self, now_ns: int) -> None:
        """Show the oldest waiting result, if none is shown and the PLC has lowered `results_ack`."""
        if self._shown is None and self._waiting and not self._levels.get("results_ack", False):
            self._shown = self._waiting.popleft()
            self._shown_ns = now_ns
            self._repeated = self._shown.replayed

    # --- to the PLC --------------------------------------------------------------------------------------------------

    def _heard(self, now_ns: int) -> bool:
        """Return True if the last message of the supervisor is recent enough."""
        return self._heard_ns is not None and now_ns - self._heard_ns <= self._settings.silent_ns

    def _in_gap(self, now_ns: int) -> bool:
        """Return True while `results_valid` is false because a result has replaced another one."""
        return self._replaced_ns is not None and now_ns - self._replaced_ns < self._settings.gap_ns

    def outputs(self, now_ns: int, *, ok_hold_ns: int = 0) -> Outputs:
        """Return all outputs at a moment.

        Args:
            now_ns: The moment.
            ok_hold_ns: Longest time for which `job_pass` is true for one result; 0 for no limit.
        """
        if not self._heard(now_ns) or self._state is None:
            return Outputs(
                bits=frozenset(["error"]),
                missed_count=self._missed_count,
                waiting=self._kept,
                beat=self._beat(now_ns),
            )
        phase = self._state.phase
        valid = self._shown is not None and not self._levels.get("results_ack", False)
        valid = valid and not self._in_gap(now_ns)
        bits = self._state_bits(self._state, now_ns)
        if valid:
            sure = phase in ("ready", "stopped", "not-ready")
            bits |= self._result_bits(sure and (ok_hold_ns == 0 or now_ns - self._shown_ns < ok_hold_ns))
        return Outputs(
            bits=frozenset(name for name, level in bits.items() if level),
            offline=_OFFLINE[phase],
            error=(self._state.reason or "station-error") if phase in ("not-ready", "failed") else "",
            trigger_id=self._trigger_id,
            missed_count=self._missed_count,
            waiting=self._kept,
            beat=self._beat(now_ns),
            active_recipe=self._state.recipe_id,
            result=_shown(self._shown) if valid and self._shown is not None else None,
        )

    def _state_bits(self, state: StationState, now_ns: int) -> dict[str, bool]:
        online = state.phase == "ready"
        level = self._levels.get
        command = any(level(name) for name in COMMANDS_OF_INPUTS)
        ready = online and state.accepts and not self._pending and not level("trigger")
        single = self._settings.buffer == 1
        outstanding = self._outstanding - (single and self._shown is not None)
        return {
            "online": online,
            "trigger_ready": bool(ready and level("trigger_enable") and outstanding < self._settings.buffer),
            "trigger_ack": self._trigger_acknowledged,
            "busy": state.in_work > 0 or bool(self._pending or self._in_work),
            "exposure_complete": self._exposed,
            "results_overrun": self._overrun,
            "missed_acquisition": self._missed,
            "error": state.phase in ("not-ready", "failed"),
            "command_done": command and self._command_done is True,
            "command_failed": command and self._command_done is False,
            "heartbeat": self._beat(now_ns) % 2 == 1,
        }

    def _result_bits(self, sure: bool) -> dict[str, bool]:
        """Return the bits of the shown result; `sure` is False if OK must not be shown now."""
        result = self._shown
        assert result is not None
        return {
            "results_valid": True,
            "job_pass": _earned(result) and sure,
            "job_fail": not _earned(result),
            "scored": _scored(result),
            "repeated": self._repeated,
        }

    def _beat(self, now_ns: int) -> int:
        """Return the number of heartbeats, which stops when the supervisor is silent."""
        if self._heard_ns is None:
            return 0
        return min(now_ns, self._heard_ns + self._settings.silent_ns) // self._settings.heartbeat_ns


def _scored(result: Result) -> bool:
    return result.score is not None and result.threshold is not None


def _earned(result: Result) -> bool:
    """Return True if a result says OK in every field: verdict, no reason, and a score up to the threshold."""
    if result.score is None or result.threshold is None:
        return False
    return result.verdict == "OK" and not result.reason and result.score <= result.threshold


def _shown(result: Result) -> ShownResult:
    return ShownResult(
        acquisition_id=result.acquisition_id,
        reason=result.reason or ("" if _earned(result) else "station-error"),
        score=result.score,
        threshold=result.threshold,
        recipe_id=result.recipe_id,
        part_id=result.part_id,
    )
