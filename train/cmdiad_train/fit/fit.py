"""Train one detector of any family into a run directory. Every step leaves whole files, so that it can resume."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from cmdiad_runtime.bundle.calibration import Calibration
from cmdiad_runtime.envelope.record import Envelope
from cmdiad_runtime.errors import InputError, RunError
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.reporter import SILENT, Reporter
from cmdiad_train.datasets import SampleFiles, data_colour, open_category
from cmdiad_train.datasets.series import Series, series_of
from cmdiad_train.detectors.family import Family, FitContext, Fitted, worst_of_parts
from cmdiad_train.detectors.registry import family_of
from cmdiad_train.fit.before import check_before_work, check_space, few_held_out
from cmdiad_train.fit.conditions import Conditions, check_different
from cmdiad_train.fit.envelope import EnvelopeOptions, learn_envelope
from cmdiad_train.fit.export_inputs import input_bytes, save_export_inputs
from cmdiad_train.fit.figures import figures_on_test_split
from cmdiad_train.fit.judged import add_judged
from cmdiad_train.fit.mask import InspectionMask, check_mask_size
from cmdiad_train.fit.partner import pair_samples
from cmdiad_train.fit.run_folder import CACHE, has_leftovers, owned_run_folder
from cmdiad_train.fit.samples import SampleProvider
from cmdiad_train.fit.separation import not_separated, scores_of_tampered
from cmdiad_train.fit.sessions import add_sessions, calibrate_splits, refuse_copies
from cmdiad_train.fit.splits import Splits, split
from cmdiad_train.fit.start import Request, Started, earlier_record, start_or_resume
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.record import RunRecord, write_record
from cmdiad_train.runs.run import save_calibration
from cmdiad_train.training.machine import Machine, memory_errors


@dataclass(frozen=True)
class FitOptions:
    """Options of a training that do not belong to the recipe.

    Attributes:
        machine: Device and disk space.
        network_from: Finished run whose extractors and networks are taken over, so that a network that is joint over
            categories is trained once.
        features: Folder of the feature store that trainings share; None keeps features in the run until it is complete.
        envelope: Rate of the checks of the recording conditions, and checks that are switched off.
        mask: Inspection mask, whose digest becomes part of the recipe, or None.
        calibration: Folders of good samples of other sessions, which set the thresholds too.
        test: False to leave the test split unread, so that the run has no figures.
        judged: Folder of a candidate with parts that people judged, which are trained on and tested too, or None.
    """

    machine: Machine = field(default_factory=Machine)
    network_from: Path | None = None
    features: Path | None = None
    envelope: EnvelopeOptions = field(default_factory=EnvelopeOptions)
    mask: InspectionMask | None = None
    calibration: tuple[Path, ...] = ()
    test: bool = True
    judged: Path | None = None


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
        RunError: Data or recipe cannot be used, or too many good samples are unusable.
        OutputError: The folder `run` holds something else, another process trains into it, the disk is full, or the
            memory is too small.
    """
    with memory_errors():
        return _fit(data, category, recipe, run, reporter, options or FitOptions())


def _fit(
    data: Path, category: str | None, recipe: Recipe, run: Path, reporter: Reporter, options: FitOptions
) -> RunRecord:
    family = family_of(recipe.family)
    chosen = open_category(data, category, recipe.image_modality)
    splits = split(chosen, recipe, family, test=options.test)
    if options.judged is not None:
        splits = add_judged(splits, options.judged, recipe, family)
    splits = pair_samples(splits, chosen, family.partner(recipe))
    splits = add_sessions(splits, options.calibration, recipe, reporter)
    recipe = _with_mask(recipe, options.mask, splits)
    request = Request(chosen, recipe, family, splits, options.network_from, options.mask)
    check_before_work(request, run, options.machine)
    earlier = earlier_record(request, run)
    if earlier is not None and earlier.status == "complete" and not has_leftovers(run):
        _say_finished(run, earlier, options.envelope, reporter)
        return earlier
    with owned_run_folder(run):
        earlier = earlier_record(request, run)  # another process may have finished the run meanwhile
        if earlier is None or earlier.status != "complete":
            earlier = _train(request, run, earlier, options, reporter)
        shutil.rmtree(run / CACHE, ignore_errors=True)
        return earlier


def _with_mask(recipe: Recipe, mask: InspectionMask | None, splits: Splits) -> Recipe:
    """Return the recipe with the digest of the inspection mask, whose size is compared with the first sample."""
    if mask is None:
        if recipe.mask is not None:
            raise RunError("recipe mask", found="no mask", expected="the mask of the recipe", action="Pass --mask FILE")
        return recipe
    if splits.train:
        with suppress(InputError):  # the first sample that can be used is compared later
            check_mask_size(mask, splits.train[0].read(data_colour(splits.train)))
    return replace(recipe, mask=mask.digest)


def _say_finished(run: Path, record: RunRecord, options: EnvelopeOptions, reporter: Reporter) -> None:
    """Report what the training warned of, and how it differs from what this command requests."""
    envelope = record.envelope
    if envelope is not None and (envelope.false_alarm_rate, {*envelope.off}) != (options.rate, {*options.off}):
        reporter.say(
            f"{printable(run)} is finished, with the checks of the recording conditions of the earlier command: "
            f"--envelope-rate {envelope.false_alarm_rate:g}, switched off: {', '.join(envelope.off) or 'none'}. "
            "To change them, choose another --out, or use cmdiad-threshold --ignore-check on the bundle."
        )
    for warning in record.warnings:
        reporter.say(f"warning: {warning}.")
    good = [sample for sample in record.left_out if sample.split != "test"]
    if good:
        reporter.say(
            f"{printable(run)} is finished. The training left out {len(good)} good samples that could not be used. "
            "To train with repaired samples, choose another --out."
        )


def _train(
    request: Request, run: Path, earlier: RunRecord | None, options: FitOptions, reporter: Reporter
) -> RunRecord:
    samples = SampleProvider(run / CACHE / "samples")
    started = start_or_resume(request, run, earlier, samples, reporter)
    record, splits = started.record, started.splits
    if warning := few_held_out(splits, record.recipe, request.family):
        reporter.say(warning)
    by_part = splits.by_part(record.recipe.parts)
    check_space(run, input_bytes(by_part, samples))
    envelope = _envelope(record, splits, samples, options.envelope, reporter)
    record = replace(record, envelope=envelope)
    write_record(run, record)
    fitted = _fit_family(request.family, replace(started, splits=by_part), run, samples, options, reporter)
    record = replace(record, series=_series(record, splits, samples, fitted, reporter))
    save_export_inputs(run, by_part, samples, fitted.detector.input_names, reporter)
    scores, peaks = (worst_of_parts(values, by_part.parts) for values in (fitted.scores, fitted.peaks))
    calibration = _calibrated(record, splits, samples, (scores, peaks))
    save_calibration(run, calibration)
    tampered = scores_of_tampered(fitted.detector, record.recipe.verdict, by_part, samples, reporter)
    record = replace(record, not_separated=not_separated(tampered, calibration))
    if record.not_separated:
        reporter.say(f"warning: {record.not_separated}.")
    metrics, not_inspected = figures_on_test_split(fitted.detector, record, splits, calibration, reporter)
    left_out = (*(sample for sample in splits.left_out if sample.split != "test"), *not_inspected)
    record = replace(record, status="complete", provenance=fitted.provenance, metrics=metrics, left_out=left_out)
    write_record(run, record)
    return record


def _calibrated(
    record: RunRecord, splits: Splits, samples: SampleProvider, results: tuple[Sequence[float], Sequence[float]]
) -> Calibration:
    """Return the thresholds of the score that decides; if the map decides, both thresholds are equal.

    Args:
        record: Record of the run.
        splits: Samples of the training, with one entry for each sample.
        samples: Source of samples.
        results: Image scores and largest map values of good samples.
    """
    recipe, (scores, peaks) = record.recipe, results
    deciding = peaks if recipe.verdict == "map" else scores
    digests = _digests(record, splits, samples)
    return replace(
        calibrate_splits(splits, digests, (deciding, peaks), recipe.false_reject_rate), verdict=recipe.verdict
    )


def _envelope(
    record: RunRecord, splits: Splits, samples: SampleProvider, options: EnvelopeOptions, reporter: Reporter
) -> Envelope | None:
    """Learn the envelope of the good samples.

    Raises:
        RunError: All training samples have the same pixels.
        InputError: A sample cannot be read.
    """
    good = [*splits.train, *splits.held_out]
    measured: dict[SampleFiles, Conditions] = {}
    for files in good:
        measured[files] = samples.conditions(files, record.preprocessing)
        reporter.step("measure recording conditions", len(measured), len(good))
    train, held_out = ([(s, measured[s]) for s in chosen] for chosen in (splits.train, splits.held_out))
    check_different(train, held_out, record.data.folder, reporter)
    refuse_copies(_digests(record, splits, samples), record.data.folder)
    envelope = learn_envelope(list(measured.values()), options)
    if envelope is not None and record.preprocessing.modality != "xyz" and not envelope.colour_weights:
        reporter.say("Red and blue cannot be distinguished in these samples, so exchanged channels are not recognised.")
    return envelope


def _series(
    record: RunRecord, splits: Splits, samples: SampleProvider, fitted: Fitted, reporter: Reporter
) -> Series | None:
    """Return and report series of near copies in the images of the good samples; clouds are not compared.

    Series that the detector left out are not among them, see `Fitted.counted_as`.

    Nothing is reported if other placements set the threshold: good parts of another session, or held-out samples
    without near copies among the training samples, unless scores of training samples set the threshold, too.
    """
    if splits.sessions or "rgb" not in record.preprocessing.modalities:
        return None
    good = [*splits.train, *splits.held_out]
    names = [printable(files.name) for files in good]
    thumbnails = [samples.conditions(files, record.preprocessing).thumbnail for files in good]
    parts = record.recipe.parts
    held_out_alone = len(fitted.scores) == len(splits.held_out) * parts
    held_out = range(len(splits.train), len(good)) if held_out_alone else ()
    series = series_of(names, thumbnails, held_out, fitted.counted_as[::parts])
    if series is not None:
        reporter.say(f"warning: {series.warning}.")
    return series


def _digests(record: RunRecord, splits: Splits, samples: SampleProvider) -> dict[SampleFiles, str]:
    good = (*splits.train, *splits.held_out)
    return {files: samples.conditions(files, record.preprocessing).digest for files in good}


def _fit_family(
    family: Family, started: Started, run: Path, samples: SampleProvider, options: FitOptions, reporter: Reporter
) -> Fitted:
    record, splits = started.record, started.splits
    if options.network_from is not None and family.take_over is not None:
        family.take_over(options.network_from, run, record.recipe)
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
    if started.partner is not None and record.partner is not None:
        context = replace(context, partner=started.partner.context(context, splits, record.partner))
    return family.fit(context)
