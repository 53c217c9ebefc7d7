"""Recording conditions of the good samples of a training, and samples that are copies of each other."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from cmdiad_runtime.envelope.examine import measure, size_of
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.content import digest_of
from cmdiad_runtime.preprocess.prepare import check_present
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.strategy import part_geometry
from cmdiad_runtime.printable import printable
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.datasets.identical import content_of, identical_groups, refusal_of_copies, shortened
from cmdiad_train.datasets.series import thumbnail


@dataclass(frozen=True)
class Conditions:
    """Recording conditions of one sample.

    Attributes:
        size: Width and height, pixels.
        measures: Measures by name, see `cmdiad_runtime.envelope.names`; empty if the sample cannot be inspected.
        content: Value that is equal for samples with the same pixels and points.
        digest: Digest by which a bundle recognises the sample, see `digest_of`.
        thumbnail: Reduced image of the sample, see `series.thumbnail`; empty if the detector inspects no image.
    """

    size: tuple[int, int]
    measures: Mapping[str, float]
    content: Hashable
    digest: str
    thumbnail: bytes = b""


def conditions_of(sample: Sample, preprocessing: Preprocessing) -> Conditions:
    """Return the recording conditions of a sample.

    Args:
        sample: Good sample.
        preprocessing: Preprocessing of inspection.

    Raises:
        InputError: The sample lacks a modality of inspection, or an array has the wrong shape.
    """
    check_present(sample, preprocessing)
    try:
        with np.errstate(all="ignore"):  # a cloud may have infinite coordinates
            measures = measure(sample, part_geometry(sample, preprocessing), preprocessing)
    except InputError:
        measures = {}  # the sample is left out for the same reason when it is prepared
    image = sample.rgb if "rgb" in preprocessing.modalities else None
    return Conditions(
        size_of(sample, preprocessing),
        measures,
        content_of(sample),
        digest_of(sample, preprocessing),
        b"" if image is None else thumbnail(image),
    )


def check_different(
    train: Sequence[tuple[SampleFiles, Conditions]],
    held_out: Sequence[tuple[SampleFiles, Conditions]],
    folder: str,
    reporter: Reporter,
) -> None:
    """Report samples with the same pixels, and refuse training samples that are all the same.

    Args:
        train: Training samples.
        held_out: Samples that set the thresholds.
        folder: Folder of the category, for messages.
        reporter: Receiver of one line for each group of copies.

    Raises:
        RunError: All training samples are copies of one sample.
    """
    contents = [conditions.content for _, conditions in train]
    refusal = refusal_of_copies(folder, contents, action="Record other samples; cmdiad-data check names the copies")
    if refusal is not None:
        raise refusal
    named = [(printable(files.name), conditions.content) for files, conditions in (*train, *held_out)]
    for names in identical_groups(named):
        reporter.say(f"warning: {shortened(names)} have the same pixels and count as one sample. Remove the copies.")
    if {*contents} & {conditions.content for _, conditions in held_out}:
        reporter.say(
            "warning: samples that set the thresholds are copies of training samples, so the thresholds are too low."
        )
