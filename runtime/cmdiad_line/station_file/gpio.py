"""Section `[gpio]`: lines of a GPIO chip for the PLC handshake."""

from __future__ import annotations

from dataclasses import dataclass, field

from cmdiad_runtime.support.records import require, require_integer, require_name

INPUT_LINES = ("trigger_enable", "trigger", "results_ack", "reset", "go_online", "stop")
"""Signals from the PLC that can have a line."""
OUTPUT_LINES = (
    "online",
    "trigger_ready",
    "trigger_ack",
    "busy",
    "exposure_complete",
    "results_valid",
    "job_pass",
    "job_fail",
    "results_overrun",
    "missed_acquisition",
    "error",
    "heartbeat",
)
"""Signals to the PLC that can have a line."""


@dataclass(frozen=True, kw_only=True)
class Gpio:
    """The keys of the section `[gpio]`.

    Without a section `[modbus]` the handshake has one part at a time: a trigger takes back the result of the part
    before, because lines carry no id.

    Attributes:
        chip: Device of the GPIO chip.
        inputs: Number of the line of each connected input, by the names of INPUT_LINES. Without a line
            `trigger_enable` counts as true.
        outputs: Number of the line of each connected output, by the names of OUTPUT_LINES.
        active_low: Names of signals whose line is low when they are true.
        debounce_us: Microseconds for which an input must be stable.
        ok_hold_ms: Longest time in milliseconds for which the OK line is active for one result; 0 for no limit.
    """

    chip: str = "/dev/gpiochip0"
    inputs: dict[str, int] = field(default_factory=dict)
    outputs: dict[str, int] = field(default_factory=dict)
    active_low: tuple[str, ...] = ()
    debounce_us: int = 1000
    ok_hold_ms: int = 500

    def __post_init__(self) -> None:
        require_name(self, "chip")
        known = all(name in INPUT_LINES for name in self.inputs)
        require(known, self, "inputs", f"names of {', '.join(INPUT_LINES)}")
        known = all(name in OUTPUT_LINES for name in self.outputs)
        require(known, self, "outputs", f"names of {', '.join(OUTPUT_LINES)}")
        require(bool(self.inputs or self.outputs), self, "outputs", "at least one line")
        lines = [*self.inputs.values(), *self.outputs.values()]
        separate = len(set(lines)) == len(lines) and all(0 <= line <= 4095 for line in lines)
        require(separate, self, "outputs", "a separate line for each signal, from 0 to 4095")
        known = all(name in self.inputs or name in self.outputs for name in self.active_low)
        require(known, self, "active_low", "names of connected signals")
        safe = not {"job_pass", "results_valid"} & set(self.active_low)
        require(safe, self, "active_low", "neither job_pass nor results_valid: a broken wire must not mean OK")
        require_integer(self, "debounce_us", 0, 1_000_000)
        require_integer(self, "ok_hold_ms", 0, 600_000)
