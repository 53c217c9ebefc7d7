"""Sessions of a calibration: good parts that were recorded together, on one day with one setting of the station."""

from __future__ import annotations

import re
from dataclasses import dataclass

from cmdiad_runtime.support.records import make_tuple, require, require_integer, require_name

TRAINING = "training"
"""Name of the session of the training data: training samples and validation split."""
LEAST_PARTS = 5
"""Smallest number of good parts of a further session. The threshold of few parts is so high that hardly any defect
exceeds it: for 5 % and normal scores 5.8 standard deviations above the mean with three parts, 3.3 with five."""
MOST_SESSIONS = 1000

_DIGEST = re.compile(r"[0-9a-f]{16}\Z")


@dataclass(frozen=True)
class Session:
    """Good parts that were recorded together.

    Attributes:
        name: Name of the session, without control characters; `TRAINING` for the training data.
        samples: Number of held-out scores of the session.
        contents: Digests of the session's samples, 16 hexadecimal digits each (see
            `cmdiad_runtime.inspection.content`), those that have no held-out score included; may be empty.

    Raises:
        RecordError: A value has the wrong kind or is out of range.
    """

    name: str
    samples: int
    contents: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        require_name(self, "name")
        require_integer(self, "samples", 1, 1 << 40)
        make_tuple(self, "contents")
        digests = all(isinstance(digest, str) and _DIGEST.match(digest) for digest in self.contents)
        require(digests, self, "contents", "digests of 16 hexadecimal digits")
