"""What extractors are trained on: good samples of the user's own data sets, or generated ones, as network inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from cmdiad_runtime.errors import InputError, RunError
from cmdiad_runtime.preprocess.prepare import prepare
from cmdiad_runtime.readers.image import Colour
from cmdiad_runtime.sample import Modality, Sample
from cmdiad_runtime.support.files import sha256_of
from cmdiad_train.datasets import SampleFiles, data_colour, list_categories, open_category
from cmdiad_train.detectors.bank.detector import as_tensors
from cmdiad_train.fit.feature_cache import FeatureCache
from cmdiad_train.fit.fit import make_preprocessing
from cmdiad_train.pretraining.procedural_images import DRAWING, draw
from cmdiad_train.recipe import Recipe, RgbExtractor, SurfaceExtractor, XyzExtractor

View = Literal["rgb", "normals", "depth", "points"]
"""What of a sample an extractor looks at."""
DRAWN_SIZE = 128  # pixels along each side
GENERATED_SIZE = 320  # pixels along each side, as `cmdiad-data synthesize` makes them
LEAST_SAMPLES = 2

Report = Callable[[str, int, int], None]
"""Called as `report(step, done, total)`."""


class Readable(Protocol):
    """What samples of a data set and generated ones have in common."""

    @property
    def name(self) -> str: ...  # noqa: D102

    def read(self, colour: Colour = "rgb") -> Sample: ...  # noqa: D102


@dataclass(frozen=True)
class GeneratedSample:
    """A good synthetic sample, rendered when it is read.

    Attributes:
        category: object kind, one of `cmdiad_train.synthesis.CATEGORIES`.
        index: number within its kind.
        seed: of the generator.
    """

    category: str
    index: int
    seed: int

    @property
    def name(self) -> str:
        """Kind and number, as `generated/gear/003`."""
        return f"generated/{self.category}/{self.index:03d}"

    def read(self, colour: Colour = "rgb") -> Sample:
        """Render the sample; `colour` is that of all data, and rendered images always have it."""
        from cmdiad_train.synthesis import render_sample

        made = render_sample(self.category, split="train", index=self.index, size=GENERATED_SIZE, seed=self.seed)
        return Sample(self.name, rgb=made.rgb, xyz=made.xyz)


@dataclass(frozen=True)
class DrawnImage:
    """An image of `procedural_images`: large enough for the windows that extractors are trained on.

    Attributes:
        index: its number.
        seed: of all drawn images.
    """

    index: int
    seed: int

    @property
    def name(self) -> str:
        """Its number, as `drawn/00003`."""
        return f"drawn/{self.index:05d}"

    def image(self, view: View) -> Tensor:
        """The network input `[128, 128, 3]`, 0-255: uint8 for "rgb", float32 for "normals" and "depth"."""
        return torch.from_numpy(getattr(draw(DRAWN_SIZE, seed=self.seed, index=self.index), view))


@dataclass(frozen=True)
class Source:
    """Which samples to train on.

    Attributes:
        data: data sets, in the layouts of `cmdiad_train.datasets`; their good training samples are taken.
        categories: of these data sets; empty takes all.
        generate: number of synthetic good samples, spread over the object kinds of `cmdiad_train.synthesis`.
        seed: of the generator.
        draw: number of drawn images, in place of all others; not for points.
    """

    data: tuple[Path, ...] = ()
    categories: tuple[str, ...] = ()
    generate: int = 0
    seed: int = 0
    draw: int = 0

    @property
    def words(self) -> str:
        """What is trained on, for the record: names, no paths."""
        parts = [
            f"{path.resolve().name}" + (f" ({', '.join(self.categories)})" * bool(self.categories))
            for path in self.data
        ]
        if self.generate:
            parts.append(f"{self.generate} generated samples (seed {self.seed})")
        if self.draw:
            parts.append(f"{self.draw} drawn images (seed {self.seed})")
        return " and ".join(parts)


Trainable = Readable | DrawnImage
"""What an extractor can be trained on."""


def collect(source: Source, view: View) -> tuple[list[Trainable], Colour]:
    """The samples of a source that have what a view needs, and the kind of their images.

    Raises:
        RunError: no data set or category, too few samples, or grey images beside generated ones.
    """
    modality: Modality = "rgb" if view == "rgb" else "xyz"
    found = [
        files
        for root in source.data
        for name in source.categories or list_categories(root)
        for files in open_category(root, name).split("train", (modality,))
    ]
    colour = data_colour(found)
    drawn = [DrawnImage(i, source.seed) for i in range(source.draw)]
    samples: list[Trainable] = [*found, *_generated(source), *drawn]
    if colour == "grey" and source.generate and view == "rgb":
        raise RunError(
            source.data[0],
            found="grey images beside generated ones in colour",
            expected="one kind",
            action="leave out --generate",
        )
    if len(samples) < LEAST_SAMPLES:
        raise RunError(
            " ".join(map(str, source.data)) or "--generate",
            found=f"{len(samples)} samples to train on",
            expected=f"at least {LEAST_SAMPLES}",
            action="give a data set with good training samples, or --generate 64",
        )
    return samples, colour


def _generated(source: Source) -> list[GeneratedSample]:
    from cmdiad_train.synthesis import CATEGORIES

    kinds = sorted(CATEGORIES)
    return [GeneratedSample(kinds[i % len(kinds)], i // len(kinds), source.seed) for i in range(source.generate)]


def content_digest(sample: Trainable, view: View) -> str:
    """What tells a sample from any other of any data set: the hash of its file, or how it is generated."""
    if isinstance(sample, DrawnImage):
        return f"{DRAWING} {sample.name} {sample.seed}"
    if isinstance(sample, GeneratedSample):
        from cmdiad_train.synthesis.scene import GENERATOR

        return f"{GENERATOR} {sample.name} {GENERATED_SIZE} {sample.seed}"
    assert isinstance(sample, SampleFiles)
    file = sample.rgb if view == "rgb" else sample.xyz
    assert file is not None
    try:
        return sha256_of(file)
    except OSError as error:
        raise InputError(
            file, found=str(error.strerror).lower(), expected="a readable file", action="check it and its permissions"
        ) from error


class Inputs:
    """Network inputs of samples, prepared once and then read from disk.

    Args:
        samples: to prepare.
        colour: of their images.
        view: what is looked at.
        recipe: its size, and for points its groups, are those prepared.
        folder: where they are kept, beside those of other samples and settings.
        budget: bytes that they may take.

    Attributes:
        digest: of all that they depend on.
    """

    def __init__(
        self, samples: Sequence[Trainable], colour: Colour, view: View, recipe: Recipe, folder: Path, budget: int
    ) -> None:
        self.samples, self.view = samples, view
        modality: Modality = "rgb" if view == "rgb" else "xyz"
        if view in ("normals", "depth"):
            recipe = replace(recipe, xyz=SurfaceExtractor(view))
        self.preprocessing = make_preprocessing(replace(recipe, modality=modality), colour, modality)
        told = [self.preprocessing.to_json(), [content_digest(sample, view) for sample in samples]]
        self.digest = hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()
        self.cache = FeatureCache(folder / self.digest[:16], budget=budget)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """For points `centers` `[G, 3]` and `groups` `[G, M, 3]`, metres; else `image` `[size, size, 3]`, 0-255."""
        name = f"{index:05d}"
        return self.cache.get(self.view, name, len(self), lambda: self._prepare(self.samples[index]))

    def prepare_all(self, report: Report) -> None:
        """Prepare what is not on disk yet; raises InputError for a sample that cannot be used."""
        for index in range(len(self)):
            self[index]
            report("prepare samples", index + 1, len(self))

    def _prepare(self, sample: Trainable) -> dict[str, Tensor]:
        if isinstance(sample, DrawnImage):
            return {"image": sample.image(self.view)}
        inputs = as_tensors(prepare(sample.read(self.preprocessing.colour), self.preprocessing).inputs)
        if self.view == "points":
            return {name: inputs[name][0].clone() for name in ("centers", "groups")}
        return {"image": inputs["rgb" if self.view == "rgb" else "surface"][0]}


def recipe_for(size: int, extractor: RgbExtractor | XyzExtractor) -> Recipe:
    """A recipe that has this extractor, for the preprocessing that comes with it."""
    if isinstance(extractor, XyzExtractor):
        return Recipe(modality="xyz", xyz=extractor, size=size)
    return Recipe(modality="rgb", rgb=extractor, size=size)
