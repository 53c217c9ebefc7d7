"""A feature store for one machine: features are computed once and shared by all trainings, also at the same time.

Each entry is one safetensors file named by its key (see `keys`). Reads map the file into memory. The store has a
limited size: the entries that were used longest ago are removed first, except for entries that a running training
uses. A training announces the entries that it uses in a file that it keeps locked; the operating system releases the
lock when the process ends, however it ends.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError

from cmdiad_runtime.errors import OutputError, RunError
from cmdiad_runtime.support.cache import cache_folder
from cmdiad_runtime.support.reporter import SILENT, Reporter
from cmdiad_train.features.entry import HEADER_BYTES, Stored, load_entry, save_entry, size_of
from cmdiad_train.features.usage import Usage, used_keys

__all__ = ["FeatureStore", "StoreCounts", "Stored", "default_folder"]

"""Default size of the store in gigabytes (1e9 bytes)."""


def default_folder() -> Path | None:
    """Return the store's folder in the user's cache, or None if there is no place for a cache.

    Raises:
        OutputError: The variable `CMDIAD_CACHE` names a folder that cannot be used.
    """
    folder = cache_folder()
    return None if folder is None else folder / "features"


@dataclass
class StoreCounts:
    """Counts of what one training did with the store.

    Attributes:
        hits: Samples whose features were read from the store.
        misses: Samples whose features were computed.
        bytes_read: Size of the entries that were read.
        bytes_written: Size of the entries that were written.
        removed: Entries that were removed to make room.
    """

    hits: int = 0
    misses: int = 0
    bytes_read: int = 0
    bytes_written: int = 0
    removed: int = 0


class FeatureStore:
    """The feature store as one training sees it.

    Several processes may use the same folder at the same time. Where the folder cannot be written to or the disk is
    full, everything works without the store: features stay in memory, and the reporter receives one line about it.
    The same holds for new features while other trainings use all entries of a full store.

    Args:
        folder: Folder of the store, created if needed; None keeps nothing.
        budget: Largest size of the whole store in bytes.
        reporter: Receiver of the line that the store cannot be used.

    Attributes:
        counts: What this training did with the store.
    """

    def __init__(self, folder: Path | None, *, budget: int, reporter: Reporter = SILENT) -> None:
        self.folder, self.budget = folder, budget
        self.counts = StoreCounts()
        self._reporter = reporter
        self._planned: dict[str, int] = {}
        self._keys: dict[str, set[str]] = {}
        self._verified: set[str] = set()
        self._usage: Usage | None = None
        self._unusable = ""
        self._crowded = False
        self._open()

    def __enter__(self) -> FeatureStore:
        """Return the store itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Release all entries."""
        self.close()

    def get(self, kind: str, key: str, samples: int, make: Callable[[], Stored]) -> Stored:
        """Return the features of a sample: from the store, else from `make`, whose result is stored.

        A damaged entry counts as missing and is written again.

        Args:
            kind: Name of the group of entries, such as a modality; see `release`.
            key: Key of the entry, from `keys.feature_key`.
            samples: Number of samples of this kind; with the size of the first one it predicts the size of all.
            make: Computes the features. Called only if the store does not have them.

        Returns:
            Tensors on the CPU.

        Raises:
            RunError: The features of all samples of this training exceed the budget.
        """
        stored = self._read(kind, key)
        if stored is not None:
            self.counts.hits += 1
            self.counts.bytes_read += size_of(stored)
            self._plan(kind, size_of(stored) * samples)
            return stored
        self.counts.misses += 1
        made = {name: tensor.detach().cpu().contiguous() for name, tensor in make().items()}
        self._plan(kind, size_of(made) * samples)
        return self._write(kind, key, made)

    def has(self, key: str) -> bool:
        """Return True if the store has an entry for this key. The entry may turn out to be damaged when it is read."""
        return not self._unusable and self._file(key).is_file()

    def release(self, kind: str) -> None:
        """Declare that this training no longer needs the entries of a kind, so that they may be removed for room."""
        self._planned.pop(kind, None)
        self._keys.pop(kind, None)
        if self._usage is not None:
            kept = {key for keys in self._keys.values() for key in keys}
            with self._guarded(), self._lock(exclusive=True):
                self._usage.replace(kept)

    def close(self) -> None:
        """Release all entries. Idempotent; also happens when the process ends."""
        self._planned.clear()
        self._keys.clear()
        if self._usage is not None:
            self._usage.close()
            self._usage = None

    def summary(self) -> str:
        """Return one line about what this training did with the store."""
        counts = self.counts
        where = f" ({self.folder})" if not self._unusable else ""
        return (
            f"feature store{where}: {counts.hits} of {counts.hits + counts.misses} features reused "
            f"({counts.bytes_read / 1e6:.1f} MB), {counts.bytes_written / 1e6:.1f} MB written"
        )

    def _open(self) -> None:
        if self.folder is None:
            self._give_up("there is no cache folder that can be written to")
            return
        with self._guarded():
            for folder in (self.folder, self.folder / "users"):
                folder.mkdir(parents=True, exist_ok=True)
            with self._lock(exclusive=True):
                self._usage = Usage(self.folder / "users")
                self._save_total(self._scan()[1])

    def _file(self, key: str) -> Path:
        assert self.folder is not None
        return self.folder / key[:2] / f"{key}.safetensors"

    def _read(self, kind: str, key: str) -> Stored | None:
        """Return an entry and announce its use, or return None if it is missing or damaged."""
        if self._unusable:
            return None
        file, stored = self._file(key), None
        with self._guarded(), self._lock(exclusive=False):
            if not file.is_file():
                return None
            self._announce(kind, key)
            stored = load_entry(file, verify=key not in self._verified)
            if stored is not None:
                with suppress(PermissionError):  # an entry that another user has written
                    os.utime(file)
                self._verified.add(key)
        return stored

    def _write(self, kind: str, key: str, tensors: Stored) -> Stored:
        """Store an entry if possible and return its tensors, mapped from the file where it was stored.

        The lock is held during the whole write, so the store never exceeds its budget, and a temporary file that
        another process finds under the lock always belongs to a killed process.
        """
        if self._unusable or self._crowded:
            return tensors
        with self._guarded(), self._lock(exclusive=True):
            file = self._file(key)
            file.unlink(missing_ok=True)  # damaged, or written by another training meanwhile
            total = self._make_room(size_of(tensors) + HEADER_BYTES)
            if total is None:
                self._crowded = True
                self._say_why(f"running trainings use all of its {self.budget / 1e9:.3g} GB")
                return tensors
            self._announce(kind, key)
            file.parent.mkdir(exist_ok=True)
            stored = save_entry(file, tensors)
            self._save_total(total + file.stat().st_size)
            self.counts.bytes_written += size_of(tensors)
            self._verified.add(key)
            return stored
        return tensors

    def _plan(self, kind: str, needed: int) -> None:
        """Check the predicted size of all entries of this training against the budget, once per kind."""
        if self._unusable or kind in self._planned:
            return
        self._planned[kind] = needed
        total = sum(self._planned.values())
        assert self.folder is not None
        if total > self.budget:
            raise RunError(
                self.folder,
                found=f"features of this training that need {total / 1e9:.3g} GB",
                expected=f"at most the {self.budget / 1e9:.3g} GB of the feature store",
                action="Raise --cache-gb, or train on fewer samples",
            )

    def _announce(self, kind: str, key: str) -> None:
        self._keys.setdefault(kind, set()).add(key)
        if self._usage is not None:
            self._usage.add(key)

    def _make_room(self, needed: int) -> int | None:
        """Remove entries if an entry would exceed the budget. Return the size of the store, or None without room.

        Raises:
            OSError: The disk has less free space than the entry needs.
        """
        assert self.folder is not None
        total = self._total()
        if total + needed > self.budget:
            total = self._remove_unused(self.budget - needed)
        if total + needed > self.budget:
            return None
        if shutil.disk_usage(self.folder).free < needed + HEADER_BYTES:
            raise OSError(f"the disk of {self.folder} is full")
        return total

    def _remove_unused(self, wanted_total: int) -> int:
        """Remove entries that no training uses, least recently used first. Return the size that is left."""
        assert self.folder is not None
        entries, total = self._scan()
        used = used_keys(self.folder / "users")
        for _, size, file in sorted(entries):
            if total <= wanted_total:
                break
            if file.stem not in used:
                file.unlink(missing_ok=True)
                total -= size
                self.counts.removed += 1
        return total

    def _scan(self) -> tuple[list[tuple[int, int, Path]], int]:
        """Return modification time, size and path of every entry, and their total size.

        Temporary files are removed: under the exclusive lock they belong to processes that were killed.
        """
        assert self.folder is not None
        entries = []
        for file in self.folder.glob("??/*"):
            if file.name.startswith("."):  # also those that the package safetensors writes first
                file.unlink(missing_ok=True)
            elif file.suffix == ".safetensors":
                status = file.stat()
                entries.append((status.st_mtime_ns, status.st_size, file))
        return entries, sum(size for _, size, _ in entries)

    def _total(self) -> int:
        assert self.folder is not None
        try:
            return int((self.folder / "size").read_text())
        except (OSError, ValueError):  # missing or damaged
            return self._scan()[1]

    def _save_total(self, total: int) -> None:
        """Keep the store's size; after a crash the next start or removal counts again."""
        assert self.folder is not None
        (self.folder / "size").write_text(str(total))

    @contextmanager
    def _lock(self, *, exclusive: bool) -> Iterator[None]:
        """Hold the lock of the whole store, shared for reading and exclusive for changing what is in use."""
        assert self.folder is not None
        with (self.folder / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH)
            yield

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Continue without the store if the block cannot read or write the store's files."""
        try:
            yield
        except OutputError as error:
            self._give_up(error.found)
        except OSError as error:
            self._give_up(error.strerror or str(error))
        except SafetensorError as error:  # also reports a full disk
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        if not self._unusable:
            self._unusable = reason
            self._say_why(reason)

    def _say_why(self, reason: str) -> None:
        where = self.folder or "user cache"
        self._reporter.say(f"The feature store ({where}) cannot keep features: {reason}. Training continues without.")
