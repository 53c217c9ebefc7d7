"""Digital lines of the handshake, by libgpiod 2 (package gpiod). Outputs are inactive at the start and at the end.

After SIGKILL or a loss of power the kernel's driver decides about the level of a line: docs/plc.md says how to wire it.
"""

from __future__ import annotations

import time
from datetime import timedelta
from typing import TYPE_CHECKING

from cmdiad_line.station_file.gpio import Gpio
from cmdiad_runtime.errors import CmdiadError

if TYPE_CHECKING:
    from gpiod import LineRequest

_VALID = "results_valid"


class GpioLines:
    """Requested lines of a GPIO chip.

    Args:
        settings: Section of the station file.

    Raises:
        CmdiadError: The package is missing, or the chip or a line cannot be used.
    """

    def __init__(self, settings: Gpio) -> None:
        self._inputs = dict(settings.inputs)
        self._outputs = dict(settings.outputs)
        self._active: frozenset[str] = frozenset()
        self._request = _request(settings)

    def fileno(self) -> int:
        """Return the file descriptor that is readable after an edge of an input."""
        return self._request.fd

    def levels(self) -> dict[str, bool]:
        """Return the present levels of all inputs."""
        from gpiod.line import Value

        values = self._request.get_values(list(self._inputs.values())) if self._inputs else []
        return {name: value is Value.ACTIVE for name, value in zip(self._inputs, values, strict=True)}

    def edges(self) -> list[tuple[dict[str, bool], int]]:
        """Return the changes of inputs with their times, oldest first, then the present levels. May block.

        The times are those of the kernel in nanoseconds of `time.monotonic_ns`: a process that was held up takes an old
        trigger for an old one.
        """
        from gpiod import EdgeEvent

        names = {line: name for name, line in self._inputs.items()}
        events = self._request.read_edge_events()
        rising = EdgeEvent.Type.RISING_EDGE
        changes = [({names[event.line_offset]: event.event_type is rising}, event.timestamp_ns) for event in events]
        return [*changes, (self.levels(), time.monotonic_ns())]

    def show(self, active: frozenset[str]) -> None:
        """Set the outputs. `results_valid` rises after all others and falls before them."""
        active &= self._outputs.keys()
        if active == self._active:
            return
        if _VALID in self._active and _VALID not in active:
            self._set([_VALID], active)
        self._set([name for name in self._outputs if name != _VALID], active)
        if _VALID in active:
            self._set([_VALID], active)
        self._active = active

    def _set(self, names: list[str], active: frozenset[str]) -> None:
        from gpiod.line import Value

        values: dict[int | str, Value] = {
            self._outputs[name]: Value.ACTIVE if name in active else Value.INACTIVE for name in names
        }
        if values:
            self._request.set_values(values)

    def close(self) -> None:
        """Set all outputs inactive and release the lines."""
        try:
            self.show(frozenset())
        finally:
            self._request.release()


def _request(settings: Gpio) -> LineRequest:
    try:
        import gpiod
        from gpiod.line import Clock, Direction, Edge, Value
    except ImportError as error:
        raise CmdiadError(
            "",
            found="[gpio] needs the package 'gpiod', which is not installed",
            action='run: pip install "cmdiad[gpio]"',
        ) from error
    config: dict[int, gpiod.LineSettings | None] = {}
    for name, line in settings.outputs.items():
        low = name in settings.active_low
        config[line] = gpiod.LineSettings(direction=Direction.OUTPUT, active_low=low, output_value=Value.INACTIVE)
    for name, line in settings.inputs.items():
        config[line] = gpiod.LineSettings(
            direction=Direction.INPUT,
            event_clock=Clock.MONOTONIC,
            edge_detection=Edge.BOTH,
            active_low=name in settings.active_low,
            debounce_period=timedelta(microseconds=settings.debounce_us),
        )
    try:
        return gpiod.request_lines(settings.chip, consumer="cmdiad-line", config=config)  # type: ignore[arg-type]
    except (OSError, ValueError) as error:
        raise CmdiadError(
            settings.chip,
            found=f"lines that cannot be requested ({error})",
            expected="a GPIO chip whose lines in [gpio] exist and are free",
            action="check chip and lines with gpioinfo, and the group of the device file",
        ) from error
