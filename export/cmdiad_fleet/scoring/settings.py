"""`ScoreSettings`: the bundle, options and folders that a worker needs in addition to the shards."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cmdiad_runtime.inspection.open_options import OpenOptions


@dataclass(frozen=True, kw_only=True)
class ScoreSettings:
    """Choices of a run, the same for all workers.

    Attributes:
        bundle: Absolute path of the bundle, the same on every machine.
        bundle_sha256: Hash of the bundle's manifest that the run began with.
        options: Choices made when the bundle is opened.
        folder: Absolute path of the folder of results, the same on every machine.
        run: Digest of the run, see `ScoreRecord.digest`.
        pictures: Largest number of pictures of a shard; None for no limit, 0 for none.
        input_timeout_s: Seconds for the files of one sample; 0 for no limit, files are then read in the worker itself.
        batch: True to run several samples at once, by the graph of the bundle for that.
    """

    bundle: Path
    bundle_sha256: str
    options: OpenOptions
    folder: Path
    run: str
    pictures: int | None = 0
    input_timeout_s: float = 60.0
    batch: bool = False
