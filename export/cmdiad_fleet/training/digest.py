"""The digest of everything that a run is made of: data, recipe and version."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from cmdiad_fleet.training.job import Job
from cmdiad_runtime.readers.depth import intrinsics_places
from cmdiad_runtime.support.files import sha256_of


def digest_of(job: Job) -> str:
    """Return the digest of the run of a job as 64 hexadecimal digits.

    Paths of the data set do not count, only names, sizes and hashes of the files that the training reads.

    Raises:
        CmdiadError: The data set cannot be used.
        OSError: A file cannot be read.
    """
    content = {
        "version": version("cmdiad"),
        "recipes": job.resolved.recipes,
        "train": job.resolved.arguments,
        "trial": job.trial,
        "data": [[*entry] for entry in _data(job)],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _data(job: Job) -> Iterator[tuple[object, ...]]:
    """Yield one entry for each file that the training reads."""
    from cmdiad_train.datasets import open_category

    data = job.detector.data
    for category, split, modalities in job.resolved.sources:
        if split == "test" and job.trial:
            continue
        listing = open_category(data, category or job.detector.category).listing(split, modalities)  # type: ignore[arg-type]
        for name in sorted(listing.incomplete):
            yield category, split, name, "incomplete"
        for files in sorted(listing.samples, key=lambda files: files.name):
            for kind in ("rgb", "xyz", "ground_truth"):
                path: Path | None = getattr(files, kind)
                if path is not None:
                    yield category, split, files.name, files.defect, kind, path.stat().st_size, sha256_of(path)
            for place in filter(Path.is_file, intrinsics_places(files.xyz) if files.xyz is not None else ()):
                yield category, split, files.name, "intrinsics", place.name, sha256_of(place)
