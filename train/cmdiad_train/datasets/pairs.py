"""Pairs of images of two sensors, which `cmdiad-train --partner` reads: training samples and their second image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from cmdiad_runtime.errors import RunError
from cmdiad_runtime.modalities import IMAGE_MODALITIES, folders_of
from cmdiad_train.datasets.category import Category
from cmdiad_train.datasets.identical import shortened
from cmdiad_train.datasets.sample_files import SampleFiles


def partner_images(category: Category, partner: str) -> tuple[dict[str, SampleFiles], dict[str, RunError]]:
    """Return the second images of the training samples, and the errors of those with several files, by sample name.

    Images belong to the same sample if their names are equal. They must lie in a folder of the partner's name, because
    images in other folders may be those of inspection.

    Args:
        category: Category of the data set.
        partner: Name of the second image.
    """
    folders = folders_of("rgb", partner)
    listing = replace(category, image=partner).listing("train", ("rgb",))
    images = {files.name: files for files in listing.samples if files.rgb and files.rgb.parent.name in folders}
    return images, listing.incomplete


def pair_notes(category: Category) -> Iterator[str]:
    """Yield the number of pairs with each image modality that precedes the category's own in `IMAGE_MODALITIES`.

    Each pair of modalities of a data set is noted once. A note names the first samples that lack one of the two images.
    """
    image = category.image
    for other in category.images:
        if IMAGE_MODALITIES.index(other) >= IMAGE_MODALITIES.index(image):
            continue
        seconds, _ = partner_images(category, image)
        firsts = {files.name for files in replace(category, image=other).listing("train", ("rgb",)).samples}
        both, either = firsts & seconds.keys(), firsts | seconds.keys()
        missing = [
            f"; without {name}: {shortened(sorted(names))}"
            for name, names in ((image, firsts - seconds.keys()), (other, seconds.keys() - firsts))
            if names
        ]
        yield f"{len(both)} of {len(either)} training samples have both {other} and {image}{''.join(missing)}"
