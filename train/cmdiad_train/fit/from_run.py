"""Train again from a finished run, with the parts that people judged at the station (`cmdiad-train --from-run`).

Recipe, data, sessions and mask are those of the run. Features of its samples are in the feature store, so a memory bank
is soon fitted again. A network of the run is taken over. Other families are fitted again from the beginning.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.printable import printable
from cmdiad_train.datasets import find_categories
from cmdiad_train.detectors.family import Family
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.fit.envelope import EnvelopeOptions
from cmdiad_train.fit.mask import InspectionMask, read_inspection_mask
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.mask import MASK
from cmdiad_train.runs.record import RunRecord, read_record


@dataclass(frozen=True)
class EarlierRun:
    """Recipe, data and options that a training takes over from a finished run.

    Attributes:
        recipe: Recipe with the view that was chosen.
        data: Folder of the data set.
        category: Category of the data set, or None if the folder is the category itself.
        network_from: The run if it has a network to take over, or None.
        envelope: Rate of the checks of the recording conditions, and those that are switched off.
        mask: Inspection mask, or None.
        sessions: Folders of other sessions.
    """

    recipe: Recipe
    data: Path
    category: str | None
    network_from: Path | None
    envelope: EnvelopeOptions
    mask: InspectionMask | None
    sessions: tuple[Path, ...]


def read_earlier_run(run: Path, data: Path | None = None) -> EarlierRun:
    """Return recipe, data and options of a finished run.

    Args:
        run: Folder of the run.
        data: Present place of its data set, or None for the recorded one.

    Raises:
        InputError: The mask of the run cannot be read.
        RunError: The run is damaged or unfinished, or its data set is gone or is another one.
    """
    record = read_record(run)
    if record.status != "complete":
        raise RunError(run, found="an unfinished run", expected="a finished one", action="Finish its training first")
    family, folder = family_of(record.recipe.family), Path(record.data.folder)
    joint = family.joint_categories(record.recipe)
    if data is None:
        _require_data(run, record, joint)
    place = data or (folder.parent if joint else folder)
    return EarlierRun(
        recipe=record.recipe,
        data=place,
        category=record.data.category if joint else None,
        network_from=_with_network(run, family),
        envelope=_envelope(record),
        mask=None if record.recipe.mask is None else read_inspection_mask(run / MASK),
        sessions=tuple(Path(session) for session in record.data.sessions),
    )


def _require_data(run: Path, record: RunRecord, joint: Sequence[str]) -> None:
    """Raise RunError if the recorded folder is gone, or if the joint categories are not next to it.

    The record has the real folder of the category. If the category was a link, the others may be in another place.
    """
    folder, names = Path(record.data.folder), sorted({record.data.category, *map(printable, joint)})
    if not folder.is_dir():
        problem = "no such folder"
    elif joint and (folder.name != record.data.category or not _has_categories(folder.parent, names)):
        folder, problem = folder.parent, f"no data set with the categories {', '.join(names)}"
    else:
        return
    raise RunError(
        folder,
        found=problem,
        expected=f"the training data of {run}",
        action="Name their present place: cmdiad-train DATA --from-run RUN --candidate DIR",
    )


def _has_categories(root: Path, names: Sequence[str]) -> bool:
    return {printable(category.name) for category in find_categories(root)}.issuperset(names)


def _with_network(run: Path, family: Family) -> Path | None:
    """Return the run if it has a network to take over, otherwise None."""
    if family.network_file is not None:
        with suppress(RunError):
            family.network_file(run)
            return run
    return None


def _envelope(record: RunRecord) -> EnvelopeOptions:
    envelope = record.envelope
    return EnvelopeOptions() if envelope is None else EnvelopeOptions(envelope.false_alarm_rate, envelope.off)
