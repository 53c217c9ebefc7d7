"""Checks before the work of a training: what can be known at once does not fail after half an hour."""

from __future__ import annotations

import os
from pathlib import Path

from cmdiad_runtime.errors import OutputError
from cmdiad_train.fit.start import Request
from cmdiad_train.runs.record import FILE
from cmdiad_train.training.machine import Machine


def check_before_work(request: Request, run: Path, machine: Machine) -> None:
    """Check device, place of the run, and weights, without reading a sample or writing a file.

    Args:
        request: The training.
        run: Folder of the run.
        machine: Device of the training.

    Raises:
        OutputError: The run lies inside the data, or the folder cannot be created or written to.
        RunError: The device does not exist, or weights are missing or do not fit.
    """
    machine.torch_device()
    _check_outside(run, request.category.folder)
    _check_writable(run)
    if request.family.check is not None and request.network_from is None and not (run / FILE).exists():
        request.family.check(request.recipe)


def _check_outside(run: Path, data: Path) -> None:
    if run.resolve().is_relative_to(data.resolve()):
        raise OutputError(
            run,
            found=f"a folder inside the data set {data}",
            expected="a run outside of the samples",
            action=f"Choose another --out, for example {Path('..') / 'runs' / run.name}",
        )


def _check_writable(run: Path) -> None:
    """Raise OutputError if the folder of the run, or the folder in which it would be created, is not writable."""
    place = run.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise OutputError(run, found=f"a file {place}", expected="a writable folder", action="Choose another --out")
    if not os.access(place, os.W_OK | os.X_OK):
        raise OutputError(
            run,
            found=f"no permission to write in {place}",
            expected="a writable folder",
            action="Choose another --out, or change the permissions",
        )
