"""What a data set allows: training, figures of whole images, figures of pixels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from cmdiad_runtime.bundle.threshold import too_few_samples
from cmdiad_train.datasets.category import Split
from cmdiad_train.datasets.layouts.listing import Listing
from cmdiad_train.datasets.sample_files import GOOD, SampleFiles

HELD_OUT_SHARE = 5
"""Without a validation split every fifth training sample is held out."""
DEFAULT_RATE = 0.05
"""Default of `Recipe.false_reject_rate`, which this room may not import."""


@dataclass(frozen=True)
class Outlook:
    """What can be done with a data set, and what cannot.

    Attributes:
        possible: Lines for people, each one thing that can be done.
        not_possible: Lines for people, each one thing that cannot be done, with the reason.
    """

    possible: tuple[str, ...]
    not_possible: tuple[str, ...]

    def lines(self) -> Iterator[str]:
        """Yield all lines with their kind in front."""
        yield from (f"possible: {line}" for line in self.possible)
        yield from (f"not possible: {line}" for line in self.not_possible)


NOTHING = Outlook((), ("training, thresholds and figures, before the problems below are solved",))
"""Outlook of a data set that training refuses: nothing is possible before its problems are solved."""


def outlook_of(listings: Mapping[Split, Listing], modalities: tuple[str, ...]) -> Outlook:
    """Return what the complete samples of a data set allow.

    Args:
        listings: Content of the splits train, validation and test.
        modalities: Modalities of the training samples.
    """
    train, test = listings["train"].samples, listings["test"].samples
    defects = [files for files in test if files.defect != GOOD]
    good = len(test) - len(defects)
    kinds = " and ".join(modalities)
    possible = [f"train on {len(train)} good samples ({kinds}), export, inspect"]
    validation = len(listings["validation"].samples)
    scored = len(train) + validation
    alone = validation if validation > 1 else -(-len(train) // HELD_OUT_SHARE)
    possible.append(
        f"a threshold from {scored} good samples, for false-reject rates of {_least_rate(scored):.1%} or more"
    )
    possible.append(
        f"with a family that trains networks, a threshold from {alone} of them, for {_least_rate(alone):.1%} or more"
    )
    not_possible = []
    if too_few := too_few_samples(scored, DEFAULT_RATE):
        not_possible.append(f"the default false-reject rate of training: {too_few}")
    if defects:
        against = f"{good} good test samples" if good else "good samples that training holds out"
        possible.append(f"figures of images: {len(defects)} defects against {against}")
    elif good:
        possible.append(f"count the rejected ones of {good} good test samples")
    if not defects:
        not_possible.append("figures of images and missed defects: there are no defective samples")
    elif not good:
        not_possible.append("rejected good parts that training has not seen: there are no good test samples")
    drawn, missing = _masks(defects)
    if drawn:
        possible.append(f"figures of pixels: {drawn} of {len(defects)} defects have a mask")
    if defects and missing:
        number = "no defect has a mask" if not drawn else f"{missing} of {len(defects)} defects have no mask"
        not_possible.append(f"figures of pixels{' for all defects' if drawn else ''}: {number}")
    return Outlook(tuple(possible), tuple(not_possible))


def _least_rate(samples: int) -> float:
    """Return the smallest false-reject rate that an order statistic of the scores of good samples can keep."""
    return 1 / (samples + 1)


def _masks(defects: list[SampleFiles]) -> tuple[int, int]:
    """Return the numbers of defects with and without a mask."""
    drawn = sum(files.ground_truth is not None for files in defects)
    return drawn, len(defects) - drawn
