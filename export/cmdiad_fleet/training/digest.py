"""SHA-256 digest of data, recipe, weights and version. With the same digest, a finished detector is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from cmdiad_fleet.training.job import Job
from cmdiad_runtime.readers.depth import intrinsics_places
from cmdiad_runtime.support.files import sha256_of


def digest_of(job: Job) -> str:
    """Return the digest of the run of a job as 64 hexadecimal digits.

    The folder of the data set does not count, only names, sizes and hashes of the files that the training reads.

    Raises:
        CmdiadError: The data set cannot be used.
        OSError: A file cannot be read.
    """
    content = {
        "version": version("cmdiad"),
        "recipes": job.resolved.recipes,
        "train": job.resolved.arguments,
        "trial": job.trial,
        "weights": [sha256_of(file) for file in _weights(job.resolved.recipes) if file.is_file()],
        "data": [[*entry] for entry in _data(job)],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _weights(recipe: Mapping[str, Any]) -> Iterator[Path]:
    """Yield the weights files of a recipe in JSON. A file may have other content later under the same name."""
    from cmdiad_train.extractors.shipped import weights_file

    for name, value in recipe.items():
        if isinstance(value, Mapping):
            yield from _weights(value)
        elif name == "weights" and isinstance(value, str) and (file := weights_file(value)) is not None:
            yield file


def _data(job: Job) -> Iterator[tuple[object, ...]]:
    """Yield one entry for each file of the data set that the training reads."""
    from cmdiad_train.datasets import open_category

    data = job.detector.data
    for category, split, modalities, image in job.resolved.sources:
        if split == "test" and job.trial:
            continue
        opened = open_category(data, category or job.detector.category, image)
        listing = opened.listing(split, modalities)  # type: ignore[arg-type]
        for name in sorted(listing.incomplete):
            yield category, split, name, "incomplete"
        for files in sorted(listing.samples, key=lambda files: files.name):
            for kind in ("rgb", "xyz", "ground_truth"):
                path: Path | None = getattr(files, kind)
                if path is not None:
                    yield category, split, files.name, files.defect, kind, path.stat().st_size, sha256_of(path)
            for place in filter(Path.is_file, intrinsics_places(files.xyz) if files.xyz is not None else ()):
                yield category, split, files.name, "intrinsics", place.name, sha256_of(place)
