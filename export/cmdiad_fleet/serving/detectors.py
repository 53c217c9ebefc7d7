"""Open a bundle, run its self-test, and inspect uploaded files with it."""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

from cmdiad_fleet.serving.upload import Upload
from cmdiad_runtime.bundle.engine_selection import choose_engine, require_self_test
from cmdiad_runtime.bundle.manifest import manifest_hash
from cmdiad_runtime.engines import EngineName
from cmdiad_runtime.errors import BundleError, InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.inspection.inspector import Inspector, open_bundle
from cmdiad_runtime.inspection.result_line import Stored, result_line, station_of
from cmdiad_runtime.readers.worker import TimedReader


class ServedBundle:
    """An open bundle that has passed its self-test in this process; create one with `open`.

    Args:
        inspector: Open inspector.
        reader: Reader of files with a time limit.
    """

    def __init__(self, inspector: Inspector, reader: TimedReader) -> None:
        self._inspector, self._reader = inspector, reader
        self._station = station_of(inspector)

    @staticmethod
    def open(path: Path, digest: str, engine: EngineName, reader: TimedReader) -> ServedBundle:
        """Verify a bundle, load its graph and run its self-test.

        Samples of several lines may follow each other, so equal frames in a row are no sign of a frozen sensor.

        Args:
            path: Folder of the bundle.
            digest: SHA-256 of the manifest that the caller asks for.
            engine: Engine that runs the graph.
            reader: Reader of files with a time limit.

        Raises:
            BundleError: The bundle is damaged, or another one lies in the folder now.
            EngineError: The engine is missing, does not fit, or has not passed the self-test.
        """
        bundle = open_bundle(path)
        if manifest_hash(bundle.manifest) != digest:
            raise BundleError(
                path, found="another bundle than at the start", expected=digest, action="start the service again"
            )
        chosen = choose_engine(bundle, engine, untested=True)
        require_self_test(bundle, chosen)
        return ServedBundle(Inspector(bundle, chosen.engine, frozen_after=0), reader)

    def inspect(self, upload: Upload) -> dict[str, Any]:
        """Inspect uploaded files and return the line of `results.jsonl`; files that cannot be used are NG.

        Raises:
            EngineError: The engine failed.
        """
        with tempfile.TemporaryDirectory(prefix="cmdiad-upload-") as place:
            folder = Path(place)
            files = {field: folder / f"{field}-{name}" for field, (name, _) in upload.files.items()}
            for field, path in files.items():
                path.write_bytes(upload.files[field][1])
            preprocessing = self._inspector.bundle.preprocessing
            rgb, xyz = (files.get(name) if name in preprocessing.modalities else None for name in ("rgb", "xyz"))
            name = ", ".join(name for name, _ in upload.files.values())
            read = partial(self._reader.read_files, name, rgb, xyz, colour=preprocessing.colour)
            start = time.perf_counter()
            sample = guarded(name, read)
            read_ms = (time.perf_counter() - start) * 1e3
        if isinstance(sample, InputError):
            inspection = self._inspector.not_inspected(name, sample)
        else:
            inspection = self._inspector.inspect(sample)
        line = result_line(inspection, Stored(part_id=upload.part_id, read_ms=read_ms), self._station)
        line["message"] = line["message"].replace(f"{folder}/", "")
        return line

    def close(self) -> None:
        """Release the engine. Idempotent."""
        self._inspector.close()

    __del__ = close
    """Ray calls this when another bundle needs the place."""
