"""The samples of a training: which ones are trained on, held out and tested."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from cmdiad_runtime.bundle.session import LEAST_PARTS
from cmdiad_runtime.errors import CmdiadError, InputError, RunError
from cmdiad_runtime.preprocess.prepare import needed_modalities
from cmdiad_train.datasets import GOOD, Category, LeftOut, SampleFiles, open_category
from cmdiad_train.datasets.layouts.listing import Listing
from cmdiad_train.datasets.left_out import MOST_UNUSABLE
from cmdiad_train.datasets.outlook import HELD_OUT_SHARE
from cmdiad_train.detectors.family import Family
from cmdiad_train.recipe import Recipe


@dataclass(frozen=True)
class Splits:
    """The samples of one category.

    Attributes:
        train: Good training samples.
        held_out: Good samples that set the thresholds.
        test: Samples of the test split, or none.
        joint: Good training samples of further categories, by category.
        left_out: Samples that cannot be used and are in none of the above.
        parts: Number of entries per sample in all but `test`: 1, or one for each part (see `by_part`).
        sessions: Folders of other sessions by name, whose samples are the last ones of `held_out`.
        partners: Image of a second sensor for each training sample; empty without such a sensor.
    """

    train: Sequence[SampleFiles]
    held_out: Sequence[SampleFiles]
    test: Sequence[SampleFiles]
    joint: Mapping[str, Sequence[SampleFiles]]
    left_out: tuple[LeftOut, ...] = ()
    parts: int = 1
    sessions: Mapping[str, Path] = field(default_factory=dict)
    partners: Mapping[SampleFiles, SampleFiles] = field(default_factory=dict)

    def by_part(self, parts: int) -> Splits:
        """Return the splits with an entry for each part of a sample, those of one sample next to each other.

        Detector families then fit parts as they fit samples. The test split keeps one entry per sample.
        """

        def of_parts(samples: Sequence[SampleFiles]) -> list[SampleFiles]:
            return [replace(files, part=part) for files in samples for part in range(parts)]

        joint = {name: of_parts(samples) for name, samples in self.joint.items()}
        return replace(self, train=of_parts(self.train), held_out=of_parts(self.held_out), joint=joint, parts=parts)

    @property
    def shows_figures(self) -> bool:
        """Return True if the test split has defects, which figures compare with good samples, held out if need be."""
        return any(files.defect != GOOD for files in self.test)

    def left_out_of(self, split: str) -> tuple[LeftOut, ...]:
        """Return the samples of one split that are left out."""
        return tuple(sample for sample in self.left_out if sample.split == split)

    def good(self) -> Iterator[tuple[str, SampleFiles]]:
        """Yield every sample that is trained on or held out, with its name in messages."""
        for files in (*self.train, *self.held_out):
            yield files.name, files
        for category, samples in self.joint.items():
            for files in samples:
                yield f"{category}/{files.name}", files

    def without(self, unusable: Mapping[SampleFiles, InputError]) -> Splits:
        """Return the splits without samples that turned out to be unusable."""
        groups = {"train": [("", self.train)], "held_out": [("", self.held_out)]}
        groups["joint"] = [(f"{category}/", samples) for category, samples in self.joint.items()]
        further = [
            LeftOut.because(prefix + files.name, split, unusable[files])
            for split, parts in groups.items()
            for prefix, samples in parts
            for files in samples
            if files in unusable
        ]
        return replace(
            self,
            train=_usable(self.train, unusable),
            held_out=_usable(self.held_out, unusable),
            joint={category: _usable(samples, unusable) for category, samples in self.joint.items()},
            left_out=(*self.left_out, *further),
        )

    def check_enough(self, category: Category) -> None:
        """Raise RunError if too many good samples are left out, or too few remain."""
        left_out = [*self.left_out_of("train"), *self.left_out_of("held_out")]
        _check_share(category, left_out, len(self.train) + len(self.held_out))
        for name, samples in self.joint.items():
            own = [sample for sample in self.left_out_of("joint") if sample.name.startswith(f"{name}/")]
            _check_share(category, own, len(samples))
        self._check_sessions()
        if len(self.train) < 2 or len(self.held_out) < 2:
            why = f", and {len(left_out)} that cannot be used" if left_out else ""
            raise RunError(
                category.folder,
                found=f"{len(self.train)} training and {len(self.held_out)} held-out samples{why}",
                expected="at least 2 of each (train/good, validation/good)",
                action="Add good samples",
            )

    def _check_sessions(self) -> None:
        counts = Counter(files.session for files in self.held_out)
        for name, folder in self.sessions.items():
            if counts[name] < LEAST_PARTS:
                raise RunError(
                    folder,
                    found=f"{counts[name]} good samples of another session that can be used",
                    expected=f"at least {LEAST_PARTS}",
                    action="Record more good parts of this session, or leave the folder out",
                )


def split(category: Category, recipe: Recipe, family: Family, *, test: bool = True) -> Splits:
    """Return the samples of a category for a recipe. Samples that lack a file are left out, however many.

    Args:
        category: Category of a data set.
        recipe: Recipe of the detector.
        family: Family of the recipe.
        test: False to leave the test split unread, so that it has no samples.

    Raises:
        RunError: The data set never has a modality that is needed, or a folder is in the wrong place.
    """
    inspected = needed_modalities(recipe.modality, recipe.rgb_mask)
    trained = needed_modalities(family.trained_modality(recipe), recipe.rgb_mask)
    listings = {
        "train": category.usable("train", trained),
        "held_out": category.usable("validation", inspected),
        "test": category.usable("test", inspected) if test else Listing(),
    }
    train, held_out = listings["train"].samples, listings["held_out"].samples
    if len(held_out) < 2:
        train, held_out = hold_out(train)
    others = [name for name in family.joint_categories(recipe) if name != category.name]
    joint = {name: open_category(category.root, name, category.image).usable("train", trained) for name in others}
    left_out = [sample for name, listing in listings.items() for sample in incomplete(listing, name)]
    left_out += [sample for name, listing in joint.items() for sample in incomplete(listing, "joint", f"{name}/")]
    samples = {name: listing.samples for name, listing in joint.items()}
    return Splits(train, held_out, listings["test"].samples, samples, tuple(left_out))


def hold_out(samples: Sequence[SampleFiles]) -> tuple[list[SampleFiles], list[SampleFiles]]:
    """Return the samples that a detector is fitted on, and every fifth sample, which sets the thresholds."""
    return [files for i, files in enumerate(samples) if i % HELD_OUT_SHARE], list(samples[::HELD_OUT_SHARE])


def incomplete(listing: Listing, split: str, prefix: str = "") -> Iterator[LeftOut]:
    """Yield the samples of a listing that lack a file.

    Args:
        listing: Samples of a folder.
        split: Split that lacks the samples.
        prefix: Text before the name of each sample.
    """
    for name, error in listing.incomplete.items():
        yield LeftOut.because(prefix + name, split, error)


def _usable(samples: Sequence[SampleFiles], unusable: Mapping[SampleFiles, CmdiadError]) -> list[SampleFiles]:
    return [files for files in samples if files not in unusable]


def _check_share(category: Category, left_out: Sequence[LeftOut], usable: int) -> None:
    total = len(left_out) + usable
    if len(left_out) <= MOST_UNUSABLE * total:
        return
    raise RunError(
        category.folder,
        found=f"{len(left_out)} of {total} good samples that cannot be used",
        expected=f"at most {MOST_UNUSABLE:.0%}",
        action=f"Repair or remove them; the first is {left_out[0].name}: {left_out[0].message}",
    )
