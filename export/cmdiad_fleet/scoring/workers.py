"""`Workers`, the interface of the driver to its workers: processes of this machine, or actors of a Ray cluster.

A worker opens the bundle, scores one shard after the other, and may die at any moment. Starting a worker and sending a
shard return at once; `wait` returns what has happened since.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from cmdiad_fleet.scoring.replies import Reply
from cmdiad_fleet.scoring.scorer import Ending, Endings
from cmdiad_fleet.scoring.shards import Shard


@dataclass(frozen=True)
class Event:
    """Message from a worker, or its end.

    Attributes:
        worker: Number of the worker.
        news: Reply of the worker, or the cause of its end.
    """

    worker: int
    news: Reply | Ending


class Workers(Protocol):
    """Workers of one kind."""

    @property
    def cores(self) -> int:
        """Return the number of cores for workers: that of this machine, or of the cluster."""

    def start(self) -> int:
        """Start a worker and return its number, which is not used again. Its first answer is "ready" or "refused"."""

    def send(self, worker: int, shard: Shard, endings: Endings) -> None:
        """Send a shard to a worker that has answered everything."""

    def wait(self, seconds: float) -> Sequence[Event]:
        """Return the news of all workers; wait for the first one up to a time. An ended worker is removed."""

    def stop(self, worker: int) -> None:
        """End a worker, whatever it does."""

    def close(self) -> None:
        """End all workers. Idempotent."""
