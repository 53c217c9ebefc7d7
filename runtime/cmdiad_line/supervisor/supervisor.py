"""The loop of the supervisor, which receives the messages of all processes and sends orders and results.

The loop starts processes that have ended again. It never waits for a process, and never reads or writes files while
triggers may come.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from cmdiad_line.reasons import STATION_REASONS, StationReason
from cmdiad_line.station_file.source import modalities_of
from cmdiad_line.supervisor.actions import Action, Adopt, Kill, Send
from cmdiad_line.supervisor.background import Background
from cmdiad_line.supervisor.change_over import ChangeOver, Store
from cmdiad_line.supervisor.commands import Commands
from cmdiad_line.supervisor.dispatch import Dispatch
from cmdiad_line.supervisor.hub import Gone, Hub
from cmdiad_line.supervisor.ids import NoIdsError
from cmdiad_line.supervisor.limits import Limits
from cmdiad_line.supervisor.old_recipes import OldRecipes
from cmdiad_line.supervisor.readiness import Readiness
from cmdiad_line.supervisor.restarts import MINUTE_NS, RestartBudget
from cmdiad_line.supervisor.state import make_state
from cmdiad_line.supervisor.watchdog import Watchdog, notify
from cmdiad_line.transport.frames import FramePool, WrongFrameError, pushed_owner
from cmdiad_line.transport.messages import (
    Alive,
    Answer,
    Command,
    Failed,
    Inspected,
    Loaded,
    Message,
    NotLoaded,
    Opened,
    Probe,
    Proved,
    Ready,
    SourcesState,
    StationState,
)

if TYPE_CHECKING:
    from cmdiad_line.recipes.recipe import Recipe
from cmdiad_line.station_file.station import Station

INSIDE = ("records", "acquisition", "inspection")
"""Processes that every station has, in the order of their start."""
ESSENTIAL = (*INSIDE, "plc")
"""Processes without which the station gives up. It continues without the others, and its state shows them as dead."""
GAVE_UP = 1
"""Exit code of a station that gave up, so that systemd starts it again."""

_TICK_S = 0.1
_ALIVE_NS = 400 * 10**6
_PATIENCE_NS = 10**9
_START_LIMIT_NS = 120 * 10**9
_END_S = 2.0
_SHOW_END_S = 0.5
_WITHOUT_IDS = ("records", "inspection")
_DIED: dict[str, StationReason] = {
    "acquisition": "acquisition-died",
    "inspection": "inspection-died",
    "records": "not-recorded",
}
_HUNG: dict[str, StationReason] = {**_DIED, "inspection": "inspection-hung"}
_SILENT = "The process gave no sign of life and was killed."
_logger = logging.getLogger("cmdiad.line")


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Station, recipes and memory of a supervisor.

    Attributes:
        station: The station file.
        file: Copy of the station file for the processes.
        store: Recipes on the disk.
        recipe: Active recipe.
        pool: Memory for the frames.
        show: Function that receives every changed state and does not block, or None. At a start, `starting` replaces
            the phase `ready` until the web process listens or has ended once.
    """

    station: Station
    file: Path
    store: Store
    recipe: Recipe
    pool: FramePool
    show: Callable[[StationState], None] | None = None


def outside_processes(station: Station) -> tuple[str, ...]:
    """Return the names of the processes towards the outside that a station file asks for."""
    sections = {
        "plc": station.modbus or station.gpio,
        "opcua": station.opcua,
        "mqtt": station.mqtt,
        "web": station.web,
    }
    return tuple(name for name, section in sections.items() if section is not None)


class Supervisor:
    """The processes and the state of a running station.

    Args:
        parts: Station, recipes and memory.
    """

    def __init__(self, parts: Parts) -> None:
        station = parts.station
        self._pool = parts.pool
        self._show = parts.show
        self._outside = outside_processes(station)
        self._hub = Hub(parts.file, station.file.parent)
        self._readiness = Readiness(
            delivered=frozenset(name for source in station.sources for name in modalities_of(source.delivers))
        )
        self._background = Background()
        self._hub.watch(self._background.fileno())
        self._limits = Limits(
            deadline_ns=(station.deadline_ms - station.margin_ms) * 10**6,
            max_in_work=station.max_in_work,
            max_frame_age_ns=station.max_frame_age_ms * 10**6,
            hang_ns=station.hang_ms * 10**6,
            picture_slots=max(station.frame_slots - station.max_in_work - 1, 1),  # One for a part that is late.
            margin_ns=station.margin_ms * 10**6,
        )
        self._dispatch = Dispatch(self._readiness, self._limits)
        self._change_over = ChangeOver(
            parts.store, self._readiness, self._background, lambda message: self.send("inspection", message)
        )
        self._change_over.begin(parts.recipe)
        self._commands = Commands(self, self._readiness, self._change_over)
        self._old_recipes = OldRecipes(station, self._background, self._commands.note)
        names = (*INSIDE, *self._outside)
        self._restarts = {name: RestartBudget(station.restarts_per_minute) for name in names}
        self._watchdog = Watchdog()
        self._probe: int | None = None
        self._probes = 0
        self._reasons: dict[str, StationReason] = {}
        self._failures: dict[str, str] = {}
        self._gave_up: dict[str, int] = {}
        self._restarted = 0
        self._has_ids = False
        self._was_ready = False
        self._awaited = {"web"} & {*self._outside}  # A program that reads "ready" may upload a picture at once.
        self._state: StationState | None = None
        self._alive_ns = 0
        self._ending = False

    # --- life --------------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Run the station until `end` is called or it gives up, and return the exit code."""
        code = 0
        try:
            while not self._ending and not self._has_given_up():
                self._step()
            code = GAVE_UP if self._has_given_up() else 0
        except NoIdsError:
            self._readiness.fault = "station-error", "No acquisition id is left: the records process does not answer."
            code = GAVE_UP
        finally:
            self._finish()
        return code

    def end(self) -> None:
        """End the station: parts in work become NG, and all processes end."""
        self._ending = True

    def _has_given_up(self) -> bool:
        return any(name in ESSENTIAL for name in self._gave_up)

    def _finish(self) -> None:
        """Answer the parts in work, show the state, and end the processes. The OK output is false from here on."""
        notify("STOPPING=1")
        if self._readiness.fault is not None:
            _logger.error("the station gives up: %s", self._readiness.fault[1])
        self._readiness.stopped = True
        self.abort()
        self._show_state()
        if self._has_given_up():
            time.sleep(_SHOW_END_S)
        self._hub.end(_END_S)
        self._background.close()

    def _step(self) -> None:
        self._start_missing(time.monotonic_ns())
        next_ns = self._dispatch.next_ns()
        now_ns = time.monotonic_ns()
        timeout_s = _TICK_S if next_ns is None else min(max(next_ns - now_ns, 0) / 1e9, _TICK_S)
        for name, event in self._hub.receive(timeout_s):
            if isinstance(event, Gone):
                self._gone(name, event)
            else:
                self._handle(name, event)
        self._background.finish()
        before_ns, now_ns = now_ns, time.monotonic_ns()
        if now_ns - before_ns > timeout_s * 1e9 + _PATIENCE_NS:
            return  # This process was stopped itself. Read what arrived meanwhile before calling others hung.
        self._apply(self._dispatch.tick(now_ns))
        self._check_silence(now_ns)
        if self._dispatch.in_work == 0:
            self._change_over.between_parts(now_ns)
        self._old_recipes.remove(self._change_over.needed, now_ns)
        self._prove(now_ns)
        self._show_state()
        self._show_life(now_ns)

    # --- messages ----------------------------------------------------------------------------------------------------

    def _handle(self, name: str, message: Message) -> None:
        now_ns = time.monotonic_ns()
        if isinstance(message, Alive):
            return
        if isinstance(message, Ready | Opened):
            self._ready(name, message, now_ns)
        elif isinstance(message, Failed):
            self._failures[name] = message.message
        elif isinstance(message, Command):
            self._commands.handle(name, message, now_ns)
        elif isinstance(message, Answer) and name == "records":
            self._commands.answered(message)
        elif isinstance(message, SourcesState) and name == "acquisition":
            self._readiness.sources = message
        elif name == "inspection" and isinstance(message, Loaded | NotLoaded | Proved):
            self._engine_said(message, now_ns)
        else:
            if isinstance(message, Inspected) and name == "inspection" and message.score is not None:
                self._watchdog.prove(now_ns)
            self._apply(self._dispatch.handle(name, message, now_ns, _wall_clock()))

    def _ready(self, name: str, message: Ready | Opened, now_ns: int) -> None:
        """Note that a process takes orders. For the records process this is `Opened`, which brings ids too."""
        child = self._hub.child(name)
        if child is None or (name == "records" and isinstance(message, Ready)):
            return
        first, child.ready = not child.ready, True
        self._readiness.running.add(name)
        if isinstance(message, Opened):
            self._has_ids = True
            self._apply(self._dispatch.handle(name, message, now_ns, _wall_clock()))
        if not first:
            return
        self._failures.pop(name, None)
        self._awaited.discard(name)
        if name == "records":
            self._commands.records_up()
        elif name == "inspection":
            self._change_over.inspection_up(now_ns)
        elif name in self._outside:
            self.send(name, self._make_state())
            for result in self._dispatch.replay() if name == "plc" else ():
                self.send(name, result)

    def _engine_said(self, message: Loaded | NotLoaded | Proved, now_ns: int) -> None:
        if isinstance(message, Loaded):
            self._watchdog.prove(now_ns)  # The self-test has just inspected the golden samples.
            self._change_over.loaded(message)
        elif isinstance(message, NotLoaded):
            self._change_over.not_loaded(message)
        elif self._probe is not None and message.token == self._probe:
            self._probe = None
            if message.passed:
                self._watchdog.prove(now_ns)
            else:
                self._failures["inspection"] = f"A golden sample failed: {message.message}"
                self._kill("inspection", "self-test")

    def _apply(self, actions: Iterable[Action]) -> None:
        for action in actions:
            if isinstance(action, Send):
                self.send(action.to, action.message)
            elif isinstance(action, Adopt):
                with suppress(WrongFrameError):  # The inspection finds the wrong owner too, and says NG.
                    self._pool.adopt(action.slot, pushed_owner(action.token), action.acquisition_id)
            elif isinstance(action, Kill):
                self._kill(action.process, action.reason)
            else:
                # The acquisition, too, learns the results of frames that arrived by themselves.
                for name in sorted({*self._outside, action.channel}, key=lambda name: name != action.channel):
                    self.send(name, action.message)

    # --- processes ---------------------------------------------------------------------------------------------------

    def send(self, name: str, message: Message) -> None:
        """Send a message to a process, if it runs."""
        self._hub.send(name, message)

    def abort(self) -> None:
        """Answer all parts in work with NG `aborted`."""
        self._apply(self._dispatch.abort(time.monotonic_ns()))

    def reset(self) -> None:
        """Start again what gave up, and try again to load the active recipe."""
        self._gave_up.clear()
        for budget in self._restarts.values():
            budget.clear()
        if self._readiness.fault is not None:
            self._readiness.fault = None
            self._kill("inspection", "not-ready")

    def _kill(self, name: str, reason: StationReason, message: str = "") -> None:
        self._reasons[name] = reason
        self._hub.lose(name, message or STATION_REASONS[reason])

    def _gone(self, name: str, gone: Gone) -> None:
        """Note the end of a process, and answer the parts that it had."""
        now_ns = time.monotonic_ns()
        self._readiness.running.discard(name)
        self._commands.channel_down(name)
        self._awaited.discard(name)  # The station inspects without pages, too.
        reason = self._reasons.pop(name, _DIED.get(name, "station-error"))
        message = self._failures.get(name) or gone.message
        _logger.warning("the process %s ended: %s", name, message)
        if name == "inspection":
            self._change_over.inspection_down()
            self._watchdog.doubt()
            self._probe = None
        elif name == "acquisition":
            self._readiness.sources = None
        elif name == "records":
            self._commands.records_down()
        self._apply(self._dispatch.process_down(name, reason, now_ns))
        self._commands.note("process ended", name, {"reason": reason, "message": message})
        self._restarted += 1
        if not self._restarts[name].spend(now_ns):
            self._give_up(name, message, now_ns)

    def _give_up(self, name: str, message: str, now_ns: int) -> None:
        """Give up on a process: the station ends, or has no such interface for a minute."""
        self._gave_up[name] = now_ns
        text = f"The process {name} ended too often: {message}"
        if name in ESSENTIAL:
            self._readiness.fault = "not-ready", text
        else:
            _logger.error("%s It is started again in a minute.", text)

    def _start_missing(self, now_ns: int) -> None:
        """Start the processes that do not run. Processes that trigger need the ids that the records process brings."""
        for name in (*INSIDE, *self._outside) if self._has_ids else _WITHOUT_IDS:
            gave_up_ns = self._gave_up.get(name)
            rests = gave_up_ns is not None and now_ns - gave_up_ns < MINUTE_NS
            if not rests and self._hub.may_start(name):
                self._hub.start(name)

    def _check_silence(self, now_ns: int) -> None:
        """Kill processes that give no sign of life. The inspection process gives none while its engine works."""
        for child in self._hub.children:
            if child.name == "inspection" and self._dispatch.engine_busy:
                continue  # The deadline of the part decides.
            if not child.ready:
                limit_ns = _START_LIMIT_NS
            elif child.name == "inspection" and self._probe is not None:
                limit_ns = self._limits.deadline_ns + self._limits.hang_ns
            else:
                limit_ns = self._limits.hang_ns + _PATIENCE_NS
            if now_ns - child.heard_ns > limit_ns or (child.name == "inspection" and self._change_over.overdue(now_ns)):
                self._kill(child.name, _HUNG.get(child.name, "station-error"), "" if child.name in _HUNG else _SILENT)

    # --- proof and state ---------------------------------------------------------------------------------------------

    def _prove(self, now_ns: int) -> None:
        """Have an idle engine inspect a golden sample, and feed the watchdog of systemd."""
        idle = not self._dispatch.engine_busy and self._probe is None and self._dispatch.in_work == 0
        if idle and self._readiness.active is not None and self._watchdog.probe_due(now_ns):
            self._probes += 1
            self._probe = self._probes
            self.send("inspection", Probe(token=self._probes, recipe_id=self._readiness.active_id))
        self._watchdog.feed(now_ns)

    def _make_state(self) -> StationState:
        counters = {
            **self._dispatch.counters,
            "rows_lost": self._dispatch.rows_lost,
            "restarts": self._restarted,
            "reconnects": self._readiness.sources.reconnects if self._readiness.sources else 0,
        }
        processes = {name: self._process_state(name) for name in (*INSIDE, *self._outside)}
        return make_state(self._readiness, self._dispatch, processes, counters)

    def _process_state(self, name: str) -> str:
        child = self._hub.child(name)
        if child is None:
            return "dead"
        return "running" if child.ready else "starting"

    def _show_state(self) -> None:
        """Send the state to the outside processes, if it has changed."""
        state = self._make_state()
        if state == self._state:
            return
        if self._state is None or (state.phase, state.message) != (self._state.phase, self._state.message):
            notify(f"STATUS={state.phase}: {state.message}"[:200])
        self._state = state
        if self._readiness.active is not None and not self._awaited and not self._was_ready:
            self._was_ready = True
            notify("READY=1")  # Also without a camera: a person can look at the pages and plug it in.
        for name in self._outside:
            self.send(name, state)
        if self._show is not None:
            self._show(replace(state, phase="starting") if self._awaited and state.phase == "ready" else state)

    def _show_life(self, now_ns: int) -> None:
        """Send a sign of life to the outside processes: the PLC's OK bit is false without one."""
        if now_ns - self._alive_ns >= _ALIVE_NS:
            self._alive_ns = now_ns
            for name in self._outside:
                self.send(name, Alive())


def _wall_clock() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="milliseconds")
