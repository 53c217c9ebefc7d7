"""The refusal of a folder that holds another training: the differences, and a folder that is free."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path

from cmdiad_runtime.errors import OutputError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.files import free_name
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.record import TrainedOn

_LONGEST_VALUE = 30
"""Longest text of a value that a message shows."""
_MOST_DIFFERENCES = 4
"""Largest number of differences that a message names."""


def other_training(run: Path, differences: Sequence[str]) -> OutputError:
    """Return the refusal of a folder that holds another training.

    Args:
        run: Folder of the run.
        differences: Differences between the training that is requested and that of the folder, as text.
    """
    return OutputError(
        run,
        found=f"a run with another recipe or other data (new: {named_differences(differences)})",
        expected="a new folder, or the same training to resume",
        action=free_folder(run),
    )


def free_folder(folder: Path) -> str:
    """Return the advice to choose another folder, which names a free one in a form that a shell accepts."""
    return f"Choose another --out: --out {shlex.quote(printable(free_name(folder)))} is free"


def named_differences(differences: Sequence[str]) -> str:
    """Return the first differences as text, and how many more there are."""
    more = [f"{len(differences) - _MOST_DIFFERENCES} more"] if len(differences) > _MOST_DIFFERENCES else []
    return ", ".join([*differences[:_MOST_DIFFERENCES], *more])


def other_options(earlier: object, requested: object) -> Iterator[str]:
    """Yield each value of a recipe that differs from that of an earlier training, as text.

    Args:
        earlier: Recipe of the earlier training, or a part of this recipe.
        requested: The same of the training that is requested.
    """
    if type(earlier) is not type(requested):
        yield f"another {'family' if isinstance(requested, Recipe) else 'kind of extractor'}"
        return
    for field in fields(requested):  # type: ignore[arg-type]
        before, now = getattr(earlier, field.name), getattr(requested, field.name)
        if before == now:
            continue
        if is_dataclass(before) and is_dataclass(now):
            yield from other_options(before, now)
        else:
            name, texts = field.name.replace("_", " "), (printable(str(now)), printable(str(before)))
            short = max(map(len, texts)) <= _LONGEST_VALUE
            yield f"{name} {texts[0]} instead of {texts[1]}" if short else f"another {name}"


def other_data(earlier: TrainedOn, requested: TrainedOn) -> Iterator[str]:
    """Yield how the data differ from those of an earlier training, as text; the data must differ."""
    if (earlier.folder, earlier.category) != (requested.folder, requested.category):
        yield f"the data set {requested.folder}"
    elif earlier.sessions != requested.sessions:
        names = ", ".join(Path(folder).name for folder in requested.sessions)
        yield f"--calibration {names}" if names else "no --calibration"
    else:
        yield "other samples"
