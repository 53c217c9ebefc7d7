"""Screening of the good samples before the work: what cannot be read or prepared is named, counted and left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.names import ViewName
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.prepare import Preprocessing
from cmdiad_runtime.preprocess.views.strategy import check_contrast
from cmdiad_runtime.readers import image_colour
from cmdiad_runtime.readers.image import is_grey16
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.regular_file import open_regular
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import Category, LeftOut, SampleFiles
from cmdiad_train.datasets.left_out import describe
from cmdiad_train.fit.export_inputs import golden_samples, tampered_samples, with_tampered_copy
from cmdiad_train.fit.preparing import find_part
from cmdiad_train.fit.samples import SampleProvider
from cmdiad_train.fit.splits import Splits


def accept(splits: Splits, category: Category, earlier: Splits | None, reporter: Reporter) -> Splits:
    """Report the samples that are newly left out, and return the splits if enough samples remain.

    Args:
        splits: Splits without unusable samples.
        category: Category of the data set, for messages.
        earlier: Splits whose left-out samples were reported already, or None.
        reporter: Receiver of one line for each sample.

    Raises:
        RunError: Too many samples are left out, or too few remain.
    """
    reported = len(earlier.left_out) if earlier else 0
    total = len(list(splits.good())) + len(splits.left_out)
    news = [sample for sample in splits.left_out[reported:] if sample.split != "test"]
    for line in describe(news, total, "good samples", problem="cannot be used and are left out"):
        reporter.say(line)
    splits.check_enough(category)
    return splits


def warn_about_test_samples(splits: Splits, reporter: Reporter) -> None:
    """Report the test samples whose headers show already that the evaluation at the end will leave them out."""
    unusable = []
    for files in splits.test:
        error = guarded(str(files.rgb or files.xyz), partial(_read_headers, files))
        if isinstance(error, InputError):
            unusable.append(LeftOut.because(files.name, "test", error))
    unusable += splits.left_out_of("test")
    total = len(splits.test) + len(splits.left_out_of("test"))
    for line in describe(unusable, total, "test samples", problem="cannot be read, so the figures will leave them out"):
        reporter.say(line)


def _read_headers(files: SampleFiles) -> None:
    """Read the first bytes of the files of a sample; raises InputError or OSError."""
    if files.rgb is not None and not is_grey16(files.rgb):
        image_colour(files.rgb)
    if files.xyz is not None:
        with open_regular(files.xyz, follow=True) as file:
            if not file.read(1):
                raise OSError("an empty file")


def screen_reading(
    splits: Splits, category: Category, sensor: Preprocessing, samples: SampleProvider, reporter: Reporter
) -> Splits:
    """Read every good sample once, keep it, and leave out those that cannot be read or are empty in any view.

    Args:
        splits: Splits of the data set.
        category: Category of the data set, for messages.
        sensor: Preprocessing in the sensor view.
        samples: Source of samples, which keeps them.
        reporter: Receiver of progress and lines.

    Raises:
        RunError: Too many samples are left out, or too few remain.
    """
    read = partial(read_usable, samples, colour=sensor.colour)
    return screen(splits, category, ("read samples", read), reporter)


def read_usable(samples: SampleProvider, files: SampleFiles, colour: Colour) -> InputError | None:
    """Read a sample and keep it; return the error of files that cannot be read, or that are empty in any view."""
    error = samples.try_read(files, colour)
    if error is not None:
        return error
    sample = samples.read(files, colour)
    empty = guarded(sample.name, partial(_check_content, sample))
    return empty if isinstance(empty, InputError) else None


def _check_content(sample: Sample) -> None:
    """Raise InputError for an image without contrast or a cloud without points, which no view can use."""
    if sample.rgb is not None:
        check_contrast(sample.rgb, sample.name)
    if sample.xyz is not None:
        PartGeometry(sample, foreground=False).part  # noqa: B018 - raises without a valid point


def screen_view(
    splits: Splits,
    category: Category,
    view: ViewName,
    sensor: Preprocessing,
    samples: SampleProvider,
    reporter: Reporter,
) -> Splits:
    """Leave out the training samples in which a view does not find the part.

    Raises:
        RunError: Too many samples are left out, or too few remain.
    """
    train = set(splits.train)

    def find(files: SampleFiles) -> InputError | None:
        return find_part(samples.read(files, sensor.colour), view, sensor) if files in train else None

    return screen(splits, category, ("find parts", find), reporter)


def screen_preparing(
    splits: Splits,
    category: Category,
    samples: SampleProvider,
    settings: tuple[Callable[[SampleFiles], Preprocessing], Preprocessing],
    reporter: Reporter,
) -> Splits:
    """Prepare every good sample once, and leave out those in which no part is found or that fail otherwise.

    Args:
        splits: Splits of samples that can be read.
        category: Category of the data set, for messages.
        samples: Source of samples, which keeps the prepared ones.
        settings: Function that returns the preprocessing of a sample, and the preprocessing of inspection.
        reporter: Receiver of progress and lines.

    Raises:
        RunError: Too many samples are left out, too few remain, or no tampered copy can be prepared.
    """
    samples.prepare_with(*settings, tampered_samples(splits))
    screened = screen(splits, category, ("prepare samples", samples.try_prepare), reporter)
    with_tampered_copy(golden_samples(screened), screened.held_out, samples)  # raises now rather than at the end
    return screened


def screen(
    splits: Splits,
    category: Category,
    step: tuple[str, Callable[[SampleFiles], InputError | None]],
    reporter: Reporter,
    chosen: Sequence[SampleFiles] | None = None,
) -> Splits:
    """Do one step for every sample, and leave out those for which the step returns an error.

    Args:
        splits: Splits of the data set.
        category: Category of the data set, for messages.
        step: Name of the step in progress reports, and function of the step.
        reporter: Receiver of progress and lines.
        chosen: Samples of the step; None for all good samples.

    Raises:
        RunError: Too many samples are left out, or too few remain.
    """
    good = [files for _, files in splits.good()] if chosen is None else chosen
    unusable: dict[SampleFiles, InputError] = {}
    for i, files in enumerate(good):
        error = step[1](files)
        if error is not None:
            unusable[files] = error
        reporter.step(step[0], i + 1, len(good))
    return accept(splits.without(unusable), category, splits, reporter)
