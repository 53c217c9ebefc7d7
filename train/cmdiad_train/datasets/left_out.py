"""Samples that a training or an evaluation leaves out, and how they are reported."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cmdiad_runtime.errors import CmdiadError, InputError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.reasons import REASONS
from cmdiad_runtime.support.records import fields_from_json, require, require_text

MOST_NAMED = 10
"""Largest number of samples that messages name; the others are counted."""
MOST_UNUSABLE = 0.2
"""Largest share of good samples that a training leaves out because they cannot be used."""
SPLITS = ("train", "held_out", "joint", "test")
_LONGEST = 10_000


@dataclass(frozen=True)
class LeftOut:
    """A sample that cannot be used.

    Attributes:
        name: Name of the sample, for example `test/dent/003`; in further categories `CATEGORY/train/good/003`.
        split: Use that the sample was meant for, one of `SPLITS`.
        reason: Machine-readable reason, see `cmdiad_runtime.reasons`.
        message: Reason in one line for people.

    Raises:
        RecordError: A value has the wrong kind, or there is no such split or reason.
    """

    name: str
    split: str
    reason: str
    message: str

    def __post_init__(self) -> None:
        require_text(self, "name", longest=_LONGEST)
        require(self.split in SPLITS, self, "split", f"one of {', '.join(SPLITS)}")
        require(isinstance(self.reason, str) and self.reason in REASONS, self, "reason", "one of the known reasons")
        require_text(self, "message", longest=_LONGEST)

    @property
    def defect(self) -> str:
        """Return the name of the sample's defect, or "good"."""
        return self.name.rpartition("/")[0].rpartition("/")[2]

    @staticmethod
    def because(name: str, split: str, error: CmdiadError) -> LeftOut:
        """Return the record of a sample and the error that makes the sample unusable."""
        reason = error.reason if isinstance(error, InputError) else "missing-file"
        return LeftOut(printable(name)[:_LONGEST], split, reason, str(error)[:_LONGEST])

    @staticmethod
    def from_json(value: object) -> LeftOut:
        """Return the record that `to_json` wrote; raises RecordError."""
        return LeftOut(**fields_from_json(LeftOut, value))

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-ready values."""
        return asdict(self)


def describe(left_out: Sequence[LeftOut], total: int, samples: str, *, problem: str) -> Iterator[str]:
    """Yield lines for people: a count, then one line for each of the first samples, then the number of the others.

    Args:
        left_out: Samples that are left out.
        total: Number of all samples of this kind.
        samples: Kind of the samples, for example "test samples".
        problem: What is wrong with the samples, for example "could not be inspected".
    """
    if not left_out:
        return
    yield f"{len(left_out)} of {total} {samples} {problem}:"
    for sample in left_out[:MOST_NAMED]:
        yield f"  {sample.name}: {sample.message}"
    if len(left_out) > MOST_NAMED:
        yield f"  … and {len(left_out) - MOST_NAMED} more"


def count_reasons(left_out: Sequence[LeftOut]) -> dict[str, int]:
    """Return the number of samples by reason, most frequent first."""
    return dict(Counter(sample.reason for sample in left_out).most_common())
