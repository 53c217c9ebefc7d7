"""The log of a training: one entry per epoch, written as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.support.files import atomic_write


@dataclass(frozen=True)
class Epoch:
    """One line of the log.

    Attributes:
        loss: Mean training loss, per row or per sample as the task counts.
        validation: Validation loss after the epoch, NaN without validation samples.
        learning_rate: Learning rate of the last step of the epoch.
    """

    loss: float
    validation: float
    learning_rate: float


def write_log(path: Path, log: Sequence[Epoch]) -> None:
    """Write the log as CSV."""
    rows = (f"{i},{e.loss:.9g},{e.validation:.9g},{e.learning_rate:.9g}\n" for i, e in enumerate(log, 1))
    with atomic_write(path) as temporary:
        temporary.write_text("epoch,loss,validation,learning_rate\n" + "".join(rows), encoding="utf-8")
