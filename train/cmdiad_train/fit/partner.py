"""Pairs of two image sensors: images of a second sensor that only the training reads, one for each training sample."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

from cmdiad_runtime.errors import InputError, RunError
from cmdiad_runtime.modalities import folders_of
from cmdiad_runtime.names import ViewName
from cmdiad_runtime.preprocess.prepare import Prepared, check_present, part_geometry
from cmdiad_runtime.preprocess.settings import Preprocessing
from cmdiad_runtime.preprocess.views.masking import masked
from cmdiad_runtime.preprocess.views.part import PartView
from cmdiad_runtime.preprocess.views.strategy import check_contrast
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import Category, LeftOut, SampleFiles, data_colour
from cmdiad_train.datasets.identical import refusal_of_copies
from cmdiad_train.datasets.left_out import MOST_UNUSABLE
from cmdiad_train.datasets.pairs import partner_images
from cmdiad_train.detectors.family import Family, FitContext
from cmdiad_train.fit.preparing import find_part
from cmdiad_train.fit.samples import KeptFiles, SampleProvider
from cmdiad_train.fit.screening import accept, read_usable, screen
from cmdiad_train.fit.splits import Splits
from cmdiad_train.fit.views import ChosenView, choose_view
from cmdiad_train.recipe import Recipe

_MOST_STRETCH = 0.01
"""Largest relative difference of two aspect ratios that a place of the view does not show."""


def pair_samples(splits: Splits, category: Category, partner: str | None) -> Splits:
    """Return the splits with the second image of each training sample. Samples without one are left out.

    Args:
        splits: Samples of a training.
        category: Category of the data set.
        partner: Name of the second image, or None for a training without pairs.

    Raises:
        RunError: There are no such images.
    """
    if partner is None:
        return splits
    images, incomplete = partner_images(category, partner)
    if not images:
        folders = " or ".join(folders_of("rgb", partner))
        raise RunError(
            category.folder,
            found=f"no {partner} images of the training samples",
            expected=f"a folder {folders} with an image for each training sample, of the same name",
            action="Add these images, or leave out --partner",
        )

    def missing(files: SampleFiles) -> RunError:
        problem = incomplete.get(files.name)
        return problem or RunError(
            files.rgb or category.folder,
            found=f"no {partner} image of this sample",
            expected=f"a pair of {category.image} and {partner} with the same name",
            action="Add the missing file or remove its partner",
        )

    alone = [files for files in splits.train if files.name not in images]
    return replace(
        splits,
        train=[files for files in splits.train if files.name in images],
        partners={files: images[files.name] for files in splits.train if files.name in images},
        left_out=(*splits.left_out, *(LeftOut.because(files.name, "train", missing(files)) for files in alone)),
    )


class PartnerImages:
    """Images of the second sensor of a training, each read once and prepared once.

    Args:
        name: Name of the image.
        recipe: Recipe of the detector.
        family: Family of the recipe.
        splits: Samples of the training.
        folder: Folder for what does not fit in memory.

    Attributes:
        registered: True if a place of the part lies at the same place of both images of a pair. In the view of the
            part the images are then cut out with the pose of the part in the images of inspection.
        sensor: Preprocessing in the view of the sensor, with the range of the grey values of these images.
        samples: Source of the images.
    """

    def __init__(self, name: str, recipe: Recipe, family: Family, splits: Splits, folder: Path) -> None:
        self.name, self.registered, self._recipe = name, family.registered(recipe), recipe
        colour = data_colour([splits.partners[files] for files in splits.train])
        self.sensor = replace(family.preprocessing(recipe, colour, "rgb"), image_modality=name)
        self.samples = SampleProvider(folder)

    def choose_view(
        self, splits: Splits, main: ChosenView, category: Category, reporter: Reporter
    ) -> tuple[Splits, Preprocessing, str]:
        """Choose how the images are seen: in the same kind of view as those of inspection.

        Images of inspection alone decide about the view of registered images.

        Args:
            splits: Samples of the training.
            main: View of inspection.
            category: Category of the data set, for messages.
            reporter: Receiver of progress and lines.

        Returns:
            Splits without samples whose second image cannot be used, preprocessing of the images, and the reason if
            they cannot be seen in the view of inspection but inspection can be in that of the sensor, or "".

        Raises:
            RunError: The recipe requires the view of the part, which is not found in too many images.
        """
        if main.view == "sensor" or self.registered:
            return splits, self.sensor, ""

        def read_one(files: SampleFiles) -> InputError | None:
            return read_usable(self.samples, splits.partners[files], self.sensor.colour)

        read = screen(splits, category, (f"read {self.name} images", read_one), reporter, splits.train)
        view: ViewName = main.view
        if self._recipe.view != "auto":
            read = self._with_part(read, category, view, reporter)
        images = [KeptFiles(read.partners[files], self.samples) for files in read.train]
        chosen = choose_view(images, (), self._recipe, self.sensor, (view, ""), reporter)
        if chosen.view == view:
            return read, chosen.preprocessing, ""
        return read, self.sensor, chosen.reason

    def following(self, inspection: Preprocessing, own: Preprocessing) -> Preprocessing:
        """Return the preprocessing of the images: their own, or that of inspection if they are cut out like those.

        Args:
            inspection: Preprocessing of inspection.
            own: Preprocessing that `choose_view` returned.
        """
        if not self._follow(inspection):
            return own
        return replace(inspection, colour=own.colour, image_modality=self.name)

    def _follow(self, inspection: Preprocessing) -> bool:
        """Return True if the images are cut out with the pose of the part in the images of inspection."""
        return self.registered and inspection.view == "part"

    def prepare(
        self,
        splits: Splits,
        seen: tuple[Preprocessing, Preprocessing],
        main: SampleProvider,
        category: Category,
        reporter: Reporter,
    ) -> Splits:
        """Prepare each image once, and leave out the samples whose second image cannot be used.

        Args:
            splits: Samples of the training.
            seen: Preprocessing of inspection, and of the second images.
            main: Source of the samples of inspection.
            category: Category of the data set, for messages.
            reporter: Receiver of progress and lines.

        Raises:
            RunError: Too many samples are left out, too few remain, or all second images are copies of one image.
        """
        inspection, own = seen
        mains = {image: files for files, image in splits.partners.items()}

        def cut_out(image: SampleFiles, sample: Sample, own: Preprocessing) -> tuple[Prepared, ...]:
            return (cut_out_like(mains[image].read(inspection.colour), sample, own),)

        self.samples.prepare_with(lambda _: own, own, (), *([cut_out] if self._follow(inspection) else []))

        def prepare(files: SampleFiles) -> InputError | None:
            image = splits.partners[files]
            if error := self.samples.try_prepare(image):
                return error
            shown, other = main.conditions(files, inspection), self.samples.conditions(image, own)
            if shown.content == other.content:
                return _same_picture(image, files)
            sizes = shown.size, other.size
            by_place = own.view == "sensor" or self.registered
            return _other_aspect(image, sizes, self.registered) if by_place and not _same_aspect(*sizes) else None

        screened = screen(splits, category, (f"prepare {self.name} images", prepare), reporter, splits.train)
        contents = [self.samples.conditions(screened.partners[files], own).content for files in screened.train]
        action = f"Record the {self.name} image of each part, or leave out --partner"
        if refusal := refusal_of_copies(f"{self.name} images", contents, action=action):
            raise refusal
        return screened

    def context(self, main: FitContext, splits: Splits, own: Preprocessing) -> FitContext:
        """Return a training as the second sensor sees it."""
        images = [splits.partners[files] for files in splits.train]
        poses = dict(zip(images, splits.train, strict=True)) if self._follow(main.preprocessing) else {}
        return replace(main, preprocessing=own, train=images, held_out=(), samples=self.samples, poses=poses)

    def _with_part(self, splits: Splits, category: Category, view: ViewName, reporter: Reporter) -> Splits:
        """Return the splits without samples in whose second image the view finds no part."""
        errors = {
            files: error
            for files in splits.train
            if (error := find_part(self.samples.read(splits.partners[files], self.sensor.colour), view, self.sensor))
        }
        if len(errors) > MOST_UNUSABLE * len(splits.train):
            first = next(iter(errors.values()))
            raise RunError(
                first.subject,
                found=f"no part in {len(errors)} of {len(splits.train)} {self.name} images ({first.found})",
                expected=f"{first.expected} in both images, because --view {view} pairs places of the part",
                action="If the two sensors are registered (a place of the part lies at the same place of both "
                "pictures), add --registered, which finds the part in the inspected image alone",
            )
        return accept(splits.without(errors), category, splits, reporter)


def cut_out_like(main: Sample, image: Sample, preprocessing: Preprocessing) -> Prepared:
    """Return the network input of a registered image, cut out with pose and outline of the part in another image.

    Args:
        main: Sample with the image in which the part is found.
        image: Sample with the registered image, which is scaled to the pixels of the other one.
        preprocessing: Preprocessing of the registered image, in the view of the part as learnt from the other images.

    Raises:
        InputError: An image cannot be used, or the part is not found.
    """
    check_present(image, preprocessing)
    assert main.rgb is not None and image.rgb is not None and preprocessing.part is not None
    check_contrast(image.rgb, image.name)
    height, width = main.rgb.shape[:2]
    shown = np.asarray(Image.fromarray(image.rgb).resize((width, height), Image.Resampling.BICUBIC))
    view = PartView(preprocessing, preprocessing.part, "rgb")
    return masked(view.prepare(main, part_geometry(main, preprocessing), shown), preprocessing.ignored)


def pairs_text(main: str, partner: str, view: ViewName, registered: bool) -> str:
    """Return in a line for people how the images of two sensors are paired."""
    if view == "sensor":
        must = "which are" if registered else "so the two must be"
        return (
            f"Pairs: a place of a picture in {main} is paired with the same place in {partner}, {must} registered "
            "(--view sensor)."
        )
    text = (
        f"Pairs: a place of the part in {main} is paired with the same place of the part in {partner} (--view {view})"
    )
    return f"{text}, which is cut out like {main} (--registered)." if registered else f"{text}."


def _same_aspect(one: tuple[int, int], other: tuple[int, int]) -> bool:
    across, down = one[0] * other[1], one[1] * other[0]
    return abs(across - down) <= _MOST_STRETCH * max(across, down)


def _same_picture(image: SampleFiles, main: SampleFiles) -> InputError:
    return InputError(
        str(image.rgb),
        found=f"the pixels of {main.rgb}, which is inspected",
        expected="the image of another sensor, because training predicts its features from the inspected image",
        action="Replace the copy or the link by the image of the second sensor, or leave out --partner",
        reason="unsupported",
    )


def _other_aspect(files: SampleFiles, sizes: tuple[tuple[int, int], tuple[int, int]], registered: bool) -> InputError:
    main, own = sizes
    because, other = "--view sensor pairs places of the picture", "--view part, which pairs places of the part"
    if registered:
        because, other = "--registered pairs places of the picture", "--view part and without --registered"
    return InputError(
        str(files.rgb),
        found=f"{own[0]}×{own[1]} pixels, next to {main[0]}×{main[1]} of the image that is inspected",
        expected=f"the same aspect ratio, as of registered images, because {because}",
        action=f"Cut one of them to what both sensors see, or train with {other}",
        reason="size-mismatch",
    )
