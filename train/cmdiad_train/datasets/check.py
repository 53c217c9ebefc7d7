"""Read every sample of a data set and list its content and its problems."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from cmdiad_runtime.colour import Colour, GreyRange
from cmdiad_runtime.errors import CmdiadError, InputError, RunError
from cmdiad_runtime.inspection.content import pixels_of
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.names import Modality
from cmdiad_runtime.preprocess.cloud.cloud_inputs import frame_cloud
from cmdiad_runtime.preprocess.cloud.part_geometry import PartGeometry
from cmdiad_runtime.preprocess.prepare import LEAST_CONTRAST
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.printable import printable
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.files import sha256_of
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets.category import Category, Split
from cmdiad_train.datasets.ground_truth import read_ground_truth
from cmdiad_train.datasets.identical import content_of, identical_groups, refusal_of_copies, shortened
from cmdiad_train.datasets.layouts.listing import Listing
from cmdiad_train.datasets.layouts.visa import table_of
from cmdiad_train.datasets.left_out import MOST_UNUSABLE
from cmdiad_train.datasets.outlook import NOTHING, Outlook, outlook_of
from cmdiad_train.datasets.pairs import pair_notes
from cmdiad_train.datasets.registry import list_categories, open_category
from cmdiad_train.datasets.sample_files import SampleFiles, data_colour
from cmdiad_train.datasets.skipped import skipped_text

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
LEAST_GOOD = 6
"""Smallest number of training samples without a validation split: every fifth is held out, and two must be."""
_VIEW = Preprocessing("xyz")


@dataclass(frozen=True)
class Problem:
    """A problem for training or evaluation.

    Attributes:
        sample: Name of the sample, for example `test/dent/003`; None if the problem concerns more than one sample.
        error: Error that training would raise, or the reason why metrics would mislead.
    """

    sample: str | None
    error: CmdiadError


@dataclass
class Findings:
    """The content of one category and its problems.

    Attributes:
        category: Category that was checked.
        counts: Number of complete samples and of files, by split, defect and kind (`samples`, `rgb`, `xyz`, `mask`).
        notes: Lines of information that are no problems.
        outlook: What can be done with the category, and what cannot.
        problems: Problems in the order of the samples.
        unusable: Names of the good samples that a training leaves out.
    """

    category: Category
    counts: dict[str, dict[str, dict[str, int]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    outlook: Outlook = field(default_factory=lambda: Outlook((), ()))
    problems: list[Problem] = field(default_factory=list)
    unusable: set[str] = field(default_factory=set)

    @property
    def next_step(self) -> str:
        """Return what to do next, with the exact command."""
        data = shlex.quote(str(self.category.root))
        if self.category.folder != self.category.root:
            data += f" --category {shlex.quote(self.category.name)}"
        again = f"cmdiad-data check {data}"
        if self.refusal:
            return f"training would be refused{self.refusal}, then run: {again}"
        left_out = f"training would leave out {len(self.unusable)} good samples; run: " if self.unusable else ""
        return f"{left_out}cmdiad-train {data}{self._options()}"

    @property
    def refusal(self) -> str:
        """Return why a training would be refused and what to do, as the end of a sentence; "" if it would not."""
        if any(problem.sample is None for problem in self.problems):
            return "; correct the data set"
        good = sum(counts["samples"] for split in ("train", "validation") for counts in self._counts_of(split))
        total = good + len(self.unusable & self._incomplete)
        if len(self.unusable) > MOST_UNUSABLE * total:
            return f", because {len(self.unusable)} of {total} good samples cannot be used; repair them"
        return ""

    def _counts_of(self, split: str) -> list[dict[str, int]]:
        return list(self.counts.get(split, {}).values())

    @property
    def _incomplete(self) -> set[str]:
        return {p.sample for p in self.problems if p.sample is not None and isinstance(p.error, RunError)}

    def _options(self) -> str:
        """Return the options without which `cmdiad-train` could not use the data."""
        name = self.category.image if "rgb" in self.category.modalities else "xyz"
        return ("" if name == "rgb" else f" --modality {name}") + (" --no-foreground" if self.category.prepared else "")

    def to_json(self) -> dict[str, Any]:
        """Return the findings as JSON-ready values."""
        return {
            "name": self.category.name,
            "layout": self.category.layout,
            "folder": str(self.category.folder),
            "prepared": self.category.prepared,
            "modalities": self.category.named(_kinds(self.category, "train")),
            "counts": self.counts,
            "notes": self.notes,
            "possible": list(self.outlook.possible),
            "not_possible": list(self.outlook.not_possible),
            "next": self.next_step,
            "problems": [
                {
                    "sample": problem.sample,
                    "subject": problem.error.subject,
                    "found": problem.error.found,
                    "expected": problem.error.expected,
                    "action": problem.error.action,
                }
                for problem in self.problems
            ],
        }

    def lines(self) -> Iterator[str]:
        """Yield the findings as lines of text, with one line for each problem at the end."""
        prepared = ", prepared" if self.category.prepared else ""
        image = "" if self.category.image == "rgb" else f", {self.category.image} images"
        yield f"{printable(self.category.name)} ({self.category.layout} layout{prepared}{image})"
        for split, defects in self.counts.items():
            for defect, counts in defects.items():
                files = ", ".join(f"{kind} {count}" for kind, count in counts.items() if kind != "samples")
                yield f"  {split:<10} {printable(defect):<16} {counts['samples']:>5} samples ({files})"
        for note in self.notes:
            yield f"  note: {printable(note)}"
        for line in self.outlook.lines():
            yield f"  {line}"
        for problem in self.problems:
            yield f"error: {problem.error}"
        yield f"next: {printable(self.next_step)}"


def check(root: Path, category: str | None, reporter: Reporter) -> list[Findings]:
    """Read all samples of a data set, or of one category, with separate findings for each further image modality.

    Args:
        root: Folder of the data set.
        category: Name of the category; None for all.
        reporter: Receiver of the progress.

    Raises:
        RunError: No category is recognised, or the data set must be prepared first.
    """
    names = [category] if category is not None else list_categories(root)
    return [check_category(category, reporter) for name in names for category in _by_image(open_category(root, name))]


def _by_image(category: Category) -> Iterator[Category]:
    """Yield the category once for camera and cloud, and once for each other image modality."""
    images = category.images
    if "rgb" in images or "xyz" in category.modalities or not images:
        yield category
    yield from (replace(category, image=name) for name in images if name != "rgb")


def _kinds(category: Category, split: Split) -> tuple[Modality, ...]:
    """Return the kinds of files that are checked: another image than that of the camera is checked alone."""
    kinds = category.modalities_of(split)
    return kinds if category.image == "rgb" else tuple(kind for kind in kinds if kind == "rgb")


def check_category(category: Category, reporter: Reporter) -> Findings:
    """Read all samples of a category and return its content and its problems."""
    listings = {split: category.listing(split, _kinds(category, split)) for split in SPLITS}
    findings = Findings(category)
    for split, listing in listings.items():
        findings.problems += [Problem(None, error) for error in listing.problems]
        for incomplete in (listing.incomplete, listing.mask_problems):
            findings.problems += [Problem(name, error) for name, error in incomplete.items()]
        findings.unusable |= set(listing.incomplete) if split != "test" else set()
        if listing.counts:
            findings.counts[split] = _counts(listing, category)
    findings.problems += _too_few(category, listings)
    samples = [sample for listing in listings.values() for sample in listing.samples]
    colour = data_colour(listings["train"].samples)
    shapes: Counter[tuple[int, int]] = Counter()
    contents = _Contents()
    unread: set[str] = set()
    for i, files in enumerate(samples):
        sample = guarded(str(files.rgb or files.xyz), partial(files.read, colour))
        findings.problems += contents.add(files, sample if isinstance(sample, Sample) else None)
        if isinstance(sample, InputError):
            errors: list[CmdiadError] = [sample]
        else:
            errors = list(_check_sample(files, sample, category.prepared, shapes))
        findings.problems += [Problem(files.name, error) for error in errors]
        if errors and not files.name.startswith("test/"):
            findings.unusable.add(files.name)
        if isinstance(sample, InputError):
            unread.add(files.name)
        reporter.step(f"check {category.name}", i + 1, len(samples))
    findings.problems += contents.problems(category)
    findings.notes += [*_notes(category, listings, colour, shapes), *contents.notes()]
    usable = {
        split: replace(
            listing, samples=[files for files in listing.samples if files.name not in unread | findings.unusable]
        )
        for split, listing in listings.items()
    }
    modalities = tuple(category.named(_kinds(category, "train")))
    findings.outlook = NOTHING if findings.refusal else outlook_of(usable, modalities)
    return findings


def _counts(listing: Listing, category: Category) -> dict[str, dict[str, int]]:
    complete = Counter(sample.defect for sample in listing.samples)
    names = {"rgb": category.image}
    return {
        defect: {"samples": complete[defect], **{names.get(kind, kind): count for kind, count in counts.items()}}
        for defect, counts in sorted(listing.counts.items())
    }


def _too_few(category: Category, listings: dict[Split, Listing]) -> Iterator[Problem]:
    train, validation = (len(listings[split].samples) for split in ("train", "validation"))
    if train < 2 or (validation < 2 and train < LEAST_GOOD):
        error = RunError(
            category.folder,
            found=f"{train} training and {validation} validation samples",
            expected=f"at least 2 of each, or {LEAST_GOOD} to train on",
            action="Add good samples",
        )
        yield Problem(None, error)


def _check_sample(
    files: SampleFiles, sample: Sample, prepared: bool, shapes: Counter[tuple[int, int]]
) -> Iterator[CmdiadError]:
    """Yield the problems of one sample that was read, and count its size in `shapes`."""
    image = sample.rgb if sample.rgb is not None else sample.xyz
    assert image is not None
    shape = (image.shape[0], image.shape[1])
    shapes[shape] += 1
    yield from _check_image(files, sample)
    cloud = guarded(str(files.xyz), lambda: _check_cloud(files, sample, prepared))
    if cloud is not None:
        yield cloud
    if files.ground_truth is not None:
        mask = read_ground_truth(files, shape)
        if isinstance(mask, InputError):
            yield mask


def _check_image(files: SampleFiles, sample: Sample) -> Iterator[InputError]:
    if files.rgb is None or sample.rgb is None:
        return
    low, high = int(sample.rgb.min()), int(sample.rgb.max())
    if high - low < LEAST_CONTRAST:
        yield InputError(
            files.rgb,
            found=f"an image that is all background (grey levels {low} to {high})",
            expected="a picture of a part",
            action="Record the image again, or remove the sample",
        )


def _check_cloud(files: SampleFiles, sample: Sample, prepared: bool) -> InputError | None:
    """Return the problem of a cloud, or None; raises InputError for a cloud without a part."""
    if files.xyz is None or sample.xyz is None:
        return None
    named = Sample(str(files.xyz), xyz=sample.xyz)
    geometry = PartGeometry(named, foreground=not prepared, seed=_VIEW.seed)
    frame = frame_cloud(geometry, size=_VIEW.size, pad_multiple=_VIEW.pad_multiple)
    count = np.count_nonzero(frame.valid)
    if count < _VIEW.groups:
        return InputError(
            files.xyz,
            found=f"{count} points of the part after resizing to {_VIEW.size} x {_VIEW.size}",
            expected=f"at least {_VIEW.groups}, one for each group",
            action=f"Check that the whole part is in view, or train with --xyz-groups below {count}",
            reason="no-points",
        )
    return None


class _Contents:
    """The pixels of the samples of a category that could be read."""

    def __init__(self) -> None:
        self._first: dict[str, tuple[SampleFiles, Path]] = {}
        self._samples: list[tuple[SampleFiles, Hashable]] = []

    def add(self, files: SampleFiles, sample: Sample | None) -> Iterator[Problem]:
        """Add a sample, and yield a problem for each file with the pixels of another split or another label.

        Args:
            files: Files of the sample.
            sample: The sample, or None if a file cannot be read; the bytes of the other file are compared then.
        """
        if sample is not None:
            self._samples.append((files, content_of(sample)))
        arrays = (None, None) if sample is None else (sample.rgb, sample.xyz)
        for path, array in zip((files.rgb, files.xyz), arrays, strict=True):
            firsts = [self._first.setdefault(key, (files, path)) for key in _keys(path, array) if path is not None]
            twins = [twin for first, twin in firsts if _place(first) != _place(files)]
            if path is not None and twins:
                error = InputError(
                    path,
                    found=f"the same pixels as in {twins[0]}",
                    expected="a part in one split and under one label only",
                    action="Remove one of the two samples",
                )
                yield Problem(files.name, error)

    def problems(self, category: Category) -> Iterator[Problem]:
        """Yield a problem if all training samples are the same."""
        train = [content for files, content in self._samples if files.name.startswith("train/")]
        error = refusal_of_copies(category.folder, train, action="Record other samples")
        if error is not None:
            yield Problem(None, error)

    def notes(self) -> Iterator[str]:
        """Yield a note for each group of samples with the same pixels in one split and under one label."""
        for names in identical_groups((files.name, (_place(files), content)) for files, content in self._samples):
            yield f"{shortened(names)} have the same pixels and count as one sample"


def _keys(path: Path | None, array: npt.NDArray[Any] | None) -> Iterator[str]:
    """Yield the digest of a file's bytes, and that of its pixels if the file could be read."""
    if path is not None and path.is_file():  # a pipe would wait for ever
        with suppress(OSError):  # the sample could not be read, which is reported already
            yield sha256_of(path)
    if array is not None:
        yield pixels_of(array)


def _place(files: SampleFiles) -> str:
    return files.name.rpartition("/")[0]


def _notes(
    category: Category, listings: dict[Split, Listing], colour: Colour, shapes: Counter[tuple[int, int]]
) -> Iterator[str]:
    if skipped := skipped_text(category.folder):
        yield skipped
    yield from listings["train"].notes
    yield from pair_notes(category)
    if category.prepared:
        yield "prepared by cmdiad-data: the background is removed already, train with --no-foreground"
    if category.layout == "visa" and not table_of(category.folder).is_file():
        yield f"no {table_of(category.folder)}: all Normal images are for training, there are no good test samples"
    if len(listings["validation"].samples) < 2:
        yield "no validation split: training holds every fifth good sample out for the threshold"
    if isinstance(colour, GreyRange):
        yield f"{colour.text}; a value outside this range makes a part NG"
    if len(shapes) > 1:
        sizes = ", ".join(f"{w}×{h} ({count})" for (h, w), count in shapes.most_common())
        yield f"samples of several sizes: {sizes}"
