"""A category of a data set: one kind of part, with its samples by split."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.modalities import IMAGE_MODALITIES, folders_of, name_of
from cmdiad_runtime.names import MODALITIES, Modality
from cmdiad_train.datasets.layouts import LAYOUTS, OWN_FOLDER
from cmdiad_train.datasets.layouts.listing import Listing
from cmdiad_train.datasets.prepared_note import read_prepared
from cmdiad_train.datasets.sample_files import SampleFiles

Split = Literal["train", "validation", "test"]


@dataclass(frozen=True)
class Category:
    """One kind of part of a data set.

    Attributes:
        root: Folder of the data set.
        name: Name of the kind of part.
        layout: Name of the layout, a key of `LAYOUTS`.
        folder: Folder of the category's samples: `root` itself or a folder in it.
        image: Name of the image modality that `rgb` stands for (`cmdiad_runtime.modalities`).
    """

    root: Path
    name: str
    layout: str
    folder: Path
    image: str = "rgb"

    def require_outside(self, place: Path, expected: str) -> None:
        """Raise OutputError for a folder to write that lies among the samples: its pictures could be taken for samples.

        A user's own folder is recognised by everything in it, so no place in the whole data set is outside.

        Args:
            place: Folder to write, which need not exist.
            expected: Expected folder, for the message.
        """
        samples = self.root if self.layout == OWN_FOLDER else self.folder
        if place.resolve().is_relative_to(samples.resolve()):
            raise OutputError(
                place,
                found=f"a folder inside the data set {samples}",
                expected=expected,
                action=f"Choose another --out, for example {Path('..') / place.name}",
            )

    def split(self, split: Split, modalities: Iterable[Modality]) -> list[SampleFiles]:
        """Return the samples of a split, sorted by name; an absent split has none.

        Args:
            split: Split to list.
            modalities: Modalities that every sample must have.

        Raises:
            RunError: The training samples never have one of the modalities, a single sample lacks one, or a defect
                has several masks.
        """
        listing = self.usable(split, modalities)
        if listing.errors:
            raise listing.errors[0]
        return listing.samples

    def usable(self, split: Split, modalities: Iterable[Modality]) -> Listing:
        """Return the complete samples of a split, with the errors of the others in `incomplete`.

        Args:
            split: Split to list.
            modalities: Modalities that every sample must have.

        Raises:
            RunError: The training samples never have one of the modalities, or a folder is in the wrong place.
        """
        required = tuple(modalities)
        if split == "train":
            self._check_offered(required)
        listing = self.listing(split, required)
        if listing.problems:
            raise listing.problems[0]
        return listing

    def listing(self, split: Split, modalities: Iterable[Modality]) -> Listing:
        """Return the complete samples of a split, and the errors of the others."""
        return LAYOUTS[self.layout].list_split(self.folder, split, tuple(modalities), self.image)

    @property
    def notes(self) -> list[str]:
        """Return lines for people about files that are used in another way than their place suggests, or not at all."""
        return self.listing("train", ()).notes

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Return the modalities of the training samples."""
        return self.modalities_of("train")

    def modalities_of(self, split: Split) -> tuple[Modality, ...]:
        """Return the modalities that at least one sample of a split has."""
        return tuple(m for m in MODALITIES if any(c[m] for c in self.listing(split, (m,)).counts.values()))

    @property
    def images(self) -> tuple[str, ...]:
        """Return the names of the image modalities of the training samples.

        Images that lie in no folder of a modality are those of a camera.
        """
        firsts = {name: replace(self, image=name)._first_image for name in IMAGE_MODALITIES}
        return tuple(
            name
            for name, first in firsts.items()
            if first is not None and (name == "rgb" or first.parent.name in folders_of("rgb", name))
        )

    def named(self, modalities: Iterable[Modality]) -> list[str]:
        """Return the names of modalities by kind, with that of the image in the place of `rgb`."""
        return [name_of(modality, self.image) for modality in modalities]

    @property
    def prepared(self) -> bool:
        """Return True if `cmdiad-data prepare` has removed the background from the clouds already."""
        return read_prepared(self.folder.resolve().parent) is not None

    @property
    def _first_image(self) -> Path | None:
        samples = self.listing("train", ("rgb",)).samples
        return samples[0].rgb if samples else None

    def _check_offered(self, required: tuple[Modality, ...]) -> None:
        missing = self.named(modality for modality in required if modality not in self.modalities)
        offered = [*self.images, *(["xyz"] if "xyz" in self.modalities else [])] if missing else []
        if offered:
            raise RunError(
                self.folder,
                found=f"training samples with {' and '.join(offered)} alone",
                expected=f"{' and '.join(self.named(required))}",
                action=f"Add {missing[0]} files, or train a detector that needs {offered[0]} alone",
            )
