"""Section `[gpio]`: lines of a GPIO chip for the PLC handshake."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Gpio:
    """The keys of the section `[gpio]`.

    Attributes:
        chip: Device of the GPIO chip.
    """

    chip: str = "/dev/gpiochip0"
