"""Watch a folder: yield each sample once all files of the sample are complete.

The folder is listed again and again, because notifications of the system do not reach network drives. A file is
complete when size and time of change have stayed the same for the settle time and the file can be opened. Nothing is
guessed: a sample that is not complete in time becomes NG with a reason. A camera may use a name again, so an image or
cloud that was in an earlier sample, complete or not, completes no other: the other new file has not arrived yet.

Memory does not grow with the number of files in the folder: at most MOST_PENDING incomplete samples are tracked at
the same time (others follow later), and finished ones are remembered as eight bytes each and eight more for each of
several files, or as their names until they are moved.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from threading import Event

from cmdiad_runtime.errors import InputError
from cmdiad_runtime.inspection.arrived import PAIR, Arrived, FileState
from cmdiad_runtime.inspection.digest_set import DigestSet
from cmdiad_runtime.inspection.inputs import several_files
from cmdiad_runtime.inspection.stored_results import InspectedFiles
from cmdiad_runtime.inspection.watched_folder import FolderAwayError, KnownFiles, ListedSample, list_samples
from cmdiad_runtime.names import Modality
from cmdiad_runtime.printable import cause_of, printable
from cmdiad_runtime.reasons import Reason
from cmdiad_runtime.support.regular_file import NotAFileError, open_regular

MOST_PENDING = 4096
"""Largest number of incomplete samples that are tracked at the same time."""
_LONGEST_PAUSE_S = 1.0
_SHORTEST_PAUSE_S = 0.05
_REST = 3
"""Pause after a search as a multiple of the duration, so that a huge folder does not slow the inspection down."""


@dataclass(frozen=True, kw_only=True)
class WatchOptions:
    """Choices for a watched folder.

    Attributes:
        settle_s: Seconds without a change after which a file is complete; 0 if files appear under their names whole.
        limit_s: Seconds within which a sample must be complete.
        excluded: Folders below the watched one that contain no inputs, such as those of inspected files.
        moves: True if inspected files leave the folder, so that every file in the folder is to be inspected.
        image_modality: Name of the image, which names the folders of images.
    """

    settle_s: float = 2.0
    limit_s: float = 60.0
    excluded: tuple[Path, ...] = ()
    moves: bool = False
    image_modality: str = "rgb"


@dataclass
class _Pending:
    """An incomplete sample.

    Attributes:
        sample: Files as they were last seen.
        first: Time at which the sample was first seen, seconds.
        since: Time of the last change, seconds.
        search: Number of the search that has last seen the sample.
    """

    sample: ListedSample
    first: float
    since: float
    search: int


class FolderWatch:
    """A watched folder; iterate in a separate thread (`Arrivals`), because a network drive may not answer for minutes.

    Args:
        folder: Folder to watch, with all folders below.
        modalities: Modalities that a sample must have.
        options: Choices.
        say: Receiver of messages.
        inspected: Files of earlier results. If inspected files leave the folder, the finished samples do not count.
        clock: Clock in seconds.
    """

    def __init__(
        self,
        folder: Path,
        modalities: Sequence[Modality],
        options: WatchOptions,
        say: Callable[[str], None],
        *,
        inspected: InspectedFiles | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._modalities = modalities
        self._options = options
        self._excluded = [path.resolve() for path in options.excluded]
        self._say = say
        self._seen, self._earlier = inspected or InspectedFiles(DigestSet(), DigestSet())
        self._clock = clock
        self._pending: dict[Path, _Pending] = {}
        self._in_work: set[str] = set()
        self._said: set[str] = set()
        self._searches = 0
        self._blocked = 0.0
        self._away_since: float | None = None
        self._closed = Event()

    def __iter__(self) -> Iterator[Arrived]:
        """Yield samples until `close` is called."""
        pause = min(max(self._options.settle_s / 2, _SHORTEST_PAUSE_S), _LONGEST_PAUSE_S)
        while not self._closed.is_set():
            start = self._clock()
            yield from self.search()
            self._closed.wait(max(pause, _REST * (self._clock() - start)))

    def search(self) -> Iterator[Arrived]:
        """List the folder once; yield the samples that are complete, and those that are late, sorted by name."""
        now = self._clock() - self._blocked
        self._searches += 1
        try:
            samples = list_samples(
                self._folder,
                self._modalities,
                self._excluded,
                KnownFiles(self._is_finished, self._is_earlier),
                self._say_once,
                self._options.image_modality,
            )
            for sample in samples:
                self._note(sample, now)
        except FolderAwayError as error:
            self._report_away(error)
            return
        self._report_back()
        self._pending = {path: seen for path, seen in self._pending.items() if seen.search == self._searches}
        for path in sorted(self._pending):
            arrived = self._arrived(self._pending[path], now)
            if arrived is None:
                continue
            foreign = self._pending.pop(path).sample.foreign
            self._remember(arrived)
            if not foreign:
                before = self._clock()
                yield arrived
                self._blocked += self._clock() - before  # No file is late because the inspection is.

    def release(self, arrived: Arrived) -> None:
        """Forget an inspected sample that has left the folder: files that return are inspected again.

        A file that has stayed completes no other sample.
        """
        self._in_work.discard(arrived.key)
        for file, key in zip(arrived.files * 2, arrived.file_keys, strict=False):
            if FileState.of(file.path) != file:
                self._in_work.discard(key)

    def close(self) -> None:
        """End the iteration."""
        self._closed.set()

    def _note(self, sample: ListedSample, now: float) -> None:
        """Track a sample, and the time since its last change."""
        pending = self._pending.get(sample.path)
        if pending is None:
            if len(self._pending) < MOST_PENDING:
                self._pending[sample.path] = _Pending(sample, now, now, self._searches)
            return
        if pending.sample != sample:
            pending.sample, pending.since = sample, now
        pending.search = self._searches

    def _is_finished(self, key: str) -> bool:
        return key in (self._in_work if self._options.moves else self._seen)

    def _is_earlier(self, key: str) -> bool:
        return key in self._earlier or key in self._in_work

    def _remember(self, arrived: Arrived) -> None:
        finished = self._in_work if self._options.moves else self._seen
        finished.add(arrived.key)
        if len(self._modalities) > 1:
            for key in arrived.file_keys:
                finished.add(key)
                if not self._options.moves:
                    self._earlier.add(key)

    def _earlier_file(self, sample: ListedSample) -> str:
        """Return the file of a new pair that was in an earlier sample, "image" or "cloud", or ""."""
        arrived = Arrived(sample.path, sample.files)
        if len(sample.files) == 1:
            return ""
        if arrived.key in self._earlier:  # The same pair, which another bundle has inspected, or which was moved back.
            return ""
        files = zip(PAIR, arrived.file_keys, strict=True)
        return next((name for name, key in files if self._is_earlier(key)), "")

    def _arrived(self, pending: _Pending, now: float) -> Arrived | None:
        """Return the sample if it is complete, or with a refusal if it is late; else None."""
        sample = pending.sample
        settled = now - pending.since >= self._options.settle_s
        problem = _problem(sample, self._earlier_file(sample), settled=settled)
        files = sample.files + sample.others
        if problem is None:
            several = several_files(sample.path, [file.path for file in files[1:]]) if sample.others else None
            return Arrived(sample.path, files, several)
        if now - pending.first < self._options.limit_s:
            return None
        reason, text = problem
        refusal = InputError(
            sample.path,
            found=f"{text}, {self._options.limit_s:g} s after the file was first seen",
            expected="all files of a sample, complete, within the time of --arrival-timeout",
            action="check the program that writes the files, or raise --arrival-timeout",
            reason=reason,
        )
        return Arrived(sample.path, files, refusal)

    def _report_away(self, error: FolderAwayError) -> None:
        """Report once that the folder cannot be listed. Files count as new when the folder is back."""
        self._pending.clear()
        if self._away_since is None:
            self._away_since = self._clock()
            self._say(f"warning: {printable(self._folder)} cannot be listed ({cause_of(error)}); retried until it can")

    def _report_back(self) -> None:
        if self._away_since is not None:
            self._say(f"{printable(self._folder)} is back after {self._clock() - self._away_since:.0f} s")
            self._away_since = None

    def _say_once(self, subject: str, line: str) -> None:
        if subject not in self._said:
            self._said.add(subject)
            self._say(line)


def _problem(sample: ListedSample, earlier: str, *, settled: bool) -> tuple[Reason, str] | None:
    """Return reason and text of what keeps a sample from being complete, or None.

    Args:
        sample: Files as they were last seen.
        earlier: File that was in an earlier sample, "image" or "cloud", or "".
        settled: True if no file has changed for the settle time.
    """
    if sample.missing:
        return "missing-modality", f"no {sample.missing} that belongs to the file"
    if earlier:
        return "missing-modality", f"no new {earlier}, but the {earlier} of an earlier sample with the same name"
    if not settled:
        return "timeout", "a file that still changes"
    try:
        for file in sample.files:
            open_regular(file.path, follow=True).close()
    except NotAFileError:  # A pipe or device, which the reader refuses by name.
        return None
    except OSError as error:
        return "unreadable", f"a file that cannot be opened ({cause_of(error)})"
    return None
