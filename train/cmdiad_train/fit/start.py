"""The start of a training: the record of a new run, or of the interrupted run that resumes."""

from __future__ import annotations

import platform
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

from cmdiad_runtime.colour import GreyRange
from cmdiad_runtime.errors import InputError, RunError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.preprocess.inspected_area.records import describe, doubt
from cmdiad_runtime.preprocess.mask_note import mask_notes
from cmdiad_runtime.preprocess.prepare import Prepared, prepare_parts
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.printable import printable
from cmdiad_runtime.support.files import sha256_of
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import Category, LeftOut, data_colour
from cmdiad_train.datasets.skipped import skipped_text
from cmdiad_train.detectors.family import Family
from cmdiad_train.fit.contact_sheet import FILE as SHEET
from cmdiad_train.fit.contact_sheet import write_contact_sheet
from cmdiad_train.fit.direction import ambiguous_turn
from cmdiad_train.fit.mask import InspectionMask, with_mask
from cmdiad_train.fit.observe import Observations
from cmdiad_train.fit.other_training import other_data, other_options, other_training
from cmdiad_train.fit.partner import PartnerImages, pairs_text
from cmdiad_train.fit.preparing import TrainingSettings
from cmdiad_train.fit.run_folder import CACHE, is_without_results
from cmdiad_train.fit.samples import KeptFiles, SampleProvider
from cmdiad_train.fit.screening import accept, screen_preparing, screen_reading, screen_view, warn_about_test_samples
from cmdiad_train.fit.splits import Splits
from cmdiad_train.fit.views import ChosenView, choose_view
from cmdiad_train.recipe import Recipe
from cmdiad_train.runs.mask import MASK
from cmdiad_train.runs.record import FILE, RunRecord, TrainedOn, ViewChoice, read_record, write_record

DIRECTION_SAMPLES = 12
"""Training samples in which the direction of parts is compared, if there is a mask."""
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

    def data(self, splits: Splits) -> TrainedOn:
        """Return the record of the samples that are used."""
        return TrainedOn(
            printable(self.category.folder.resolve()),
            printable(self.category.name),
            tuple(printable(s.name) for s in splits.train),
            tuple(printable(s.name) for s in splits.held_out),
            tuple(printable(folder) for folder in splits.sessions.values()),
        )

    def lists(self, record: RunRecord) -> bool:
        """Return True if a record is about the samples of this request, those that are left out included."""
        data = self.data(self.splits)
        names = ("folder", "category", "sessions")
        if any(getattr(record.data, name) != getattr(data, name) for name in names):
            return False
        return all(
            sorted((*getattr(record.data, split), *_names(record.left_out, split)))
            == sorted((*getattr(data, split), *_names(self.splits.left_out, split)))
            for split in ("train", "held_out")
        )


@dataclass(frozen=True)
class Started:
    """A training whose samples are prepared.

    Attributes:
        record: Record of the run.
        splits: Samples of the training, without those that cannot be used.
        partner: Images of a second sensor, or None without such a sensor.
    """

    record: RunRecord
    splits: Splits
    partner: PartnerImages | None = None


def earlier_record(request: Request, run: Path) -> RunRecord | None:
    """Return the record of an earlier attempt at the same training in the folder, or None if there is nothing to keep.

    Raises:
        OutputError: The folder holds another training.
        RunError: The record is damaged, or there is no network to take over.
    """
    network = network_digest(request)
    if not (run / FILE).exists():
        return None
    record = read_record(run)
    if (record.asked, record.network_from) == (request.recipe, network) and request.lists(record):
        return record
    if is_without_results(run):
        return None
    differences = list(other_options(record.asked, request.recipe))
    if not request.lists(record):
        differences += other_data(record.data, request.data(request.splits))
    if record.network_from != network:
        differences.append("--network-from")
    raise other_training(run, differences)


def start_or_resume(
    request: Request, run: Path, earlier: RunRecord | None, samples: SampleProvider, reporter: Reporter
) -> Started:
    """Read and prepare all good samples, and write the record of a new run or return that of the interrupted run.

    Args:
        request: The training.
        run: Folder of the run.
        earlier: Record of an interrupted attempt at the same training, or None.
        samples: Source of samples; keeps those that are prepared.
        reporter: Receiver of progress, of the samples that are left out, and of the reason if parts are seen in the
            view of the sensor.

    Raises:
        OutputError: Other samples than in the interrupted attempt can be used.
        RunError: Too many samples cannot be used.
    """
    if skipped := skipped_text(request.category.folder):
        reporter.say(skipped)
    for note in request.category.notes:
        reporter.say(note)
    splits = accept(request.splits, request.category, None, reporter)
    if splits.shows_figures:
        warn_about_test_samples(splits, reporter)
    sensor = _in_sensor_view(request, splits)
    if isinstance(sensor.colour, GreyRange):
        reporter.say(f"Images: {sensor.colour.text}.")
    if _reads_samples(request, earlier, sensor):
        splits = screen_reading(splits, request.category, sensor, samples, reporter)
    images, seen = _partner_images(request, splits, run), None if earlier is None else earlier.partner
    choice = None
    if earlier is None:
        splits, choice = _choose_view(request, splits, sensor, samples, reporter)
        if images is not None:
            splits, choice, seen = _choose_view_of_pairs(request, (splits, choice), images, samples, reporter)
        _report(choice, run, reporter)
    recipe, preprocessing = _decided(request, earlier, choice)
    if earlier is None:
        preprocessing = _masked(request, splits, preprocessing, samples, reporter)
        seen = images.following(preprocessing, seen) if images is not None and seen is not None else None
    settings = TrainingSettings(recipe, request.family, preprocessing, splits, samples, reporter)
    splits = screen_preparing(splits, request.category, samples, (settings.of, preprocessing), reporter)
    if images is not None and seen is not None:
        splits = images.prepare(splits, (preprocessing, seen), samples, request.category, reporter)
    if earlier is not None:
        if earlier.data != request.data(splits):
            raise other_training(run, ["other samples can be used"])
        return Started(earlier, splits, images)
    assert choice is not None
    record = _new_record(request, splits, (recipe, preprocessing), choice, seen)
    if request.mask is not None:
        request.mask.save(run / MASK)
    write_record(run, record)
    return Started(record, splits, images)


def _partner_images(request: Request, splits: Splits, run: Path) -> PartnerImages | None:
    """Return the images of the second sensor of a training, or None without such a sensor."""
    name = request.family.partner(request.recipe)
    if name is None:
        return None
    return PartnerImages(name, request.recipe, request.family, splits, run / CACHE / "partner")


def _choose_view_of_pairs(
    request: Request,
    chosen: tuple[Splits, ChosenView],
    images: PartnerImages,
    samples: SampleProvider,
    reporter: Reporter,
) -> tuple[Splits, ChosenView, Preprocessing]:
    """Return splits, view of inspection and preprocessing of the second image, both in the same kind of view."""
    splits, choice = chosen
    splits, seen, reason = images.choose_view(splits, choice, request.category, reporter)
    if reason:
        in_sensor = replace(request, recipe=replace(request.recipe, view="sensor"))
        choice = _choose(in_sensor, splits, _in_sensor_view(request, splits), samples, reporter)
        choice = replace(choice, reason=f"the {images.name} images cannot be seen otherwise, because of {reason}")
    if isinstance(seen.colour, GreyRange):
        reporter.say(f"Images of {images.name}: {seen.colour.text}.")
    reporter.say(pairs_text(request.recipe.image_modality, images.name, choice.view, images.registered))
    return splits, choice, seen


def _new_record(
    request: Request,
    splits: Splits,
    decided: tuple[Recipe, Preprocessing],
    choice: ChosenView,
    partner: Preprocessing | None,
) -> RunRecord:
    recipe, preprocessing = decided
    return RunRecord(
        recipe=recipe,
        data=request.data(splits),
        view=ViewChoice(request.recipe.view, choice.reason, choice.whole_cloud),
        preprocessing=preprocessing,
        seed=recipe.seed,
        versions={package: version(package) for package in PACKAGES},
        python=platform.python_version(),
        network_from=network_digest(request),
        left_out=splits.left_out,
        inspected_area=choice.area,
        partner=partner,
    )


def _masked(
    request: Request, splits: Splits, preprocessing: Preprocessing, samples: SampleProvider, reporter: Reporter
) -> Preprocessing:
    """Return the preprocessing with the inspection mask, which was drawn over the first training sample."""
    if request.mask is None:
        return preprocessing
    files = splits.train[0]
    preprocessing = with_mask(request.mask, samples.read(files, preprocessing.colour), preprocessing)
    moves = "" if preprocessing.view == "sensor" else f"; the region is drawn over {files.name} and moves with the part"
    for note in mask_notes(preprocessing):
        reporter.say(f"{note[0].upper()}{note[1:]}{moves}.")
    _check_direction(splits, preprocessing, samples, reporter)
    return preprocessing


def _check_direction(splits: Splits, preprocessing: Preprocessing, samples: SampleProvider, reporter: Reporter) -> None:
    """Report if the region of a mask cannot follow the parts, because they look the same after a turn."""
    ignored = preprocessing.ignored
    if ignored is None or preprocessing.view == "sensor":
        return
    unmasked = replace(preprocessing, ignored=None)
    parts: list[Prepared] = []
    for files in splits.train[:DIRECTION_SAMPLES]:
        prepared = guarded(files.name, partial(prepare_parts, samples.read(files, preprocessing.colour), unmasked))
        parts += () if isinstance(prepared, InputError) else prepared  # left out later, with the reason
    names = {"part": ("rgb",), "top": ("surface",), "each": ("surface", "rgb")}[preprocessing.view]
    for name, region in zip(names, ignored.array, strict=True):
        turn = ambiguous_turn(parts, region, name)
        if turn is not None:
            reporter.say(
                f"Mask: the {'image' if name == 'rgb' else 'cloud'} of a part looks nearly the same after a turn of "
                f"{turn} degrees, so the region may lie elsewhere on other parts. Check the overlays, or use "
                "--view sensor with a fixture."
            )
            return


def _decided(request: Request, earlier: RunRecord | None, choice: ChosenView | None) -> tuple[Recipe, Preprocessing]:
    """Return recipe and preprocessing with the chosen view: those of the interrupted run, or of the new choice."""
    if earlier is not None:
        return earlier.recipe, earlier.preprocessing
    assert choice is not None
    foreground = request.recipe.foreground and not choice.whole_cloud
    return replace(request.recipe, view=choice.view, foreground=foreground), choice.preprocessing


def _in_sensor_view(request: Request, splits: Splits) -> Preprocessing:
    """Return the preprocessing of inspection before a view is chosen."""
    recipe = request.recipe
    sensor = request.family.preprocessing(recipe, data_colour(splits.train), recipe.modality)
    return replace(sensor, parts=recipe.parts, image_modality=recipe.image_modality)


def _reads_samples(request: Request, earlier: RunRecord | None, sensor: Preprocessing) -> bool:
    """Return True if samples are read before they are prepared, because a view is chosen or learnt from them."""
    if earlier is not None:
        return earlier.recipe.view != "sensor"
    view = request.recipe.view if request.recipe.view != "auto" else request.family.preferred_view(request.recipe)[0]
    return view != "sensor" or Observations(view, sensor).needed


def network_digest(request: Request) -> str | None:
    """Return the SHA-256 of the network that `--network-from` takes over, or None.

    Raises:
        RunError: There is no network to take over.
    """
    return None if request.network_from is None else _network_digest(request.family, request.network_from)


def _report(chosen: ChosenView, run: Path, reporter: Reporter) -> None:
    """Write the contact sheet, and say in a line each why parts are seen as they are and what is inspected."""
    if chosen.tiles:
        write_contact_sheet(run / SHEET, chosen.tiles)
    sheet = printable(run / SHEET)
    see = f", see {sheet}" if chosen.tiles else ""
    area = f"Inspected area: {describe(chosen.area, chosen.preprocessing.parts)}"
    if chosen.reason:
        kept = ", and the background of clouds is kept" if chosen.whole_cloud else ""
        whole, how, shown = "", "from the top in image and cloud", see
        if chosen.view == "sensor":
            whole = "" if chosen.area.samples else f"{area}. "
            how, shown = "as the sensor sees them", f", outlined in {sheet}" if chosen.tiles else ""
        reporter.say(f"{whole}Parts are seen {how} (--view {chosen.view}){kept}: {chosen.reason}{shown}.")
    if chosen.area.samples:
        reporter.say(f"{area}{see}.")
    if chosen.area.counter_evidence:
        reporter.say(f"Warning: {doubt(chosen.area)}.")


def _network_digest(family: Family, source: Path) -> str:
    if family.network_file is None:
        raise RunError(
            "--network-from",
            found=f"the family {family.name}",
            expected="a family with networks that a run can take over",
            action="Leave out --network-from",
        )
    return sha256_of(family.network_file(source))


def _choose_view(
    request: Request, splits: Splits, sensor: Preprocessing, samples: SampleProvider, reporter: Reporter
) -> tuple[Splits, ChosenView]:
    """Return the view, and the splits without training samples in which the view does not find the part.

    An automatically chosen view finds the part in every sample; otherwise another view is chosen.
    """
    try:
        return splits, _choose(request, splits, sensor, samples, reporter)
    except InputError:
        view = "sensor" if request.recipe.view == "auto" else request.recipe.view
        splits = screen_view(splits, request.category, view, sensor, samples, reporter)
        return splits, _choose(request, splits, sensor, samples, reporter)


def _choose(
    request: Request, splits: Splits, sensor: Preprocessing, samples: SampleProvider, reporter: Reporter
) -> ChosenView:
    recipe = request.recipe
    others = [*splits.held_out, *(files for joint in splits.joint.values() for files in joint)]
    chosen = choose_view(
        [KeptFiles(files, samples) for files in splits.train],
        [KeptFiles(files, samples) for files in others],
        request.recipe,
        sensor,
        request.family.preferred_view(request.recipe),
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


def _names(left_out: Iterable[LeftOut], split: str) -> list[str]:
    return [sample.name for sample in left_out if sample.split == split]
