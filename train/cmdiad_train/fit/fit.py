"""Train one detector of any family into a run directory. Every step leaves whole files, so that it can resume."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path

from cmdiad_runtime.bundle.threshold import calibrate
from cmdiad_runtime.errors import RunError
from cmdiad_runtime.support.reporter import SILENT, Reporter
from cmdiad_train.datasets import data_colour, open_category
from cmdiad_train.detectors.family import FitContext, Fitted, worst_of_parts
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.fit.export_inputs import save_export_inputs, tampered_samples
from cmdiad_train.fit.figures import figures_on_test_split
from cmdiad_train.fit.mask import InspectionMask, check_mask_size
from cmdiad_train.fit.preparing import TrainingSettings
from cmdiad_train.fit.samples import SampleProvider
from cmdiad_train.fit.splits import split
from cmdiad_train.fit.start import CACHE, Request, start_or_resume
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.record import RunRecord, write_record
from cmdiad_train.runs.run import save_calibration
from cmdiad_train.training.machine import Machine


@dataclass(frozen=True)
class FitOptions:
    """Options of a training that do not belong to the recipe.

    Attributes:
        machine: Device and disk space.
        network_from: Finished run whose extractors and networks are taken over, so that a network that is joint over
            categories is trained once.
        features: Folder of the feature store that trainings share; None keeps features in the run until it is complete.
        mask: Inspection mask, whose digest the recipe names, or None.
    """

    machine: Machine = field(default_factory=Machine)
    network_from: Path | None = None
    features: Path | None = None
    mask: InspectionMask | None = None


def fit(
    data: Path,
    category: str | None,
    recipe: Recipe,
    run: Path,
    reporter: Reporter = SILENT,
    options: FitOptions | None = None,
) -> RunRecord:
    """Train a detector on a category of a data set, or resume an interrupted training.

    Args:
        data: Data set in one of the layouts of `cmdiad_train.datasets`.
        category: Category of the data set; None if there is only one.
        recipe: Recipe of the detector.
        run: New folder, or the folder of an unfinished training with the same recipe and data.
        reporter: Receiver of progress, and of one line if parts are seen in the view of the sensor.
        options: Machine, networks to take over, and feature store.

    Returns:
        The record of the run (`run.json`).

    Raises:
        RunError: Data or recipe cannot be used.
        InputError: A training sample cannot be read.
        OutputError: The folder `run` holds something else.
    """
    options = options or FitOptions()
    family = family_of(recipe.family)
    chosen = open_category(data, category)
    splits = split(chosen, recipe, family)
    samples = SampleProvider(run / CACHE / "samples")
    if options.mask is not None:
        check_mask_size(options.mask, samples.read(splits.train[0], data_colour(splits.train)))
        recipe = replace(recipe, mask=options.mask.digest)
    elif recipe.mask is not None:
        raise RunError("recipe mask", found="no mask", expected="the mask of the recipe", action="Pass --mask FILE")
    request = Request(chosen, recipe, family, splits, options.network_from, options.mask)
    record = start_or_resume(request, run, samples, reporter)
    if record.status == "complete":
        return record
    request = replace(request, splits=splits.by_part(recipe.parts))
    fitted = _fit_family(request, record, run, samples, options, reporter)
    save_export_inputs(run, request.splits, samples, fitted.detector.input_names, reporter)
    scores, peaks = (worst_of_parts(values, recipe.parts) for values in (fitted.scores, fitted.peaks))
    save_calibration(run, calibrate(scores, peaks, recipe.false_reject_rate))
    metrics = figures_on_test_split(fitted.detector, record.preprocessing, splits, reporter)
    record = replace(record, status="complete", provenance=fitted.provenance, metrics=metrics)
    write_record(run, record)
    shutil.rmtree(run / CACHE, ignore_errors=True)
    return record


def _fit_family(
    request: Request, record: RunRecord, run: Path, samples: SampleProvider, options: FitOptions, reporter: Reporter
) -> Fitted:
    family, splits = request.family, request.splits
    if options.network_from is not None and family.take_over is not None:
        family.take_over(options.network_from, run, record.recipe)
    settings = TrainingSettings(record.recipe, family, record.preprocessing, splits, samples, reporter)
    samples.prepare_with(settings.of, record.preprocessing, tampered_samples(splits))
    context = FitContext(
        run=run,
        recipe=record.recipe,
        preprocessing=record.preprocessing,
        train=splits.train,
        held_out=splits.held_out,
        joint=splits.joint,
        samples=samples,
        device=options.machine.torch_device(),
        features=options.features or run / CACHE / "features",
        cache_bytes=options.machine.cache_bytes,
        taken_over=options.network_from is not None,
        reporter=reporter,
    )
    return family.fit(context)
