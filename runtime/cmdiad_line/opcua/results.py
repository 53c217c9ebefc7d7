"""The newest results in memory, for GetResultById, GetResultListFiltered and the handles of clients."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice

from cmdiad_line.transport.messages import Result

LARGEST_HANDLE = (1 << 32) - 1


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A result as the OPC UA clients see it.

    Attributes:
        result: Result of the station.
        job_id: Id of the job that the part belongs to.
    """

    result: Result
    job_id: str

    @property
    def result_id(self) -> str:
        """Return the id of the result, which is the acquisition id of the part."""
        return str(self.result.acquisition_id)

    @property
    def result_state(self) -> int:
        """Return the ResultState of OPC 40100-1: 1 completed, 3 aborted, 4 failed (the part was not inspected)."""
        if self.result.score is not None:
            return 1
        return 3 if self.result.reason == "aborted" else 4


@dataclass(frozen=True, kw_only=True)
class ResultFilter:
    """Filter of GetResultListFiltered. An empty field accepts every result.

    Attributes:
        result_state: ResultState, or 0.
        meas_id: Id of the measurement.
        part_id: Id of the part.
        job_id: Id of the job.
        recipe_id: Id of the recipe.
        configuration_id: Digest of the bundle.
    """

    result_state: int = 0
    meas_id: str = ""
    part_id: str = ""
    job_id: str = ""
    recipe_id: str = ""
    configuration_id: str = ""

    def accepts(self, entry: Entry) -> bool:
        """Return True if the filter accepts a result."""
        pairs = (
            (self.result_state, entry.result_state),
            (self.meas_id, entry.result.meas_id),
            (self.part_id, entry.result.part_id),
            (self.job_id, entry.job_id),
            (self.recipe_id, entry.result.recipe_id),
            (self.configuration_id, entry.result.bundle_digest),
        )
        return all(not expected or expected == value for expected, value in pairs)


@dataclass
class ResultStore:
    """The newest results and the handles of clients, both bounded. The oldest are forgotten first.

    Attributes:
        keep: Number of results, and of handles.
    """

    keep: int
    _entries: OrderedDict[str, Entry] = field(default_factory=OrderedDict)
    _handles: OrderedDict[int, None] = field(default_factory=OrderedDict)
    _last_handle: int = 0

    def add(self, entry: Entry) -> bool:
        """Store a result. Return False for one that is known already, which a restarted station may send again."""
        if entry.result_id in self._entries:
            return False
        self._entries[entry.result_id] = entry
        while len(self._entries) > self.keep:
            self._entries.popitem(last=False)
        return True

    def get(self, result_id: str) -> Entry | None:
        """Return a result by its id, or None."""
        return self._entries.get(result_id)

    def select(self, rule: ResultFilter, start: int, limit: int) -> tuple[list[Entry], bool]:
        """Return accepted results, oldest first, and True if there are no more.

        Args:
            rule: Filter.
            start: Number of accepted results to skip.
            limit: Largest number of results.
        """
        accepted: Iterator[Entry] = filter(rule.accepts, self._entries.values())
        page = list(islice(accepted, start, start + limit))
        return page, next(accepted, None) is None

    def new_handle(self) -> int:
        """Return a new handle, which stays valid until it is released or `keep` newer ones exist."""
        self._last_handle = self._last_handle % LARGEST_HANDLE + 1
        self._handles[self._last_handle] = None
        while len(self._handles) > self.keep:
            self._handles.popitem(last=False)
        return self._last_handle

    def release(self, handle: int) -> bool:
        """Forget a handle. Return False if there is no such handle."""
        known = handle in self._handles
        self._handles.pop(handle, None)
        return known
