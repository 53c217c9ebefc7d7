"""`OpenOptions`, the choices made when a bundle is opened for inspection."""

from __future__ import annotations

from dataclasses import dataclass
from os import PathLike

from cmdiad_runtime.bundle.calibration import SCORE_LIMIT
from cmdiad_runtime.engines import ENGINE_NAMES, EngineName
from cmdiad_runtime.engines.server_options import ServerOptions
from cmdiad_runtime.envelope.names import CHECKS, FROZEN_AFTER
from cmdiad_runtime.modalities import MODALITY_OPTIONS
from cmdiad_runtime.support.records import is_number, make_tuple, require, require_integer


@dataclass(frozen=True, kw_only=True)
class OpenOptions:
    """Choices made when a bundle is opened for inspection.

    Attributes:
        modality: Modality that the bundle must be made for; None accepts any.
        engine: Name of the engine, see `cmdiad_runtime.engines`; "auto" selects the fastest engine that has passed its
            self-test on this device.
        server: Server of the engine "triton"; None for the one that the environment names.
        rebuild: True to build a TensorRT or TensorRT-RTX engine if the bundle has none that fits this device.
        threshold: Raw score to use instead of the bundle's score threshold. The map threshold stays; if the map decides
            and both thresholds are equal, they stay equal.
        false_reject_rate: Rate in (0, 1) to recompute both thresholds for, from the bundle's held-out scores.
        ignore_checks: Names of checks of the recording conditions to switch off, see `cmdiad_runtime.envelope.names`.
        frozen_after: Number of identical frames in a row that makes a sample NG (`frozen`); 0 accepts any number.
        require_signature: Public key (PEM file) whose owner must have signed the bundle; None requires no signature.

    Raises:
        ValueError: A value is unknown or out of range, or both a threshold and a rate are set.
    """

    modality: str | None = None
    engine: EngineName = "cpu"
    server: ServerOptions | None = None
    rebuild: bool = False
    threshold: float | None = None
    false_reject_rate: float | None = None
    ignore_checks: tuple[str, ...] = ()
    frozen_after: int = FROZEN_AFTER
    require_signature: str | PathLike[str] | None = None

    def __post_init__(self) -> None:
        known = self.modality in (None, *MODALITY_OPTIONS)
        require(known, self, "modality", f"None or one of {', '.join(MODALITY_OPTIONS)}")
        require(self.engine in ENGINE_NAMES, self, "engine", f"one of {', '.join(ENGINE_NAMES)}")
        require(self.server is None or self.engine == "triton", self, "server", 'None unless the engine is "triton"')
        require(isinstance(self.rebuild, bool), self, "rebuild", "True or False")
        if self.threshold is not None:
            positive = is_number(self.threshold, 0, SCORE_LIMIT) and self.threshold > 0
            require(positive, self, "threshold", f"a positive number up to {SCORE_LIMIT:g}")
        if self.false_reject_rate is not None:
            inside = is_number(self.false_reject_rate, 0, 1) and 0 < self.false_reject_rate < 1
            require(inside, self, "false_reject_rate", "a number between 0 and 1")
        make_tuple(self, "ignore_checks")
        known = all(name in CHECKS for name in self.ignore_checks)
        require(known, self, "ignore_checks", f"names out of {', '.join(CHECKS)}")
        require_integer(self, "frozen_after", 0, 1 << 40)
        require(self.frozen_after != 1, self, "frozen_after", "0, or at least 2")
        if self.threshold is not None and self.false_reject_rate is not None:
            raise ValueError("pass a threshold or a false-reject rate, not both")
