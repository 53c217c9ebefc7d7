"""Choose the samples that a report shows with pictures: all misjudged ones up to a limit, and the extremes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmdiad_bench.accuracy import Inspected, Verdict
from cmdiad_bench.report.pictures import Pictures, draw_pictures, find_companions
from cmdiad_runtime.bundle.bundle import Bundle
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.score_text import compared
from cmdiad_train.datasets import GOOD, SampleFiles

_EXTREMES = 3
"""Samples in a gallery of extremes."""
_MOST = 30
"""Samples in a gallery of misjudged samples: a page with more pictures is too large to open on a phone."""
OPEN = 6
"""Samples of a gallery that are visible without unfolding."""

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Row:
    """One sample of a gallery.

    Attributes:
        name: Split, defect and number of the sample.
        good: True for a good part.
        rejected: True for the verdict NG.
        score: Score next to the threshold, as text.
        message: Reason of the verdict NG in one line, if the score is not the reason; otherwise "".
        pictures: Pictures of the sample.
    """

    name: str
    good: bool
    rejected: bool
    score: str
    message: str
    pictures: Pictures

    @property
    def outcome(self) -> str:
        """Verdict compared with the label: "passed", "false reject", "found" or "missed"."""
        if self.good:
            return "false reject" if self.rejected else "passed"
        return "found" if self.rejected else "missed"


@dataclass(frozen=True)
class Gallery:
    """Samples under a title, with a caption that states how many there are."""

    title: str
    caption: str
    rows: list[Row]

    @property
    def views(self) -> list[tuple[str, str]]:
        """Return label and attribute of each kind of picture that at least one row has, in order."""
        pictures = [row.pictures for row in self.rows]
        outlined = ", defect outlined" if any(picture.outlined for picture in pictures) else ""
        labels = {"image": f"Image{outlined}", "depth": f"Depth{outlined}", "heatmap": "Heatmap"}
        labels["detail"] = "Around the largest value"
        return [(label, name) for name, label in labels.items() if any(getattr(picture, name) for picture in pictures)]


def choose_galleries(bundle: Bundle, inspected: Inspected) -> list[Gallery]:
    """Return the galleries of a bundle: missed defects, rejected good parts, and the nearest on the right side."""
    outcomes, rejected = inspected.outcomes, inspected.rejected
    companions = find_companions(inspected.category, bundle.preprocessing)
    good = outcomes.defects == GOOD
    lowest = np.argsort(outcomes.scores, kind="stable")
    missed, detected = lowest[(~good & ~rejected)[lowest]], lowest[(~good & rejected)[lowest]]
    refused, passed = lowest[(good & rejected)[lowest]][::-1], lowest[(good & ~rejected)[lowest]][::-1]
    parts = "scored good parts" if outcomes.left_out else "good parts"
    chosen: list[tuple[str, str, Indices]] = [
        ("Missed defects", _counted(missed, int((~good).sum()), "defects", "lowest"), missed[:_MOST]),
        ("Rejected good parts", _counted(refused, int(good.sum()), parts, "highest"), refused[:_MOST]),
        ("Passed good parts that score highest", "The next to be rejected.", passed[:_EXTREMES]),
        ("Found defects that score lowest", "The next to be missed.", detected[:_EXTREMES]),
        ("Defects that score highest", "The easiest to detect.", detected[_EXTREMES:][::-1][:_EXTREMES]),
    ]
    return [
        Gallery(title, caption, _rows(bundle, inspected, companions, indices))
        for title, caption, indices in chosen
        if len(indices)
    ]


def draw_rows(bundle: Bundle, inspected: Inspected, names: Sequence[str]) -> list[Row | None]:
    """Draw samples by name; None for a sample that the bundle has no score for."""
    index = {printable(files.name): i for i, files in enumerate(inspected.outcomes.files)}
    companions = find_companions(inspected.category, bundle.preprocessing)
    indices = [index[name] for name in names if name in index]
    rows = {row.name: row for row in _rows(bundle, inspected, companions, np.array(indices, dtype=np.intp))}
    return [rows.get(name) for name in names]


def _counted(wrong: Indices, total: int, kind: str, end: str) -> str:
    shown = f" The {_MOST} that score {end} are shown." if len(wrong) > _MOST else ""
    return f"{len(wrong)} of {total} {kind}.{shown}"


def _rows(bundle: Bundle, inspected: Inspected, companions: Mapping[str, SampleFiles], indices: Indices) -> list[Row]:
    outcomes = inspected.outcomes
    verdicts = {verdict.name: verdict for verdict in inspected.verdicts}
    threshold = bundle.calibration.score_threshold
    return [
        Row(
            name=printable(files.name),
            good=files.defect == GOOD,
            rejected=bool(inspected.rejected[i]),
            score=compared(float(outcomes.scores[i]), threshold, "threshold"),
            message=_message(verdicts[printable(files.name)]),
            pictures=draw_pictures(
                files,
                companions.get(files.name),
                outcomes.masks[i] if outcomes.known[i] and files.ground_truth is not None else None,
                outcomes.maps[i],
                bundle.preprocessing,
                bundle.calibration.map_threshold,
            ),
        )
        for i in indices
        for files in [outcomes.files[i]]
    ]


def _message(verdict: Verdict) -> str:
    """Return the reason of the verdict NG; "" for OK, and for a score above the threshold."""
    return "" if verdict.reason in (None, "score") else f"{verdict.reason}: {verdict.message}"
