"""The start of a training: the record of a new run, or of the interrupted run that resumes."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.support.files import sha256_of
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import Category, data_colour
from cmdiad_train.detectors.family import Family
from cmdiad_train.fit.mask import InspectionMask, describe_share, with_mask
from cmdiad_train.fit.samples import KeptFiles, SampleProvider
from cmdiad_train.fit.splits import Splits
from cmdiad_train.fit.views import ChosenView, choose_view
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.mask import MASK
from cmdiad_train.runs.record import FILE, RunRecord, TrainedOn, ViewChoice, read_record, write_record

CACHE = "cache"
"""Folder of a run for files that are deleted when the training is complete."""
PACKAGES = ("cmdiad", "torch", "timm", "scikit-learn", "numpy", "scipy")


@dataclass(frozen=True)
class Request:
    """The training that the user asked for.

    Attributes:
        category: Category of the data set.
        recipe: Recipe of the command line, whose view may be "auto".
        family: Family of the recipe.
        splits: Samples of the category.
        network_from: Finished run whose networks are taken over, or None.
        mask: Inspection mask, whose digest the recipe names, or None.
    """

    category: Category
    recipe: Recipe
    family: Family
    splits: Splits
    network_from: Path | None = None
    mask: InspectionMask | None = None

    @property
    def data(self) -> TrainedOn:
        """Return the record of the samples."""
        return TrainedOn(
            str(self.category.folder.resolve()),
            self.category.name,
            tuple(s.name for s in self.splits.train),
            tuple(s.name for s in self.splits.held_out),
        )


def start_or_resume(request: Request, run: Path, samples: SampleProvider, reporter: Reporter) -> RunRecord:
    """Return the record of a new run, or of the interrupted run in the folder.

    Args:
        request: The training.
        run: New folder, or the folder of an earlier attempt.
        samples: Source of samples; keeps those that are read to choose the view.
        reporter: Receiver of progress, and of the reason if parts are seen in the view of the sensor.

    Raises:
        OutputError: The folder holds another training or something else.
        RunError: There is no network to take over.
    """
    network = None if request.network_from is None else _network_digest(request.family, request.network_from)
    if (run / FILE).exists():
        record = read_record(run)
        if (record.asked, record.network_from, record.data) == (request.recipe, network, request.data):
            return record
        if not _is_without_results(run):
            raise OutputError(
                run,
                found="a run with another recipe or other data",
                expected="a new folder, or the same training to resume",
                action="Choose another --out",
            )
    else:
        _make_folder(run)
    chosen = _choose_view(request, samples, reporter)
    if chosen.reason:
        reporter.say(f"Parts are seen as the sensor sees them (--view sensor): {chosen.reason}.")
    preprocessing = _masked(request, chosen.preprocessing, samples, reporter)
    record = RunRecord(
        recipe=replace(request.recipe, view=chosen.view),
        data=request.data,
        view=ViewChoice(request.recipe.view, chosen.reason),
        preprocessing=preprocessing,
        seed=request.recipe.seed,
        versions={package: version(package) for package in PACKAGES},
        python=platform.python_version(),
        network_from=network,
    )
    if request.mask is not None:
        request.mask.save(run / MASK)
    write_record(run, record)
    return record


def _masked(
    request: Request, preprocessing: Preprocessing, samples: SampleProvider, reporter: Reporter
) -> Preprocessing:
    """Return the preprocessing with the inspection mask, which was drawn over the first training sample."""
    if request.mask is None:
        return preprocessing
    files = request.splits.train[0]
    preprocessing = with_mask(request.mask, samples.read(files, preprocessing.colour), preprocessing)
    moves = "" if preprocessing.view == "sensor" else f"; the region is drawn over {files.name} and moves with the part"
    reporter.say(f"Mask: {describe_share(preprocessing)} is not inspected{moves}.")
    return preprocessing


def _network_digest(family: Family, source: Path) -> str:
    if family.network_file is None:
        raise RunError(
            "--network-from",
            found=f"the family {family.name}",
            expected="a family with networks that a run can take over",
            action="Leave out --network-from",
        )
    return sha256_of(family.network_file(source))


def _is_without_results(run: Path) -> bool:
    """Return True if an earlier attempt failed before its first result, so that nothing is lost by replacing it."""
    return all(path.name in (FILE, CACHE, MASK) or path.name.startswith(".") for path in run.iterdir())


def _make_folder(run: Path) -> None:
    # Hidden files are leftovers of a process that was killed during its first write.
    if run.exists() and (not run.is_dir() or any(not p.name.startswith(".") for p in run.iterdir())):
        raise OutputError(run, found="something else", expected="a new folder", action="Choose another --out")
    try:
        run.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            run, found=str(error.strerror), expected="a writable folder", action="Choose another --out"
        ) from error


def _choose_view(request: Request, samples: SampleProvider, reporter: Reporter) -> ChosenView:
    recipe, splits = request.recipe, request.splits
    colour = data_colour(splits.train)
    others = [*splits.held_out, *(files for joint in splits.joint.values() for files in joint)]
    chosen = choose_view(
        [KeptFiles(files, samples) for files in splits.train],
        [KeptFiles(files, samples) for files in others],
        recipe,
        replace(request.family.preprocessing(recipe, colour, recipe.modality), parts=recipe.parts),
        request.family.preferred_view(recipe),
        reporter,
    )
    if recipe.parts > 1 and chosen.view == "sensor":
        raise RunError(
            f"--parts {recipe.parts}",
            found=f"no view of each part: {chosen.reason}",
            expected=f"{recipe.parts} equal parts in every good sample, apart from each other, on a darker support",
            action="Correct the samples, choose another number of parts, or leave out --parts",
        )
    return chosen
