"""The samples that extractors are trained on: good samples of data sets, or generated ones, as network inputs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import Tensor

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.errors import InputError, RunError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.names import Modality
from cmdiad_runtime.preprocess.prepare import Preprocessing, prepare
from cmdiad_runtime.sample import Sample
from cmdiad_runtime.support.files import sha256_of
from cmdiad_runtime.support.reporter import Reporter
from cmdiad_train.datasets import SampleFiles, data_colour, list_categories, open_category
from cmdiad_train.datasets.left_out import MOST_UNUSABLE, LeftOut, describe
from cmdiad_train.detectors.family import as_tensors
from cmdiad_train.pretraining.feature_cache import FeatureCache
from cmdiad_train.recipe import XyzExtractor
from cmdiad_train.synthesis.procedural_images import DRAWING, draw

ImageKind = Literal["rgb", "normals", "depth"]
"""Kind of image that an image extractor takes: the photograph, surface normals as colours, or depth as grey."""
InputKind = Literal["rgb", "normals", "depth", "points"]
"""Kind of network input: an image, or groups of points."""
DRAWN_SIZE = 128  # pixels along each side
GENERATED_SIZE = 320  # pixels along each side, as `cmdiad-data synthesize` makes them
LEAST_SAMPLES = 2


class Readable(Protocol):
    """A sample of a data set, or a generated one."""

    @property
    def name(self) -> str:
        """Return the name of the sample."""

    def read(self, colour: Colour = "rgb") -> Sample:
        """Return the sample, with its image in the given kind of colour."""


@dataclass(frozen=True)
class GeneratedSample:
    """A good synthetic sample, rendered when it is read.

    Attributes:
        category: Kind of object, one of `cmdiad_train.synthesis.CATEGORIES`.
        index: Number of the sample within its kind.
        seed: Seed of the generator.
    """

    category: str
    index: int
    seed: int

    @property
    def name(self) -> str:
        """Return kind and number, for example `generated/gear/003`."""
        return f"generated/{self.category}/{self.index:03d}"

    def read(self, colour: Colour = "rgb") -> Sample:
        """Render the sample. Its image is always RGB, and `colour` is "rgb" wherever generated samples are used."""
        from cmdiad_train.synthesis import render_sample

        made = render_sample(self.category, split="train", index=self.index, size=GENERATED_SIZE, seed=self.seed)
        return Sample(self.name, rgb=made.rgb, xyz=made.xyz)


@dataclass(frozen=True)
class DrawnImage:
    """A procedurally generated image of `procedural_images`, large enough for the training windows.

    Attributes:
        index: Number of the image.
        seed: Seed of all drawn images.
    """

    index: int
    seed: int

    @property
    def name(self) -> str:
        """Return the number, for example `drawn/00003`."""
        return f"drawn/{self.index:05d}"

    def image(self, kind: InputKind) -> Tensor:
        """Return the network input `[128, 128, 3]`, 0-255: uint8 for "rgb", float32 for "normals" and "depth"."""
        return torch.from_numpy(getattr(draw(DRAWN_SIZE, seed=self.seed, index=self.index), kind))


@dataclass(frozen=True)
class Source:
    """The choice of samples to train on.

    Attributes:
        data: Data sets in the layouts of `cmdiad_train.datasets`; their good training samples are used.
        categories: Categories of these data sets; empty uses all.
        generate: Number of synthetic good samples, spread over the object kinds of `cmdiad_train.synthesis`.
        seed: Seed of the generator.
        draw: Number of procedurally generated images; they replace all other samples, and are not for points.
    """

    data: tuple[Path, ...] = ()
    categories: tuple[str, ...] = ()
    generate: int = 0
    seed: int = 0
    draw: int = 0

    @property
    def description(self) -> str:
        """Return the samples as text for the record: names without paths."""
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
"""A sample that an extractor can be trained on."""


def collect(source: Source, kind: InputKind) -> tuple[list[Trainable], Colour]:
    """Return the samples of a source that have the modality of an input kind, and the colour of their images.

    Raises:
        RunError: There is no such data set or category, there are too few samples, or grey images are combined with
            generated ones in colour.
    """
    modality: Modality = "rgb" if kind == "rgb" else "xyz"
    files = [
        sample
        for root in source.data
        for name in source.categories or list_categories(root)
        for sample in open_category(root, name).split("train", (modality,))
    ]
    colour = data_colour(files)
    drawn = [DrawnImage(i, source.seed) for i in range(source.draw)]
    samples: list[Trainable] = [*files, *_generated(source), *drawn]
    if colour == "grey" and source.generate and kind == "rgb":
        raise RunError(
            source.data[0],
            found="grey images, which cannot be combined with generated images in colour",
            action="leave out --generate",
        )
    if len(samples) < LEAST_SAMPLES:
        raise RunError(
            " ".join(map(str, source.data)) or "--generate",
            found=f"{len(samples)} samples to train on",
            expected=f"at least {LEAST_SAMPLES}",
            action="pass a data set with good training samples, or --generate 64",
        )
    return samples, colour


def _generated(source: Source) -> list[GeneratedSample]:
    from cmdiad_train.synthesis import CATEGORIES

    kinds = sorted(CATEGORIES)
    return [GeneratedSample(kinds[i % len(kinds)], i // len(kinds), source.seed) for i in range(source.generate)]


def content_digest(sample: Trainable, kind: InputKind) -> str:
    """Return a text that identifies the content of a sample: the hash of its file, or how it is generated.

    A file that cannot be read has the text "unreadable"; `Inputs.prepare_all` leaves such a sample out.
    """
    if isinstance(sample, DrawnImage):
        return f"{DRAWING} {sample.name} {sample.seed}"
    if isinstance(sample, GeneratedSample):
        from cmdiad_train.synthesis.scene import GENERATOR

        return f"{GENERATOR} {sample.name} {GENERATED_SIZE} {sample.seed}"
    assert isinstance(sample, SampleFiles)
    file = sample.rgb if kind == "rgb" else sample.xyz
    assert file is not None
    try:
        return sha256_of(file)
    except OSError:
        return "unreadable"


@dataclass(frozen=True)
class InputShape:
    """The network input that an extractor takes.

    Attributes:
        kind: Kind of network input.
        size: Side in pixels to which images and clouds are resized.
        points: Extractor of points, whose groups are prepared; None for images.
    """

    kind: InputKind
    size: int
    points: XyzExtractor | None = None

    @property
    def modality(self) -> Modality:
        """Return the modality of the samples."""
        return "rgb" if self.kind == "rgb" else "xyz"

    def preprocessing(self, colour: Colour) -> Preprocessing:
        """Return the preprocessing of a sample, which is that of a detector in the view of the sensor."""
        points = self.points
        return Preprocessing(
            modality=self.modality,
            size=self.size,
            colour=colour,
            groups=points.groups if points else 0,
            group_size=points.group_size if points else 0,
            grid=points.grid if points else 0,
            xyz_feed="normals" if self.kind == "rgb" else self.kind,
        )


class Inputs:
    """Network inputs of samples, prepared once and then read from disk. Call `prepare_all` before the first use.

    Args:
        samples: Samples to prepare.
        colour: Colour of their images.
        shape: Network input.
        folder: Folder for the prepared inputs; other samples and settings may share it.
        budget: Bytes that the prepared inputs may take.

    Attributes:
        digest: Hash of everything that the inputs depend on.
    """

    def __init__(
        self, samples: Sequence[Trainable], colour: Colour, shape: InputShape, folder: Path, budget: int
    ) -> None:
        self.samples, self.kind = samples, shape.kind
        self.preprocessing = shape.preprocessing(colour)
        content = [self.preprocessing.to_json(), [content_digest(sample, self.kind) for sample in samples]]
        self.digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
        self.cache = FeatureCache(folder / self.digest[:16], budget=budget)
        self._usable = list(range(len(samples)))  # positions of the samples that can be used

    def __len__(self) -> int:
        return len(self._usable)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        """Return the network input of a sample that can be used.

        Returns:
            For points `centers` `[G, 3]` and `groups` `[G, M, 3]`, float32, metres. Otherwise `image`
            `[size, size, 3]`, 0-255, uint8 for "rgb" and float32 for "normals" and "depth".

        Raises:
            InputError: The sample cannot be used.
        """
        return self._get(self._usable[index])

    def prepare_all(self, reporter: Reporter) -> None:
        """Prepare the samples that are not on disk yet, and leave out those that cannot be used.

        Raises:
            RunError: Too few samples remain, or too many are left out.
        """
        usable: list[int] = []
        left_out: list[LeftOut] = []
        for position, sample in enumerate(self.samples):
            try:
                self._get(position)
                usable.append(position)
            except InputError as error:
                left_out.append(LeftOut.because(sample.name, "train", error))
            reporter.step("prepare samples", position + 1, len(self.samples))
        self._usable = usable
        for line in describe(left_out, len(self.samples), "samples", problem="cannot be used and are left out"):
            reporter.say(line)
        if len(self) < LEAST_SAMPLES or len(left_out) > MOST_UNUSABLE * len(self.samples):
            raise RunError(
                "",
                found=f"{len(left_out)} of {len(self.samples)} samples cannot be used",
                action="run cmdiad-data check, and repair or remove these samples",
            )

    def _get(self, position: int) -> dict[str, Tensor]:
        make = partial(self._prepare, self.samples[position])
        return self.cache.get(self.kind, f"{position:05d}", len(self.samples), make)

    def _prepare(self, sample: Trainable) -> dict[str, Tensor]:
        inputs = guarded(sample.name, partial(self._prepared, sample))
        if isinstance(inputs, InputError):
            raise inputs
        return inputs

    def _prepared(self, sample: Trainable) -> dict[str, Tensor]:
        if isinstance(sample, DrawnImage):
            return {"image": sample.image(self.kind)}
        inputs = as_tensors(prepare(sample.read(self.preprocessing.colour), self.preprocessing).inputs)
        if self.kind == "points":
            return {name: inputs[name][0].clone() for name in ("centers", "groups")}
        return {"image": inputs["rgb" if self.kind == "rgb" else "surface"][0]}
