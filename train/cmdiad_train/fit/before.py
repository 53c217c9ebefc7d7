"""Checks before the work of a training: what can be known at once does not fail after half an hour."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

from cmdiad_runtime.bundle.threshold import too_few_samples
from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.support.files import require_outside_bundles
from cmdiad_train.detectors.family import Family
from cmdiad_train.fit.splits import Splits
from cmdiad_train.fit.start import Request
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.record import FILE
from cmdiad_train.training.machine import Machine

_RECORDS_BYTES = 8_000_000
"""Space for records, banks and pictures of a small run; what samples need is known once they are prepared."""


def check_before_work(request: Request, run: Path, machine: Machine) -> None:
    """Check device, place of the run, and weights, without reading a sample or writing a file.

    Args:
        request: The training.
        run: Folder of the run.
        machine: Device of the training.

    Raises:
        OutputError: The run lies inside the data, the folder cannot be created or written to, or the disk is full.
        RunError: The device does not exist, or weights are missing or do not fit.
    """
    machine.torch_device()
    request.category.require_outside(run, "a run outside of the samples")
    require_outside_bundles(run, option="--out")
    _check_writable(run)
    if not (run / FILE).exists():
        check, networks = request.family.check, 0
        if check is not None and request.network_from is None:
            networks = check(request.recipe)
        check_space(run, networks + _RECORDS_BYTES)


def few_held_out(splits: Splits, recipe: Recipe, family: Family) -> str:
    """Return a warning that the held-out samples do not support the false-reject rate, or "".

    The threshold has the same warning after the training, when more samples would mean to train again. There is none
    for a family whose training samples set the threshold too, or if one session has enough samples.

    Args:
        splits: Samples of the training, with one entry for each sample.
        recipe: Recipe of the detector.
        family: Family of the recipe.
    """
    most = max(Counter(files.session for files in splits.held_out).values())
    few = too_few_samples(most, recipe.false_reject_rate)
    if not few or family.scores_training(recipe):
        return ""
    return (
        f"The threshold of the family {family.name} rests on held-out samples alone: {few}. To add good parts before "
        "the training: --calibration DIR, or more samples in validation/good."
    )


def check_space(run: Path, needed: int) -> None:
    """Raise OutputError if the disk of a run has less free space than the run needs, in bytes.

    Args:
        run: Folder of the run, which need not exist.
        needed: Bytes that will be written, roughly.
    """
    free = shutil.disk_usage(_existing(run)).free
    if free < needed:
        raise OutputError(
            run,
            found=f"{free / 1e6:.1f} MB free on the disk",
            expected=f"about {needed / 1e6:.1f} MB for the files of the run",
            action="Free some space, or choose another --out",
        )


def _existing(path: Path) -> Path:
    """Return the path itself or its nearest parent that exists."""
    place = path.absolute()
    while not os.path.lexists(place):
        place = place.parent
    return place


def _check_writable(run: Path) -> None:
    """Raise OutputError if the folder of the run, or the folder in which it would be created, is not writable."""
    try:
        os.fspath(run).encode("utf-8")
    except UnicodeEncodeError as error:
        raise OutputError(
            run, found="a name that is not UTF-8", expected="a name in UTF-8", action="Choose another --out"
        ) from error
    place = _existing(run)
    if not place.is_dir():
        raise OutputError(run, found=f"a file {place}", expected="a writable folder", action="Choose another --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(
            run,
            found=f"no permission to write in {place}",
            expected="a writable folder",
            action="Choose another --out, or change the permissions",
        )
