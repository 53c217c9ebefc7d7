"""The samples of one training, each read once and prepared once, in bounded memory."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load_file, save_file

from cmdiad_runtime.colour import Colour
from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.guarded import guarded
from cmdiad_runtime.preprocess.prepare import Prepared, Preprocessing, prepare_parts
from cmdiad_runtime.sample import Sample
from cmdiad_train.datasets import SampleFiles
from cmdiad_train.fit.conditions import Conditions, conditions_of
from cmdiad_train.fit.tamper import tamper
from cmdiad_train.tensor_files import disk_errors

MEMORY_BYTES = 1 << 29
"""Arrays that samples may keep in memory; further ones are kept on disk."""

Key = tuple[str, ...]
Prepare = Callable[[SampleFiles, Sample, Preprocessing], tuple[Prepared, ...]]
"""Returns the network inputs of each part in a sample, from its files, its content and its preprocessing."""
Content = TypeVar("Content")


class ArrayShelf:
    """Values with arrays inside, such as samples, kept in memory up to a limit and on disk beyond it.

    Only the arrays go to disk. The rest of a value stays in memory, so that a value comes back exactly as it was.

    Args:
        folder: Folder for arrays on disk. Its contents are replaced when the first array is written.
        memory: Bytes of arrays that may stay in memory.
    """

    def __init__(self, folder: Path, *, memory: int = MEMORY_BYTES) -> None:
        self.folder, self.memory = folder, memory
        self._kept: dict[Key, tuple[Any, list[npt.NDArray[Any]] | Path]] = {}
        self._in_memory = 0
        self._written = 0

    def __contains__(self, key: Key) -> bool:
        return key in self._kept

    def put(self, key: Key, value: object) -> None:
        """Keep a value."""
        arrays: list[npt.NDArray[Any]] = []
        rest = _take_arrays(value, arrays)
        size = sum(array.nbytes for array in arrays)
        if self._in_memory + size <= self.memory:
            self._in_memory += size
            self._kept[key] = (rest, arrays)
            return
        if self._written == 0:
            shutil.rmtree(self.folder, ignore_errors=True)  # files of an interrupted training
        self._written += 1
        file = self.folder / f"{self._written}.safetensors"
        with disk_errors(file):
            self.folder.mkdir(parents=True, exist_ok=True)
            save_file({str(i): np.ascontiguousarray(array) for i, array in enumerate(arrays)}, file)
        self._kept[key] = (rest, file)

    def get(self, key: Key) -> Any:
        """Return a value that was put."""
        rest, kept = self._kept[key]
        if isinstance(kept, Path):
            with disk_errors(kept):
                stored = load_file(kept)
            return _put_arrays(rest, [stored[str(i)] for i in range(len(stored))])
        return _put_arrays(rest, kept)

    def drop(self, key: Key) -> None:
        """Remove a value if it is there."""
        _, kept = self._kept.pop(key, (None, []))
        if isinstance(kept, Path):
            kept.unlink(missing_ok=True)
        else:
            self._in_memory -= sum(array.nbytes for array in kept)


@dataclass(frozen=True)
class _Array:
    """Place of an array in a value.

    Attributes:
        index: Position among the arrays of the value.
        shape: Shape of the array, which a file would not keep for an array without axes.
    """

    index: int
    shape: tuple[int, ...]


def _take_arrays(value: Any, arrays: list[npt.NDArray[Any]]) -> Any:
    if isinstance(value, np.ndarray):
        arrays.append(value)
        return _Array(len(arrays) - 1, value.shape)
    return _rebuilt(value, lambda part: _take_arrays(part, arrays))


def _put_arrays(value: Any, arrays: list[npt.NDArray[Any]]) -> Any:
    if isinstance(value, _Array):
        return arrays[value.index].reshape(value.shape)
    return _rebuilt(value, lambda part: _put_arrays(part, arrays))


def _rebuilt(value: Any, change: Callable[[Any], Any]) -> Any:
    """Return a copy of a value with every part changed. The copies skip the checks of their classes."""
    if isinstance(value, tuple):
        return tuple(change(part) for part in value)
    if isinstance(value, dict):
        return {name: change(part) for name, part in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        copied = copy.copy(value)
        for field in fields(value):
            object.__setattr__(copied, field.name, change(getattr(value, field.name)))
        return copied
    return value


@dataclass(frozen=True)
class KeptFiles:
    """The files of a sample that are read once and then kept until the sample is prepared.

    Attributes:
        files: The files.
        source: Where the sample is kept.
    """

    files: SampleFiles
    source: SampleProvider

    def read(self, colour: Colour = "rgb") -> Sample:
        """Read the sample; raises InputError for files that cannot be used."""
        return self.source.read(self.files, colour)


class SampleProvider:
    """Source of the samples of one training; see `detectors.family.SampleSource`.

    A sample that is prepared is not kept any longer, except in prepared form. Tampered copies of the samples that
    need one are therefore prepared at the same time. `try_read`, `try_prepare` and `try_tamper` return the error of a
    sample that cannot be used, whatever its content.

    Args:
        folder: Folder for what does not fit in memory. Its contents are replaced.
        memory: Bytes that samples may take in memory.
    """

    def __init__(self, folder: Path, *, memory: int = MEMORY_BYTES) -> None:
        self._shelf = ArrayShelf(folder, memory=memory)
        self._settings: Callable[[SampleFiles], Preprocessing] | None = None
        self._tampered: set[Key] = set()
        self._inspection: Preprocessing | None = None
        self._prepare: Prepare | None = None
        self._conditions: dict[Key, Conditions] = {}

    def try_read(self, files: SampleFiles, colour: Colour) -> InputError | None:
        """Read a sample and keep it until it is prepared; return the error if the files cannot be used."""
        key = _read_key(files)
        if key in self._shelf:
            return None
        sample = guarded(_subject(files), partial(files.read, colour))
        if isinstance(sample, InputError):
            return sample
        self._shelf.put(key, sample)
        return None

    def read(self, files: SampleFiles, colour: Colour) -> Sample:
        """Return a sample as it is in its files, and keep it until it is prepared; raises InputError."""
        _raise(self.try_read(files, colour))
        sample: Sample = self._shelf.get(_read_key(files))
        return sample

    def prepare_with(
        self,
        settings: Callable[[SampleFiles], Preprocessing],
        inspection: Preprocessing,
        tampered: Collection[SampleFiles],
        prepare: Prepare = lambda _, sample, settings: prepare_parts(sample, settings),
    ) -> None:
        """Set how samples are prepared. Call once, before the first sample is prepared.

        Args:
            settings: Returns the preprocessing of a sample.
            inspection: Preprocessing of tampered copies.
            tampered: Samples of which a tampered copy is needed.
            prepare: Returns the network inputs of a sample; tampered copies are prepared as for inspection.
        """
        self._settings, self._inspection, self._prepare = settings, inspection, prepare
        self._tampered = {_read_key(files) for files in tampered}

    def preprocessing(self, files: SampleFiles) -> Preprocessing:
        """Return the settings with which a sample is prepared."""
        assert self._settings is not None
        return self._settings(files)

    def conditions(self, files: SampleFiles, inspection: Preprocessing) -> Conditions:
        """Return the recording conditions of a sample; raises InputError for files that cannot be used.

        Args:
            files: Files of a good sample.
            inspection: Preprocessing of inspection.
        """
        name = _name(files)
        if name not in self._conditions:
            self._conditions[name] = conditions_of(self.read(files, inspection.colour), inspection)
        return self._conditions[name]

    def try_prepare(self, files: SampleFiles) -> InputError | None:
        """Prepare a sample and keep the result; return the error if the sample cannot be used."""
        return self._try("prepared", files)

    def try_tamper(self, files: SampleFiles) -> InputError | None:
        """Prepare the tampered copy of a sample and keep the result; return the error if that fails."""
        return self._try("tampered", files)

    def prepared(self, files: SampleFiles) -> Prepared:
        """Return a sample in prepared form; raises InputError for files that cannot be used."""
        return self._get("prepared", files)

    def tampered(self, files: SampleFiles) -> Prepared:
        """Return the tampered copy of a sample in prepared form, see `tamper`; raises InputError."""
        return self._get("tampered", files)

    def _get(self, kind: str, files: SampleFiles) -> Prepared:
        _raise(self._try(kind, files))
        prepared: Prepared = self._shelf.get((kind, *_name(files)))
        return prepared

    def _try(self, kind: str, files: SampleFiles) -> InputError | None:
        """Make what is not kept yet, for all parts of the sample.

        Writing the results is not guarded: a full disk is no fault of the sample.
        """
        name, key = _name(files), _read_key(files)
        if (kind, *name) not in self._shelf:
            settings = self.preprocessing(files)
            if error := self.try_read(files, settings.colour):
                return error
            sample: Sample = self._shelf.get(key)
            self._measure(_name(replace(files, part=0)), sample)
            assert self._prepare is not None
            self._put_parts("prepared", files, settings, partial(self._prepare, files, sample, settings))
            if kind == "tampered" or key in self._tampered:
                self._put_parts("tampered", files, settings, partial(self._prepare_tampered, sample))
            self._shelf.drop(key)
        kept = self._shelf.get((kind, *name))
        return kept if isinstance(kept, InputError) else None

    def _put_parts(
        self, kind: str, files: SampleFiles, settings: Preprocessing, prepare: Callable[[], tuple[Prepared, ...]]
    ) -> None:
        """Keep each part of a sample in prepared form, or for each part the error of the sample."""
        parts = guarded(_subject(files), prepare)
        for part in range(settings.parts):
            value = parts if isinstance(parts, InputError) else parts[part]
            self._shelf.put((kind, *_name(replace(files, part=part))), value)

    def _measure(self, name: Key, sample: Sample) -> None:
        """Keep the recording conditions of a sample. A sample that has none cannot be prepared either."""
        assert self._inspection is not None
        conditions = guarded(sample.name, partial(conditions_of, sample, self._inspection))
        if isinstance(conditions, Conditions):
            self._conditions[name] = conditions

    def _prepare_tampered(self, sample: Sample) -> tuple[Prepared, ...]:
        assert self._inspection is not None
        return prepare_parts(tamper(sample, self._inspection), self._inspection)


def _raise(error: InputError | None) -> None:
    if error is not None:
        raise error


def _subject(files: SampleFiles) -> str:
    return str(files.rgb or files.xyz)


def _name(files: SampleFiles) -> Key:
    """Return the key of a part of a sample. Names are unique within a category only, paths everywhere."""
    return (files.name, str(files.rgb), str(files.xyz), str(files.part))


def _read_key(files: SampleFiles) -> Key:
    """Return the key of a sample as it was read, which is the same for all its parts."""
    return ("read", *_name(replace(files, part=0)))
